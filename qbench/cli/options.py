"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qbench.files import expanded

SuiteFile = Annotated[
    Path,
    typer.Argument(
        metavar="SUITE",
        parser=expanded,
        help="A suite file, such as suites/digits_start.yaml, or the name of an installed suite.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the suite: seeds=[0], recipe.epochs=5 or "
        "methods.quantization_networks.temperature_rate=10. Repeatable.",
    ),
]
MethodFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--methods",
        metavar="FILE.py",
        parser=expanded,
        help="Add the methods that this Python file defines. Repeatable.",
    ),
]
Results = Annotated[
    Path,
    typer.Option(
        "--results",
        metavar="DIR",
        parser=expanded,
        envvar="QBENCH_RESULTS",
        help="Folder for the tables, the figures and the store (unless MLFLOW_TRACKING_URI names "
        "another store).",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of a running Ray cluster. By default, trials run on this machine.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

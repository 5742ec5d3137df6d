"""Arguments and options that several verbs share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qbench.files import expanded

if TYPE_CHECKING:
    from qbench.plugins import Plugin

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


def _files_of(kind: str, help_text: str) -> Any:
    """Return the option that names Python files of methods, models or datasets."""
    return typer.Option(f"--{kind}", metavar="FILE.py", parser=expanded, help=help_text)


MethodFiles = Annotated[
    list[Path] | None,
    _files_of("methods", "Add the methods that this Python file defines. Repeatable."),
]
ModelFiles = Annotated[
    list[Path] | None,
    _files_of("models", "Add the models that this Python file defines. Repeatable."),
]
DatasetFiles = Annotated[
    list[Path] | None,
    _files_of(
        "datasets",
        "Add the datasets that this Python file defines. Repeatable.",
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


def plugin_files(
    methods: Sequence[Path] | None = None,
    models: Sequence[Path] | None = None,
    datasets: Sequence[Path] | None = None,
) -> list[Plugin]:
    """Read the Python files that a command names.

    Args:
        methods: Files of ``--methods``.
        models: Files of ``--models``.
        datasets: Files of ``--datasets``.

    Raises:
        QbenchError: A file cannot be read.
    """
    from qbench.plugins import Plugin

    return [
        *(Plugin.read(file, "models") for file in models or ()),
        *(Plugin.read(file, "datasets") for file in datasets or ()),
        *(Plugin.read(file, "methods") for file in methods or ()),
    ]

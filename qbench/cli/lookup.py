"""The verbs that look something up: `qbench list`, `show` and `schema`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from qbench.cli.options import (
    AsJson,
    DatasetFiles,
    MethodFiles,
    ModelFiles,
    Results,
    plugin_files,
)
from qbench.errors import QbenchError, nearest
from qbench.files import expanded

_KINDS = ("methods", "models", "datasets", "suites")


def list_(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="methods, models, datasets or suites.")
    ],
    as_json: AsJson = False,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
) -> None:
    """List the methods, models, datasets or suites."""
    from qbench.cli import catalogue

    if kind not in _KINDS:
        raise QbenchError(f"list {kind}: nothing of this kind is listed{nearest(kind, _KINDS)}")
    problems: list[str] = []
    rows = catalogue.rows(kind, plugin_files(methods, models, datasets), problems)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        catalogue.show(rows)
    for problem in problems:
        print(f"Not listed: {problem}", file=sys.stderr)


def show(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="Key of a trial as `plan --json` prints it, or its first digits."
        ),
    ],
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=expanded,
            help="Write figures of its training, its weights and its quantization function to this "
            "folder.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one recorded trial: settings, results and environment.

    Also prints its audit, how many distinct values each quantized tensor has, and whether the
    result is stale: edited by hand, or of a method that has changed.
    """
    from qbench.cli import catalogue
    from qbench.plugins import load_plugin

    for plugin in plugin_files(methods, models, datasets):
        load_plugin(plugin)
    record = catalogue.trial(key, results)
    if figures is not None:
        drawn, problems = catalogue.draw(key, results, figures)
        record["figures"] = [str(path) for path in drawn]
        for problem in problems:
            print(f"Not made: {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        catalogue.show_trial(record)


def schema() -> None:
    """Print the JSON schema of suite files, for editors.

    An editor that knows the schema completes and checks suites.
    """
    from qbench.suite.schema import suite_schema

    print(json.dumps(suite_schema(), indent=2, ensure_ascii=False))

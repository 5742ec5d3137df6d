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
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="Key of a trial as `plan --json` prints it, or its first digits. Or a model and "
            "its pretrained weights, MODEL:WEIGHTS: `resnet18:torchvision`, "
            "`resnet50:torchvision:IMAGENET1K_V1`, or those of a file, `resnet18:float.pt`.",
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
            help="Write figures to this folder: of a trial, its training, its weights and its "
            "quantization function; of pretrained weights, their distribution in each layer, with "
            "the levels and thresholds that Quantization Networks starts with.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one recorded trial, or pretrained weights before any training.

    Of a trial: its settings, results and environment, its audit, how many distinct values each
    quantized tensor has, the command that reproduces it, and whether the result is stale: edited by
    hand, or of a method that has changed. A trial that the store lacks is read from the file
    trials.jsonl.gz of a suite in the results folder. Of pretrained weights: how many layers and
    parameters are quantized. These need neither a suite nor a trial; weights of torchvision are
    downloaded unless they are there.
    """
    from qbench.plugins import load_plugin

    for plugin in plugin_files(methods, models, datasets):
        load_plugin(plugin)
    model, colon, weights = what.partition(":")
    if colon:
        _show_pretrained(model, weights, figures, as_json)
    else:
        _show_trial(what, results, figures, as_json)


def _show_trial(key: str, results: Path, figures: Path | None, as_json: bool) -> None:
    from qbench.cli import record as records

    record = records.trial(key, results)
    if figures is not None:
        drawn, problems = records.draw(key, results, figures)
        record["figures"] = [str(path) for path in drawn]
        for problem in problems:
            print(f"Not made: {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        records.show_trial(record)


def _show_pretrained(model: str, weights: str, figures: Path | None, as_json: bool) -> None:
    from rich.console import Console

    if not (model and weights):
        raise QbenchError(
            f"show {model}:{weights}: write MODEL:WEIGHTS, as in resnet18:torchvision or "
            "resnet18:float.pt"
        )
    from qbench.cli import pretrained

    with Console(stderr=True).status(f"Reading weights of {model} …"):
        record = pretrained.look_up(model, weights, figures)
    if as_json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        pretrained.show(record)


def schema() -> None:
    """Print the JSON schema of suite files, for editors.

    An editor that knows the schema completes and checks suites.
    """
    from qbench.suite.schema import suite_schema

    print(json.dumps(suite_schema(), indent=2, ensure_ascii=False))

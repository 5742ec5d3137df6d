"""The verb that writes trained networks to files for other programs: `qbench deploy`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qbench.cli.options import (
    AsJson,
    Assignments,
    DatasetFiles,
    MethodFiles,
    ModelFiles,
    Results,
    plugin_files,
)
from qbench.errors import QbenchError, nearest
from qbench.files import expanded, resolved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.deployment.trials import Deployment
    from qbench.plugins import Plugin
    from qbench.store.mlflow import Store
    from qbench.store.run import Run

_FORMATS = ("packed", "onnx")
_STYLES = {"green": "green", "red": "red", "refused": "yellow"}


def deploy(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="Key of a finished trial as `plan --json` prints it, or its first digits. Or a "
            "suite: all of its finished trials.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="packed: codes of k bits and the numbers of their levels, in one safetensors file "
            "that qbench.load_packed reads. onnx: an ONNX model with integer weights, which is run "
            "in onnxruntime.",
        ),
    ] = "packed",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=expanded,
            help="Folder to write to; it is made if needed. Default: `deployed` in the folder of "
            "results.",
        ),
    ] = None,
    assignments: Assignments = None,
    methods: MethodFiles = None,
    models: ModelFiles = None,
    datasets: DatasetFiles = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Write trained networks to files for other programs, and prove that they are the same.

    Each file is executed on the whole test split and compared with the predictions that its trial
    recorded. Exit code 0: every file is the network that was measured, or the format cannot express
    it and the reason is printed. 1: a file is another network. 2: a trial or an option is unknown.
    """
    from qbench.deployment.trials import deploy_finished, load_finished

    if to not in _FORMATS:
        raise QbenchError(f"--to {to}: no such format{nearest(to, _FORMATS)}")
    folder = resolved(results) / "deployed" if out is None else out
    plugins = plugin_files(methods, models, datasets)
    found = []
    for store, run, data in _runs(what, results, assignments or (), plugins):
        each = deploy_finished(load_finished(store, run, data), to, folder)
        found.append(each)
        if not as_json:
            _show(each)
    if as_json:
        print(json.dumps([each.model_dump() for each in found], indent=2, ensure_ascii=False))
    raise typer.Exit(int(any(each.status == "red" for each in found)))


def _runs(
    what: str, results: Path, assignments: Sequence[str], plugins: Sequence[Plugin]
) -> Iterator[tuple[Store, Run, Mapping[str, Any]]]:
    """Yield the finished runs of a key or a suite, with the options of their data."""
    from qbench.benchmark.benchmark import Benchmark
    from qbench.cli import record
    from qbench.plugins import load_plugin

    if record.is_key(what):
        if assignments:
            raise QbenchError("--set changes a suite, and a key names one trial")
        for plugin in plugins:
            load_plugin(plugin)
        found = record.find(what, results)
        yield found.store, found.run, {}
        return
    benchmark = Benchmark.open(expanded(what), results, assignments, plugins)
    done = [each for each in benchmark.planned if benchmark.status(each) == "done"]
    if not done:
        raise QbenchError(f"{benchmark.suite.name} has no finished trial: run it first")
    for each in done:
        yield benchmark.store, benchmark.runs[each.trial.key], benchmark.suite.data


def _show(found: Deployment) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(
        Text.assemble((found.status, _STYLES[found.status]), f"  {found.name} ({found.key})")
    )
    lines = [found.reason, *found.notes]
    if found.bytes:
        parts = ", ".join(f"{name} {size}" for name, size in found.bytes.items() if name != "file")
        lines.append(f"{found.file}: {found.bytes['file']} bytes ({parts})")
    for name, top1 in found.top1.items():
        flips = f", {found.flips[name]} of {found.images} flipped" if found.flips else ""
        lines.append(
            f"{name}: top-1 {top1:.2f} %{flips}, logits within {found.difference[name]:.2g}"
        )
    for line in filter(None, lines):
        console.print(f"  {line}", markup=False, soft_wrap=True)

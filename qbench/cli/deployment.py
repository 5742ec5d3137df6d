"""The verb that writes trained networks to files for other programs: `qbench deploy`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from qbench.errors import QbenchError
from qbench.files import expanded, resolved

if TYPE_CHECKING:
    from rich.console import Console

    from qbench.deployment.trials import Deployment

_STYLES = {"green": "green", "red": "red", "refused": "yellow"}


def deploy(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="WHAT",
            parser=expanded,
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
            "in onnxruntime. qonnx: a model for FINN and hls4ml, which is run in qonnx's executor.",
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
    fold_batch_norm: Annotated[
        bool,
        typer.Option(
            "--fold-batch-norm",
            help="Fold batch normalization into the scales and biases of an ONNX model. Integer "
            "weights stay as they are. The change in accuracy is reported.",
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="Compare the layers of an ONNX model on integers too: no code of an activation "
            "and no sum of products may differ.",
        ),
    ] = False,
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
    from rich.console import Console

    from qbench.benchmark.labels import data_options
    from qbench.cli import record
    from qbench.deployment.deploy import check_format
    from qbench.deployment.trials import deploy_finished, load_finished

    check_format(to, fold_batch_norm, exact)
    folder = resolved(results) / "deployed" if out is None else out
    plugins = plugin_files(methods, models, datasets)
    if assignments and record.is_key(what):
        raise QbenchError("--set changes a suite, and a key names one trial")
    trials = record.choose(what, results, assignments, plugins, from_file=False)
    if not trials.runs:
        raise QbenchError(f"{what} has no finished trial: run it first")
    found = []
    for run in trials.runs:
        data = trials.data
        if data is None:  # of a key
            trial = trials.store.trial(run)
            data = data_options(trial.dataset, trial.data)
        finished = load_finished(trials.store, run, data)
        each = deploy_finished(finished, to, folder, fold_batch_norm, exact)
        found.append(each)
        if not as_json:
            show(Console(highlight=False), each)
    if as_json:
        print(json.dumps([each.model_dump() for each in found], indent=2, ensure_ascii=False))
    raise typer.Exit(int(any(each.status == "red" for each in found)))


def show(console: Console, found: Deployment) -> None:
    """Print what became of a trial.

    Args:
        console: The console.
        found: The result.
    """
    from rich.text import Text

    console.print(
        Text.assemble((found.status, _STYLES[found.status]), f"  {found.name} ({found.key})")
    )
    lines = [found.reason, *found.notes]
    if found.bytes:
        parts = [f"{name} {size}" for name, size in found.bytes.items() if name != "file"]
        of = f" ({', '.join(parts)})" if parts else ""
        lines.append(f"{found.file}: {found.bytes['file']} bytes{of}")
    for name, top1 in found.top1.items():
        flips = f", {found.flips[name]} of {found.images} flipped" if found.flips else ""
        lines.append(
            f"{name}: top-1 {top1:.2f} %{flips}, logits within {found.difference[name]:.2g}"
        )
    for each in found.speed:
        threads = "1 thread" if each.threads == 1 else f"{each.threads} threads"
        lines.append(
            f"{threads}: {each.latency:.3g} ms an image, {each.ratio:.2f} × full precision; "
            f"{each.throughput:.0f} images/s, full precision {each.fp32_throughput:.0f}"
        )
    for line in filter(None, lines):
        console.print(f"  {line}", markup=False, soft_wrap=True)

"""Print a plan: which trials are done, which a run would train, and what these take."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.estimate import Estimator
from qbench.cli.words import duration, rounded, size
from qbench.spec.bits import BitWidths
from qbench.spec.placement import LAYER_INPUTS
from qbench.spec.trial import FP32
from qbench.spec.words import counted
from qbench.suite import halving
from qbench.suite.grid import PlannedTrial
from qbench.suite.tuning import Tuning

_WIDEST = 1000


def as_json(benchmark: Benchmark) -> dict[str, Any]:
    """Return the plan as plain values: totals, and an entry for each trial.

    Args:
        benchmark: The benchmark.

    Returns:
        ``{"suite": …, "missing": […], "estimated_seconds": …, "estimated_bytes": …,
        "trials": [{…}]}``. Of a tuned suite also ``"awaited"``, the number of trials that
        follow from results to come, which the estimates include.
    """
    estimator = Estimator(benchmark)
    awaited = benchmark.awaited()
    every = [*benchmark.to_do(), *awaited]
    return {
        "suite": benchmark.suite.name,
        "missing": benchmark.missing(),
        "estimated_seconds": round(estimator.run_seconds(every), 1),
        "estimated_bytes": estimator.disk_bytes(every),
        **({"awaited": len(awaited)} if benchmark.tuned is not None else {}),
        "trials": [_entry(benchmark, planned, estimator) for planned in benchmark.planned],
    }


def show(benchmark: Benchmark) -> None:
    """Print the plan.

    It shows a table of trials done for each model, which trials are unsupported, failed or stale
    and why, which data and weights are missing, and what the trials to train take.

    Args:
        benchmark: The benchmark.
    """
    estimator, to_do, awaited = Estimator(benchmark), benchmark.to_do(), benchmark.awaited()
    every = [*to_do, *awaited]
    seconds = estimator.run_seconds(every)  # before anything is printed: it may take a while
    console = Console(highlight=False)
    models = list(dict.fromkeys(planned.trial.model for planned in benchmark.planned))
    for model in models:
        console.print(f"{benchmark.suite.name}, {model}: trials done / all", soft_wrap=True)
        _print_whole(console, _status_table(benchmark, model))
    for reason, refused in _refusals(benchmark).items():
        console.print(f"– {'; '.join(refused)}: {reason}", soft_wrap=True, markup=False)
    for placement, labels in _placements(benchmark).items():
        text = f"Activations are quantized at {placement}: {', '.join(labels)}"
        console.print(text, soft_wrap=True, markup=False)
    for planned in benchmark.planned:
        if benchmark.status(planned) == "failed":
            reason = benchmark.reason(planned)
            console.print(f"  failed: {planned.trial.name}: {reason}", soft_wrap=True, markup=False)
    for reason, count in Counter(benchmark.stale.values()).items():
        text = f"{count} stale: {reason}; `qbench run --again stale` trains them again"
        console.print(text, soft_wrap=True, markup=False)
    if len(benchmark.suite.seeds) == 1 and benchmark.tuned is None:
        told = "One seed: no difference is tested, and no published number gets a verdict."
        console.print(f"{told} `--set seeds=[0,1,2]` trains three.", soft_wrap=True, markup=False)
    for text in _trained_besides_given(benchmark, estimator, models):
        console.print(text, soft_wrap=True, markup=False)
    for text in benchmark.missing():
        console.print(f"Missing: {text}", soft_wrap=True, markup=False)
    if benchmark.tuned is not None:
        console.print(_stages(benchmark, len(awaited)), soft_wrap=True, markup=False)
    if not to_do:
        done = sum(not planned.unsupported for planned in benchmark.planned)
        console.print(f"{nothing_to_train(done)}; a run would train nothing.")
        return
    if len(models) > 1:
        console.print(_model_table(to_do, estimator, models))
    free = shutil.disk_usage(benchmark.results).free
    disk = estimator.disk_bytes(every)
    for problem in estimator.problems:
        console.print(f"Not estimated: {problem}", soft_wrap=True, markup=False)
    console.print(
        f"{counted(len(every), 'trial')} to train, about {duration(seconds)} on this machine "
        f"({estimator.at_once} at once), and {size(disk)} of disk, of which {size(free)} are free.",
        soft_wrap=True,
    )


def _stages(benchmark: Benchmark, awaited: int) -> str:
    """Return what both stages of a tuned suite are, and how much of them is not known yet."""
    tuning = benchmark.suite.tuning
    text = f"Studies of each row: {tuning.studies}. {tuning.effort}"
    if tuning.scheduler != "none":
        searched = [p.trial for p in benchmark.planned if p.study and p.trial.validation]
        for length in sorted({trial.recipe.epochs for trial in searched}):
            text += f" {_halving(tuning, length)}"
    if awaited:
        text += f" Results decide on {counted(awaited, 'further trial')}."
    return text


def _halving(tuning: Tuning, length: int) -> str:
    """Return which configurations of a study are stopped, and the epochs that it spends."""
    plan = tuning.rungs(length)
    if len(plan) == 1:
        return f"Of {counted(length, 'epoch')}, {tuning.scheduler} stops none."
    stops = " and ".join(
        f"{rung.configurations - further.configurations:,} after {counted(rung.epochs, 'epoch')}"
        for rung, further in itertools.pairwise(plan)
    )
    whole = tuning.trials * length
    return (
        f"Of {counted(length, 'epoch')}, {tuning.scheduler} stops {stops}, and trains "
        f"{plan[-1].configurations:,} to the end: {halving.epochs_of(plan):,} epochs for each "
        f"study, in place of {whole:,}."
    )


def import_hint(file: Path, count: int) -> str:
    """Return how to add results that are in a file and not in the store.

    Args:
        file: The file.
        count: Number of trials that it has and the store lacks.
    """
    return f"{file} has {counted(count, 'trial')} that the store lacks; `qbench import` adds them."


def nothing_to_train(done: int) -> str:
    """Return why no trial is left to train.

    Args:
        done: Number of trials that are done, which are all that can run.
    """
    if done > 1:
        return f"All {done:,} trials are done"
    return "The only trial is done" if done else "No trial of this suite can run"


def _print_whole(console: Console, table: Table) -> None:
    """Print a table without cutting it at the width of the console."""
    options = console.options.update(max_width=_WIDEST)
    width = Measurement.get(console, options, table).maximum
    Console(width=max(width, console.width), highlight=False).print(table)


def _status_table(benchmark: Benchmark, model: str) -> Table:
    """Return the table of one model: rows × bit-widths, each with the trials done of all."""
    grid = [planned for planned in benchmark.planned if planned.trial.model == model]
    there = list(dict.fromkeys(planned.trial.bits for planned in grid))
    order = [str(BitWidths.parse(text)) for text in benchmark.suite.bits]
    columns = sorted(there, key=lambda bits: order.index(bits) if bits in order else -1)
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    for bits in columns:
        table.add_column(bits, justify="right", no_wrap=True)
    for label in dict.fromkeys(planned.label for planned in grid):
        row = [planned for planned in grid if planned.label == label]
        table.add_row(
            escape(label),
            *(_done_of_all(benchmark, [p for p in row if p.trial.bits == b]) for b in columns),
        )
    return table


def _done_of_all(benchmark: Benchmark, group: list[PlannedTrial]) -> str:
    if not group:
        return ""
    statuses = Counter(benchmark.status(planned) for planned in group)
    if statuses["unsupported"] == len(group):
        return "–"
    failed = f" ({statuses['failed']} failed)" if statuses["failed"] else ""
    return f"{statuses['done']}/{len(group)}{failed}"


def _refusals(benchmark: Benchmark) -> dict[str, list[str]]:
    """Return the methods and bit-widths that are unsupported, by the reason."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for planned in benchmark.planned:
        if planned.unsupported:
            methods = found.setdefault(planned.unsupported, {})
            methods.setdefault(planned.trial.method, {})[planned.trial.bits] = None
    return {
        reason: [f"{method} {' '.join(widths)}" for method, widths in methods.items()]
        for reason, methods in found.items()
    }


def _trained_besides_given(
    benchmark: Benchmark, estimator: Estimator, models: list[str]
) -> Iterator[str]:
    """Yield what it takes to train the networks that methods change where weights are given."""
    for model in models:
        given = benchmark.suite.weights.get(model)
        bases = [
            planned
            for planned in benchmark.to_do()
            if planned.trial.model == model
            and planned.trial.method == FP32
            and planned.trial.has_changed_network
        ]
        if given is not None and bases:
            seconds = sum(map(estimator.seconds, bases))
            yield (
                f"{given} is of {model} as it is. Methods change it: "
                f"{counted(len(bases), 'network')} more to train at full precision, about "
                f"{duration(seconds)} one after another."
            )


def _placements(benchmark: Benchmark) -> dict[str, list[str]]:
    """Return the rows whose activations are not quantized at the inputs of layers, by placement."""
    found: dict[str, dict[str, None]] = {}
    for planned in benchmark.planned:
        if planned.trial.placement != LAYER_INPUTS:
            found.setdefault(planned.trial.placement, {})[planned.label] = None
    return {placement: list(labels) for placement, labels in found.items()}


def _model_table(to_do: Sequence[PlannedTrial], estimator: Estimator, models: list[str]) -> Table:
    """Return the table of what is left for each model: trials, and hours of the processor."""
    hours = "GPU-hours" if torch.cuda.is_available() else "CPU-hours"
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for name in ("model", "full precision", "quantized", hours):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in models:
        trials = [planned for planned in to_do if planned.trial.model == model]
        full = sum(planned.trial.method == FP32 for planned in trials)
        seconds = sum(map(estimator.seconds, trials))
        table.add_row(model, str(full), str(len(trials) - full), rounded(seconds / 3600))
    return table


def _entry(benchmark: Benchmark, planned: PlannedTrial, estimator: Estimator) -> dict[str, Any]:
    trial, status = planned.trial, benchmark.status(planned)
    waits = status in ("missing", "failed")
    return {
        "key": trial.key,
        "method": trial.method,
        "label": planned.label,
        "options": trial.options,
        "model": trial.model,
        "dataset": trial.dataset,
        "bits": trial.bits,
        "seed": trial.seed,
        "recipe": planned.recipe,
        "placement": trial.placement,
        "epochs": trial.epochs,
        "epochs_before": planned.epochs_before,
        "status": status,
        "reason": benchmark.reason(planned),
        "stale": benchmark.stale.get(trial.key, ""),
        "base": trial.base.key if trial.base else None,
        "teacher": trial.taught_by.key if trial.taught_by else None,
        "estimated_seconds": _seconds(estimator, planned) if waits else 0.0,
    }


def _seconds(estimator: Estimator, planned: PlannedTrial) -> float | None:
    """Return the seconds of a trial, or None, since JSON has no NaN."""
    seconds = estimator.seconds(planned)
    return round(seconds, 1) if seconds == seconds else None

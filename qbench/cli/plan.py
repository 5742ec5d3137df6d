"""What a run would do: trials, their status, and an estimate of the time."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.estimate import Estimator
from qbench.cli.progress import duration
from qbench.schedule.capacity import Share, trials_at_once
from qbench.spec.bits import Bits
from qbench.spec.trial import FP32
from qbench.suite.grid import PlannedTrial, without_storage

_WIDEST = 1000


def as_json(benchmark: Benchmark) -> dict[str, Any]:
    """The plan for programs: ``{"suite": …, "estimated_seconds": …, "trials": [{…}]}``."""
    estimator = Estimator(benchmark)
    return {
        "suite": benchmark.suite.name,
        "missing": benchmark.missing(),
        "estimated_seconds": round(_total(benchmark, estimator), 1),
        "estimated_bytes": _bytes(benchmark),
        "trials": [_entry(benchmark, planned, estimator) for planned in benchmark.planned],
    }


def show(benchmark: Benchmark) -> None:
    """Print the plan: rows × widths, what is refused or missing and why, what the rest takes."""
    estimator = Estimator(benchmark)
    _total(benchmark, estimator)  # what takes a while, before anything is printed
    console = Console(highlight=False)
    models = dict.fromkeys(planned.trial.model for planned in benchmark.planned)
    for model in models:
        grid = [planned for planned in benchmark.planned if planned.trial.model == model]
        _print_whole(console, _table(benchmark, model, grid))
    for reason, refused in _refusals(benchmark).items():
        console.print(f"– {'; '.join(refused)}: {reason}", soft_wrap=True, markup=False)
    for planned in benchmark.planned:
        if benchmark.status(planned) == "failed":
            reason = benchmark.reason(planned)
            console.print(f"  failed: {planned.trial.name}: {reason}", soft_wrap=True, markup=False)
    to_do = benchmark.to_do()
    for reason, count in Counter(benchmark.stale.values()).items():
        console.print(f"{count} stale: {reason}; `run --again stale` trains them again")
    for text in benchmark.missing():
        console.print(f"Missing: {text}", soft_wrap=True, markup=False)
    if not to_do:
        console.print("Everything is done; a run would train nothing.")
        return
    if len(models) > 1:
        console.print(_needs(benchmark, estimator, list(models)))
    seconds = _total(benchmark, estimator)
    console.print(
        f"{len(to_do)} trials to train, about {duration(seconds)} on this machine "
        f"({_at_once(benchmark)} at once), and {_size(_bytes(benchmark))} of disk, of which "
        f"{_size(shutil.disk_usage(benchmark.results).free)} are free.",
        soft_wrap=True,
    )


def _print_whole(console: Console, table: Table) -> None:
    """Print a table as wide as it is: half a width tells nothing."""
    options = console.options.update(max_width=_WIDEST)
    width = Measurement.get(console, options, table).maximum
    Console(width=max(width, console.width), highlight=False).print(table)


def _needs(benchmark: Benchmark, estimator: Estimator, models: list[str]) -> Table:
    """What is left for each model: trials, and the hours of the processor that trains."""
    hours = "GPU-hours" if torch.cuda.is_available() else "CPU-hours"
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for name in ("model", "full precision", "quantized", hours):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in models:
        trials = [planned.trial for planned in benchmark.to_do() if planned.trial.model == model]
        full = sum(trial.method == FP32 for trial in trials)
        seconds = estimator.total(trials, 1)
        table.add_row(model, str(full), str(len(trials) - full), f"{seconds / 3600:,.1f}")
    return table


def _bytes(benchmark: Benchmark) -> int:
    """Disk that what is left takes: hardened weights, and the checkpoints of those under way."""
    trials = [planned.trial for planned in benchmark.to_do()]
    sizes = {model: _weight_bytes(benchmark, model) for model in {t.model for t in trials}}
    stored = sum(sizes[trial.model] for trial in trials)
    under_way = _at_once(benchmark) * max(sizes.values(), default=0)
    return stored + 2 * under_way  # a checkpoint holds the optimiser's momentum too


def _weight_bytes(benchmark: Benchmark, model: str) -> int:
    net = without_storage(model, benchmark.dataset)
    return sum(t.numel() * t.element_size() for t in net.state_dict().values())


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


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
        "epochs": trial.recipe.epochs,
        "status": status,
        "reason": benchmark.reason(planned),
        "stale": benchmark.stale.get(trial.key, ""),
        "base": trial.base.key if trial.base else None,
        "estimated_seconds": round(estimator.seconds(trial), 1) if waits else 0.0,
    }


def _table(benchmark: Benchmark, model: str, grid: list[PlannedTrial]) -> Table:
    """Trials done of all, methods down and widths across."""
    there = list(dict.fromkeys(planned.trial.bits for planned in grid))
    order = [str(Bits.parse(text)) for text in benchmark.suite.bits]
    columns = sorted(there, key=lambda bits: order.index(bits) if bits in order else -1)
    title = f"{benchmark.suite.name}, {model}: trials done / all"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    for bits in columns:
        table.add_column(bits, justify="right", no_wrap=True)
    for label in dict.fromkeys(planned.label for planned in grid):
        row = [planned for planned in grid if planned.label == label]
        table.add_row(
            escape(label),
            *(_progress(benchmark, [c for c in row if c.trial.bits == b]) for b in columns),
        )
    return table


def _refusals(benchmark: Benchmark) -> dict[str, list[str]]:
    """For each reason, the trials that cannot be trained for it."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for planned in benchmark.planned:
        if planned.unsupported:
            widths = found.setdefault(planned.unsupported, {}).setdefault(planned.trial.method, {})
            widths[planned.trial.bits] = None
    return {
        reason: [f"{method} {' '.join(widths)}" for method, widths in methods.items()]
        for reason, methods in found.items()
    }


def _progress(benchmark: Benchmark, grid: list[PlannedTrial]) -> str:
    if not grid:
        return ""
    statuses = Counter(benchmark.status(planned) for planned in grid)
    if statuses["unsupported"]:
        return "–"
    failed = f" ({statuses['failed']} failed)" if statuses["failed"] else ""
    return f"{statuses['done']}/{len(grid)}{failed}"


def _at_once(benchmark: Benchmark) -> int:
    """Return how many trials fit on this machine at once, at least 1."""
    machine = Share(os.cpu_count() or 1, torch.cuda.device_count())
    resources = benchmark.suite.resources
    process = Share(*resources.process(*machine, benchmark.dataset.feeding))
    return max(1, trials_at_once(process, resources.processes, [machine]))


def _total(benchmark: Benchmark, estimator: Estimator) -> float:
    trials = [planned.trial for planned in benchmark.to_do()]
    return estimator.total(trials, _at_once(benchmark))

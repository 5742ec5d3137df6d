"""What a run would do: trials, their status, and an estimate of the time."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qbench.benchmark import Benchmark
from qbench.estimate import Estimator
from qbench.grid import Cell
from qbench.progress import duration


def as_json(benchmark: Benchmark) -> dict[str, Any]:
    """The plan for programs: ``{"suite": …, "estimated_seconds": …, "trials": [{…}]}``."""
    estimator = Estimator(benchmark)
    return {
        "suite": benchmark.suite.name,
        "estimated_seconds": round(_total(benchmark, estimator), 1),
        "trials": [_entry(benchmark, cell, estimator) for cell in benchmark.cells],
    }


def show(benchmark: Benchmark) -> None:
    """Print the plan: a table of rows × widths, what is refused and why, and the time."""
    console = Console(highlight=False)
    for model in dict.fromkeys(cell.trial.model for cell in benchmark.cells):
        cells = [cell for cell in benchmark.cells if cell.trial.model == model]
        console.print(_table(benchmark, model, cells))
    for reason, refused in _refusals(benchmark).items():
        console.print(f"– {'; '.join(refused)}: {reason}", soft_wrap=True, markup=False)
    for cell in benchmark.cells:
        if benchmark.status(cell) == "failed":
            reason = benchmark.reason(cell)
            console.print(f"  failed: {cell.trial.name}: {reason}", soft_wrap=True, markup=False)
    to_do = benchmark.to_do()
    if stale := benchmark.stale():
        console.print(f"Changed since some of their trials were trained: {', '.join(stale)}")
    if not to_do:
        console.print("Everything is done; a run would train nothing.")
        return
    seconds = _total(benchmark, Estimator(benchmark))
    console.print(
        f"{len(to_do)} trials to train, about {duration(seconds)} on this machine "
        f"({_at_once(benchmark)} at once)."
    )


def _entry(benchmark: Benchmark, cell: Cell, estimator: Estimator) -> dict[str, Any]:
    trial, status = cell.trial, benchmark.status(cell)
    waits = status in ("missing", "failed")
    return {
        "key": trial.key,
        "method": trial.method,
        "label": cell.label,
        "options": trial.options,
        "model": trial.model,
        "dataset": trial.dataset,
        "bits": trial.bits,
        "seed": trial.seed,
        "recipe": cell.recipe,
        "epochs": trial.recipe.epochs,
        "status": status,
        "reason": benchmark.reason(cell),
        "base": trial.base.key if trial.base else None,
        "estimated_seconds": round(estimator.seconds(trial), 1) if waits else 0.0,
    }


def _table(benchmark: Benchmark, model: str, cells: list[Cell]) -> Table:
    """Trials done of all, methods down and widths across."""
    columns = list(dict.fromkeys(cell.trial.bits for cell in cells))
    title = f"{benchmark.suite.name}, {model}: trials done / all"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    for bits in columns:
        table.add_column(bits, justify="right", no_wrap=True)
    for label in dict.fromkeys(cell.label for cell in cells):
        row = [cell for cell in cells if cell.label == label]
        table.add_row(
            escape(label),
            *(_progress(benchmark, [c for c in row if c.trial.bits == b]) for b in columns),
        )
    return table


def _refusals(benchmark: Benchmark) -> dict[str, list[str]]:
    """For each reason, the cells that cannot be trained for it."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for cell in benchmark.cells:
        if cell.unsupported:
            widths = found.setdefault(cell.unsupported, {}).setdefault(cell.trial.method, {})
            widths[cell.trial.bits] = None
    return {
        reason: [f"{method} {' '.join(widths)}" for method, widths in methods.items()]
        for reason, methods in found.items()
    }


def _progress(benchmark: Benchmark, cells: list[Cell]) -> str:
    if not cells:
        return ""
    statuses = Counter(benchmark.status(cell) for cell in cells)
    if statuses["unsupported"]:
        return "–"
    failed = f" ({statuses['failed']} failed)" if statuses["failed"] else ""
    return f"{statuses['done']}/{len(cells)}{failed}"


def _at_once(benchmark: Benchmark) -> int:
    return max(1, int((os.cpu_count() or 1) / benchmark.suite.resources.cpus))


def _total(benchmark: Benchmark, estimator: Estimator) -> float:
    trials = [cell.trial for cell in benchmark.to_do()]
    return estimator.total(trials, _at_once(benchmark))

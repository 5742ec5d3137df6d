"""Print how finely a suite tells methods apart, and what finer differences cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.estimate import Estimator
from qbench.cli.words import duration
from qbench.report.power import MOST_SEEDS, Resolution, points, resolutions
from qbench.report.summary import records, summarise


def as_json(benchmark: Benchmark, differences: Sequence[float]) -> list[dict[str, Any]]:
    """Return the resolution of each column as plain values.

    Args:
        benchmark: The benchmark.
        differences: Differences in points, for which the seeds are counted.

    Returns:
        For each column ``dataset``, ``model``, ``bits``, ``rows``, ``seeds``, ``deviation``,
        ``deviation_90`` (its interval), ``between_two``, ``from_best`` (points) and ``finer``: for
        each difference ``points``, ``seeds_between_two`` and ``seeds_from_best`` (least and
        largest), and ``seconds_between_two`` and ``seconds_from_best`` of the further seeds.
    """
    hours = _Costs(benchmark)
    return [
        {
            "dataset": column.dataset,
            "model": column.model,
            "bits": column.bits,
            "rows": column.rows,
            "seeds": column.seeds,
            "deviation": round(column.deviation, 4),
            "deviation_90": [round(value, 4) for value in column.deviations],
            "between_two": round(column.between_two, 4),
            "from_best": round(column.from_best, 4),
            "finer": [_finer(column, points, hours) for points in differences],
        }
        for column in _columns(benchmark)
    ]


def show(benchmark: Benchmark, differences: Sequence[float]) -> None:
    """Print the resolution of each column.

    Args:
        benchmark: The benchmark.
        differences: Differences in points, for which the seeds are counted.
    """
    console = Console(highlight=False)
    columns = as_json(benchmark, differences)
    if not columns:
        console.print(
            "No column has two rows over two seeds or more, whose variance would tell.",
            soft_wrap=True,
        )
        return
    for model in dict.fromkeys(column["model"] for column in columns):
        console.print(f"{benchmark.suite.name}, {model}: points that the seeds find, power 80 %")
        console.print(_found([column for column in columns if column["model"] == model]))
    for number, difference in enumerate(differences):
        console.print(f"Seeds that find {difference:g} points, and the time of the further ones")
        console.print(_needed(columns, number))
    console.print(
        "two rows: named beforehand. best of all: between the best and any other row, with Holm's "
        "correction. Ranges are what the estimated variance leaves open (90 %); times are those of "
        "the larger number.",
        soft_wrap=True,
    )


class _Costs:
    """Seconds that one more seed of a column takes on this machine."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark
        self._estimator = Estimator(benchmark)

    def of(self, column: Resolution, seeds: int) -> float:
        """Return the seconds until the column has a number of seeds, 0 if it has them."""
        first = self._benchmark.suite.seeds[0]
        trials = [
            planned.trial
            for planned in self._benchmark.planned
            if planned.trial.model == column.model
            and planned.trial.bits == column.bits
            and planned.trial.seed == first
            and not planned.unsupported
        ]
        return max(0, seeds - column.seeds) * self._estimator.total_seconds(trials)


def _columns(benchmark: Benchmark) -> list[Resolution]:
    metric, *_ = benchmark.dataset.shown
    items = benchmark.dataset.sizes()[1]
    return resolutions(records(summarise(benchmark.trials(), metric, items)))


def _finer(column: Resolution, difference: float, costs: _Costs) -> dict[str, Any]:
    found: dict[str, Any] = {"points": difference}
    for name, from_best in (("between_two", False), ("from_best", True)):
        seeds = column.seeds_needed(difference, from_best=from_best)
        found[f"seeds_{name}"] = list(seeds)
        found[f"seconds_{name}"] = [round(costs.of(column, n), 1) for n in seeds]
    return found


def _found(columns: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for name in ("bits", "rows", "seeds", "std of a difference", "two rows", "best of all"):
        table.add_column(name, justify="left" if name == "bits" else "right", no_wrap=True)
    for column in columns:
        low, high = map(points, column["deviation_90"])
        table.add_row(
            column["bits"],
            str(column["rows"]),
            str(column["seeds"]),
            f"{points(column['deviation'])} ({low}–{high})",
            points(column["between_two"]),
            points(column["from_best"]),
        )
    return table


def _needed(columns: Sequence[dict[str, Any]], number: int) -> Table:
    """Return the table of one difference, by its number."""
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for name in ("model", "bits", "two rows", "time", "best of all", "time"):
        left = name in ("model", "bits")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for column in columns:
        cells, finer = [column["model"], column["bits"]], column["finer"][number]
        for name in ("between_two", "from_best"):
            low, high = finer[f"seeds_{name}"]
            most = f"{MOST_SEEDS} or more" if high == MOST_SEEDS else str(high)
            cells.append(str(low) if low == high else f"{low}–{most}")
            _, seconds = finer[f"seconds_{name}"]
            cells.append(duration(seconds) if high > column["seeds"] else "–")
        table.add_row(*cells)
    return table

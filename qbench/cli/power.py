"""Print how finely a suite tells methods apart, and what finer differences cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from qbench.benchmark import tuned_frames
from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.estimate import Estimator
from qbench.cli.words import duration
from qbench.report import studies
from qbench.report.power import MOST_SEEDS, Resolution, points, resolutions
from qbench.report.summary import records, summarise
from qbench.suite.grid import PlannedTrial
from qbench.suite.tuned import TunedGrid


def as_json(benchmark: Benchmark, differences: Sequence[float]) -> list[dict[str, Any]]:
    """Return the resolution of each column as plain values.

    Args:
        benchmark: The benchmark.
        differences: Differences in points, for which the seeds are counted.

    Returns:
        For each column ``dataset``, ``model``, ``bits``, ``rows``, ``unit`` (``seed``, or ``study``
        of a tuned suite, whose studies count as seeds), ``seeds``, ``deviation``, ``deviation_90``
        (its interval), ``between_two``, ``from_best`` (points) and ``finer``: for each difference
        ``points``, ``seeds_between_two`` and ``seeds_from_best`` (least and largest), and what the
        further seeds cost: ``trials_between_two``, ``trials_from_best``, ``seconds_between_two``
        and ``seconds_from_best``.
    """
    costs = _Costs(benchmark)
    unit = "seed" if benchmark.tuned is None else "study"
    return [
        {
            "dataset": column.dataset,
            "model": column.model,
            "bits": column.bits,
            "rows": column.rows,
            "unit": unit,
            "seeds": column.seeds,
            "deviation": round(column.deviation, 4),
            "deviation_90": [round(value, 4) for value in column.deviations],
            "between_two": round(column.between_two, 4),
            "from_best": round(column.from_best, 4),
            "finer": [_finer(column, points, costs) for points in differences],
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
    units = "seeds" if benchmark.tuned is None else "studies"
    if not columns:
        console.print(
            f"No column has two rows over two {units} or more, whose variance would tell.",
            soft_wrap=True,
        )
        return
    for model in dict.fromkeys(column["model"] for column in columns):
        console.print(f"{benchmark.suite.name}, {model}: points that the {units} find, power 80 %")
        console.print(_found([column for column in columns if column["model"] == model], units))
    for number, difference in enumerate(differences):
        console.print(
            f"{units.capitalize()} that find {difference:g} points, and the cost of further ones"
        )
        console.print(_needed(columns, number))
    console.print(
        "two rows: named beforehand. best of all: between the best and any other row, with Holm's "
        "correction. Ranges are what the estimated variance leaves open (90 %); trials and times "
        "are those of the larger number.",
        soft_wrap=True,
    )
    if benchmark.tuned is not None:
        console.print(
            "A study of a row is a search and the fresh seeds of its winner; its mean counts once.",
            soft_wrap=True,
        )


class _Costs:
    """What one more seed of a column takes on this machine, or one more study."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark
        self._estimator = Estimator(benchmark)

    def of(self, column: Resolution, seeds: int) -> tuple[int, float]:
        """Return the trials and the seconds until the column has a number of seeds.

        They are 0 if it has them.
        """
        grid = self._benchmark.tuned
        trials = self._seed(column) if grid is None else _trials_of_study(grid, column)
        further = max(0, seeds - column.seeds)
        return further * len(trials), further * self._estimator.total_seconds(trials)

    def _seed(self, column: Resolution) -> list[PlannedTrial]:
        """Return the trials of one seed."""
        first = self._benchmark.suite.seeds[0]
        return [
            planned
            for planned in self._benchmark.planned
            if planned.trial.model == column.model
            and planned.trial.bits == column.bits
            and planned.trial.seed == first
            and not planned.unsupported
        ]


def _trials_of_study(grid: TunedGrid, column: Resolution) -> list[PlannedTrial]:
    """Return the trials of one study of a column: as many of each row as its first study has."""
    trials: list[PlannedTrial] = []
    for search in grid.searches({}):
        first = search.known[0]
        if (first.trial.model, first.trial.bits, first.study) == (column.model, column.bits, 1):
            trials += [*search.known, *search.following, *grid.second_stage(first)]
    return trials


def _columns(benchmark: Benchmark) -> list[Resolution]:
    metric, *_ = benchmark.dataset.shown
    items = benchmark.dataset.sizes()[1]
    trials = benchmark.trials()
    if benchmark.tuned is not None:
        trials = studies.means(tuned_frames.second_stage(benchmark, trials))
    return resolutions(records(summarise(trials, metric, items)))


def _finer(column: Resolution, difference: float, costs: _Costs) -> dict[str, Any]:
    found: dict[str, Any] = {"points": difference}
    for name, from_best in (("between_two", False), ("from_best", True)):
        seeds = column.seeds_needed(difference, from_best=from_best)
        found[f"seeds_{name}"] = list(seeds)
        found[f"trials_{name}"] = [costs.of(column, n)[0] for n in seeds]
        found[f"seconds_{name}"] = [round(costs.of(column, n)[1], 1) for n in seeds]
    return found


def _found(columns: Sequence[dict[str, Any]], units: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for name in ("bits", "rows", units, "std of a difference", "two rows", "best of all"):
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
    for name in ("model", "bits", "two rows", "trials", "time", "best of all", "trials", "time"):
        left = name in ("model", "bits")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for column in columns:
        cells, finer = [column["model"], column["bits"]], column["finer"][number]
        for name in ("between_two", "from_best"):
            low, high = finer[f"seeds_{name}"]
            most = f"{MOST_SEEDS} or more" if high == MOST_SEEDS else str(high)
            cells.append(str(low) if low == high else f"{low}–{most}")
            (_, trials), (_, seconds) = finer[f"trials_{name}"], finer[f"seconds_{name}"]
            more = high > column["seeds"]
            cells += [f"{trials:,}", duration(seconds)] if more else ["–", "–"]
        table.add_row(*cells)
    return table

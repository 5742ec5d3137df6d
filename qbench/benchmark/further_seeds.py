"""Train further seeds of the rows that a suite's own seeds do not tell apart.

The tables of a suite are made of the seeds that the suite names. Further seeds are trials of their
own, which are tested apart from them (`qbench.report.looks`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

from qbench.benchmark.benchmark import Benchmark
from qbench.report.looks import LOOKS, Neighbours, neighbours, wanted_seeds
from qbench.suite.grid import PlannedTrial, expand
from qbench.suite.suite import Suite


def with_further_seeds(benchmark: Benchmark) -> Benchmark:
    """Return a benchmark whose rows all have the seeds of the last look.

    Args:
        benchmark: The benchmark of a suite. One whose recipe is tuned has no further seeds, and is
            returned as it is.
    """
    if benchmark.tuned is not None:
        return benchmark
    suite = benchmark.suite.model_copy(update={"seeds": seeds_of(benchmark.suite)})
    wide = replace(benchmark, suite=suite, planned=expand(suite, benchmark.rehearsal))
    wide.refresh()
    return wide


def seeds_of(suite: Suite) -> list[int]:
    """Return the seeds in the order in which rows get them: the suite's own, then unused numbers.

    Args:
        suite: The suite.
    """
    unused = (seed for seed in itertools.count() if seed not in suite.seeds)
    count = max(len(suite.seeds), *LOOKS)
    return [*suite.seeds, *itertools.islice(unused, count - len(suite.seeds))]


def verdicts(wide: Benchmark, within: float) -> list[Neighbours]:
    """Test neighbouring rows with the seeds that are done.

    Args:
        wide: What `with_further_seeds` returns.
        within: Rows are tied if their difference is less than this, in points.
    """
    metric, *_ = wide.dataset.shown
    items = wide.dataset.sizes()[1]
    return neighbours(wide.trials(), metric, items, wide.suite.seeds, within)


def next_trials(wide: Benchmark, found: Sequence[Neighbours]) -> list[PlannedTrial]:
    """Return the trials that rows need for their next look.

    Args:
        wide: What `with_further_seeds` returns.
        found: What `verdicts` returns.

    Returns:
        Trials that are missing, in the order of the grid. Every row gets the seeds of the first
        look. A row of which a trial has failed gets no further ones.
    """
    seeds, first = wide.suite.seeds, min(LOOKS)
    wanted = wanted_seeds(found)
    failed = {_row(each) for each in wide.planned if wide.status(each) == "failed"}
    return [
        planned
        for planned in wide.planned
        if wide.status(planned) == "missing"
        and _row(planned) not in failed
        and planned.trial.seed in seeds[: wanted.get(_row(planned), first)]
    ]


def resolve(wide: Benchmark, within: float, train: Callable[[Benchmark], bool]) -> list[Neighbours]:
    """Train further seeds until neighbouring rows are told apart or tied, or have had all looks.

    Args:
        wide: What `with_further_seeds` returns.
        within: Rows are tied if their difference is less than this, in points.
        train: Trains what a benchmark has to do, and returns whether it came to its end.

    Returns:
        The verdicts at the last complete looks.
    """
    found = verdicts(wide, within)
    while trials := next_trials(wide, found):
        ended = train(wide.part(trials))
        wide.refresh()
        found = verdicts(wide, within)
        if not ended:
            break
    return found


def _row(planned: PlannedTrial) -> tuple[str, str, str, str]:
    trial = planned.trial
    return planned.dataset, trial.model, planned.label, trial.bits

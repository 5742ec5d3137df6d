"""Tests of neighbouring rows at 5, 10 and 15 seeds, for `qbench run --resolve`.

More seeds go only to rows that are next to each other in a column and not yet told apart. Looking
several times at a significance level of 5 % would find differences that are not there, so the level
is divided over the looks (`LOOKS`). It is a union bound: it holds for every choice of the rows that
get more seeds. At a look all pairs of the rows that have its seeds are tested, with Holm's
correction, by the test of `qbench.report.significance`. A verdict once given stays.

A difference that an early look tells apart is on average larger than the true one: had it been
smaller, the look would not have told it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

import pandas as pd

from qbench.report.significance import PairedTests
from qbench.report.summary import COLUMN, RESULT, by_seed, grouped, records, summarise

LOOKS = {5: 0.010, 10: 0.015, 15: 0.025}
"""Level of the test by the number of common seeds. The levels add up to 5 %."""


@dataclass(frozen=True)
class Neighbours:
    """Two rows of a column that are next to each other by their means, and their last test.

    Attributes:
        dataset: Dataset of the column.
        model: Model of the column.
        bits: Bit-widths ``W/A`` of the column.
        better: Label of the row with the larger mean.
        worse: Label of the other row.
        seeds: Number of common seeds of the test that gave the verdict, or of the last one.
        difference: Mean difference, in points.
        margin: Half the width of its interval at the level of the look, in points.
        p: p-value with Holm's correction. NaN if there is no test.
        verdict: ``told`` apart, ``tied`` within the given difference, or ``open``.
    """

    dataset: str
    model: str
    bits: str
    better: str
    worse: str
    seeds: int
    difference: float
    margin: float
    p: float
    verdict: Literal["told", "tied", "open"]


def neighbours(
    trials: pd.DataFrame, metric: str, items: int, seeds: Sequence[int], within: float
) -> list[Neighbours]:
    """Test the neighbouring rows of each column at every look that they have the seeds for.

    Args:
        trials: As of `qbench.report.summary.summarise`.
        metric: Metric that is compared, in %.
        items: Number of test items. 0 if it is not known.
        seeds: Seeds in the order in which rows get them. A look takes the first of them.
        within: Rows whose difference is less than this with confidence are tied, in points.

    Returns:
        The pairs, best first, column by column. Rows that are incomplete at the first look or not
        comparable have none; rows that are the same function count once.
    """
    found: list[Neighbours] = []
    for column in grouped(records(trials), *COLUMN):
        tested: dict[frozenset[str], Neighbours] = {}
        means: dict[str, float] = {}
        for count, level in LOOKS.items():
            values = _rows_at(column, metric, items, seeds[:count])
            if len(values) < 2:
                break
            means |= {label: sum(each.values()) / count for label, each in values.items()}
            labels = list(values)
            tests = PairedTests(list(values.values()), items)
            pairs = list(combinations(range(len(labels)), 2))
            for (a, b), p in zip(pairs, tests.corrected(pairs), strict=True):
                pair = frozenset((labels[a], labels[b]))
                if pair in tested and tested[pair].verdict != "open":
                    continue
                difference, margin = tests.differences[a, b], tests.half_width(a, b, level)
                better, worse = (a, b) if difference >= 0 else (b, a)
                tied = abs(difference) + margin <= within
                tested[pair] = Neighbours(
                    dataset=str(column[0]["dataset"]),
                    model=str(column[0]["model"]),
                    bits=str(column[0]["bits"]),
                    better=labels[better],
                    worse=labels[worse],
                    seeds=count,
                    difference=float(abs(difference)),
                    margin=margin,
                    p=p,
                    verdict="told" if p < level else "tied" if tied else "open",
                )
        order = sorted(means, key=lambda label: -means[label])
        beside = [frozenset(pair) for pair in pairwise(order)]
        found += [tested[pair] for pair in beside if pair in tested]
    return found


def wanted_seeds(found: Sequence[Neighbours]) -> dict[tuple[str, str, str, str], int]:
    """Return how many seeds rows need for their next look.

    Args:
        found: What `neighbours` returns.

    Returns:
        The number of seeds by dataset, model, label and bit-widths, for the rows of open pairs that
        have a next look.
    """
    wanted: dict[tuple[str, str, str, str], int] = {}
    for pair in found:
        further = [count for count in LOOKS if count > pair.seeds]
        if pair.verdict == "open" and further:
            for label in (pair.better, pair.worse):
                row = (pair.dataset, pair.model, label, pair.bits)
                wanted[row] = max(wanted.get(row, 0), further[0])
    return wanted


def _rows_at(
    column: list[dict[str, object]], metric: str, items: int, seeds: Sequence[int]
) -> dict[str, dict[int, float]]:
    """Return the values of the rows of a column that are complete at a look, by label and seed."""
    at_look = [row for row in column if row["seed"] in seeds and row["status"] == "done"]
    complete = [group for group in grouped(at_look, *RESULT) if len(group) == len(seeds)]
    if not complete:
        return {}
    frame = pd.DataFrame([row for group in complete for row in group])
    compared = {
        row["label"]
        for row in records(summarise(frame, metric, items))
        if row["deviation"] == row["deviation"] and not row["same_as"]
    }
    return {
        str(group[0]["label"]): by_seed(group, metric)
        for group in complete
        if group[0]["label"] in compared
    }

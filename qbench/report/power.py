"""How finely a column can tell methods apart, and how many seeds finer differences need.

The power is that of the moderated paired t-test of `qbench.report.significance`. Its noncentral
distribution is averaged over the distribution of the estimated variance: the noncentral t of common
libraries is wrong for few seeds and the small levels of a correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

from qbench.report.significance import FEWEST_ROWS, LEVEL, PRIOR
from qbench.report.summary import COLUMN, Row, grouped

POWER = 0.8
MOST_SEEDS = 1000
_QUANTILES = (np.arange(400) + 0.5) / 400
_CONFIDENCE = 0.9  # of the range of a number of seeds


@dataclass(frozen=True)
class Resolution:
    """How finely one column tells methods apart.

    Attributes:
        dataset: Dataset of the column.
        model: Model of the column.
        bits: Bit-widths ``W/A`` of the column.
        rows: Number of distinct rows that are compared.
        seeds: Number of seeds of the row that has fewest.
        deviation: Standard deviation of the difference of two rows in one seed, in points.
    """

    dataset: str
    model: str
    bits: str
    rows: int
    seeds: int
    deviation: float

    @property
    def prior(self) -> int:
        """Degrees of freedom that the column's variance adds to a test."""
        return PRIOR if self.rows >= FEWEST_ROWS else 0

    @property
    def deviations(self) -> tuple[float, float]:
        """The 90 % interval of the standard deviation, in points."""
        freedom = (self.rows - 1) * (self.seeds - 1)
        tail = (1 - _CONFIDENCE) / 2
        low, high = (np.sqrt(freedom / chdtri(freedom, p)) for p in (tail, 1 - tail))
        return self.deviation * float(low), self.deviation * float(high)

    @property
    def between_two(self) -> float:
        """Smallest difference, in points, that is found between two rows named beforehand."""
        return smallest_difference(self.deviation, self.seeds, LEVEL, self.prior)

    @property
    def from_best(self) -> float:
        """Smallest difference, in points, between the best row and one of all the others."""
        level = LEVEL / max(1, self.rows - 1)
        return smallest_difference(self.deviation, self.seeds, level, self.prior)

    def seeds_needed(self, difference: float, *, from_best: bool = False) -> tuple[int, int]:
        """Return how many seeds find a difference, as the range that the deviation leaves open.

        Args:
            difference: Difference of two rows, in points.
            from_best: Whether one of the rows is the best of all, not named beforehand.

        Returns:
            The least and the largest number, at most `MOST_SEEDS`.
        """
        level = LEVEL / max(1, self.rows - 1) if from_best else LEVEL
        low, high = (seeds_needed(difference, s, level, self.prior) for s in self.deviations)
        return low, high


def power(difference: float, deviation: float, seeds: int, level: float, prior: int) -> float:
    """Return the probability that the test finds a difference.

    Args:
        difference: True difference of two rows, in points.
        deviation: Standard deviation of the difference in one seed, in points.
        seeds: Number of common seeds, at least 2.
        level: Significance level of the two-sided test.
        prior: Degrees of freedom that the column's variance adds.

    Returns:
        The power, from `level` to 1.
    """
    freedom = seeds - 1 + prior
    critical = stdtrit(freedom, 1 - level / 2)
    spread = np.sqrt(chdtri(freedom, 1 - _QUANTILES) / freedom)  # estimated over true deviation
    shift = difference * np.sqrt(seeds) / deviation
    return float(np.mean(ndtr(shift - critical * spread) + ndtr(-critical * spread - shift)))


def smallest_difference(deviation: float, seeds: int, level: float, prior: int) -> float:
    """Return the smallest difference, in points, that the test finds with a power of 80 %.

    Args:
        deviation: As in `power`; so are `seeds`, `level` and `prior`.
        seeds: Number of common seeds, at least 2.
        level: Significance level.
        prior: Degrees of freedom that the column's variance adds.
    """
    low, high = 0.0, deviation
    while power(high, deviation, seeds, level, prior) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        if power(middle, deviation, seeds, level, prior) < POWER:
            low = middle
        else:
            high = middle
    return high


def seeds_needed(difference: float, deviation: float, level: float, prior: int) -> int:
    """Return the least number of seeds that finds a difference with a power of 80 %.

    Args:
        difference: As in `power`; so are `deviation`, `level` and `prior`.
        deviation: Standard deviation of the difference in one seed, in points.
        level: Significance level.
        prior: Degrees of freedom that the column's variance adds.

    Returns:
        The number, from 2 to `MOST_SEEDS`.
    """
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        if power(difference, deviation, middle, level, prior) < POWER:
            low = middle + 1
        else:
            high = middle
    return low


def resolutions(results: Sequence[Row]) -> list[Resolution]:
    """Return how finely each column tells methods apart.

    Args:
        results: Rows of `qbench.report.summary.summarise`.

    Returns:
        One for each dataset, model and bit-widths at which results are compared over two seeds or
        more. Columns without any variance have none.
    """
    found = []
    for column in grouped(list(results), *COLUMN):
        compared = [row for row in column if row["deviation"] > 0 and not row["same_as"]]
        if compared:
            first = compared[0]
            seeds = min(int(row["n"]) for row in compared)
            dataset, model, bits = (str(first[name]) for name in COLUMN)
            deviation = float(first["deviation"])
            found.append(Resolution(dataset, model, bits, len(compared), seeds, deviation))
    return found


def sentence(found: Sequence[Resolution], unit: str = "seeds") -> str:
    """Return a sentence on how finely columns tell methods apart.

    Args:
        found: The columns of one table.
        unit: What n counts, ``seeds`` (default) or ``studies``.

    Returns:
        ``Differences that n = 5 seeds find with a power of 80 %, between two rows named beforehand
        (and between the best and any other row): 2/2 1.2 (2.2) points.`` Empty if there is no
        column.
    """
    if not found:
        return ""
    models = {(each.dataset, each.model) for each in found}
    parts = [
        f"{'' if len(models) == 1 else each.model + ' '}{each.bits} "
        f"{points(each.between_two)} ({points(each.from_best)})"
        for each in found
    ]
    seeds = sorted({each.seeds for each in found})
    over = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"Differences that n = {over} {unit} find with a power of 80 %, between two rows named "
        f"beforehand (and between the best and any other row): {', '.join(parts)} points."
    )


def points(value: float) -> str:
    """Format a difference in points: two significant digits, at most one decimal from 1 on."""
    return f"{value:.2f}" if value < 0.995 else f"{value:.1f}"

"""Significance of differences: paired tests, Holm's correction, and verdicts on published numbers.

Trials are paired by seed. Two methods with the same seed start from the same full-precision weights
and see the same batches. Differences are therefore tested seed by seed, with the two-sided paired
t-test of Student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t and its inverse

LEVEL = 0.05
_ALIKE = 1e-3  # in %: less than one test image of ImageNet, more than the rounding in files


@dataclass(frozen=True)
class Verdict:
    """Verdict of a measurement on a published number.

    Attributes:
        text: ``reproduced``, ``short by 1.20``, ``above by 0.31`` (both in points), ``one seed``,
            ``not judged``, or an empty string if there is nothing to judge.
        note: Why the number is not judged, or how the measurement departs from its setting.
    """

    text: str
    note: str = ""


def interval(values: Sequence[float], level: float = LEVEL) -> float:
    """Return half the width of the two-sided confidence interval of a mean (Student's t).

    Args:
        values: Measured values, one for each seed.
        level: Significance level. The interval has the confidence 1 − `level`.

    Returns:
        Half the width, in the unit of the values. NaN if there are fewer than two values.
    """
    n = len(values)
    if n < 2:
        return float("nan")
    return float(stdtrit(n - 1, 1 - level / 2) * np.std(values, ddof=1) / np.sqrt(n))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """Test the difference of two methods over the seeds that both have.

    Args:
        a: Values of one method by seed, in %.
        b: Values of the other method by seed, in %.

    Returns:
        The p-value of the two-sided paired t-test. 1 if the values are equal for each seed. NaN if
        there is no test: with fewer than two common seeds, or if the difference is not zero and is
        the same for each seed. Then there is no spread to judge it by; this happens where few test
        images make accuracies coarse. Differences within 0.001 points count as equal.
    """
    seeds = sorted(a.keys() & b.keys())
    differences = np.array([a[seed] - b[seed] for seed in seeds])
    if len(seeds) < 2:
        return float("nan")
    if np.ptp(differences) <= _ALIKE:
        return 1.0 if abs(differences[0]) <= _ALIKE else float("nan")
    error = differences.std(ddof=1) / np.sqrt(len(seeds))
    return float(2 * stdtr(len(seeds) - 1, -abs(differences.mean()) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction (Scand. J. Stat. 6, 1979) to a family of p-values.

    Args:
        p_values: p-values. NaN stands for no test and does not count towards the family.

    Returns:
        The corrected p-values in the same order, at most 1. NaN stays NaN.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    corrected = [float("nan")] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        corrected[i] = highest
    return corrected


def judge(values: Sequence[float], claim: float, decimals: int) -> Verdict:
    """Judge a published number by the spread over seeds.

    Args:
        values: Measured values, one for each seed, in %.
        claim: Published number, in %.
        decimals: Number of decimals that the published number is rounded to. Half a unit of the
            last one counts in its favour.

    Returns:
        ``reproduced`` if the 95 % interval of the mean reaches the number; else ``short by`` or
        ``above by`` and the difference in points. ``one seed`` if there are fewer than two values.
    """
    if len(values) < 2:
        return Verdict("one seed")
    apart = float(np.mean(values)) - claim
    if abs(apart) <= interval(values) + 0.5 * 10.0**-decimals + 1e-9:
        return Verdict("reproduced")
    return Verdict(f"{'above' if apart > 0 else 'short'} by {abs(apart):.2f}")

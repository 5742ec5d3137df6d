"""Which differences are real: paired tests, corrected for their number, and verdicts on claims.

Seeds pair trials: with one seed, two methods start from the same full-precision weights and see the
same batches. So differences are tested seed by seed (Student's paired t-test, two-sided).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit  # Student's t and its inverse

LEVEL = 0.05
_ALIKE = 1e-3  # percent: less than one test image of ImageNet's, more than files round to


@dataclass(frozen=True)
class Verdict:
    """What a measurement says of a published number.

    Attributes:
        text: ``reproduced``, ``short by 1.20``, ``above by 0.31``, ``one seed`` or ``not judged``.
        note: why it is not judged, or what it was measured with otherwise.
    """

    text: str
    note: str = ""


def interval(values: Sequence[float], level: float = LEVEL) -> float:
    """Half the width of the two-sided 1 − ``level`` interval of a mean; NaN of fewer than two."""
    n = len(values)
    if n < 2:
        return float("nan")
    return float(stdtrit(n - 1, 1 - level / 2) * np.std(values, ddof=1) / np.sqrt(n))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """The p-value of the difference of two methods, over the seeds that both have.

    Args:
        a: values by seed.
        b: likewise.

    Returns:
        Of the two-sided paired t-test; 1 where all are equal. NaN, no test, with fewer than two
        common seeds, or where the difference is the same for each: then there is no spread to judge
        it by, as happens where few test images make accuracies coarse.
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
    """Holm's step-down correction (Scand. J. Stat. 6, 1979) of a family of p-values; NaN stay."""
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
        values: measured, one for each seed.
        claim: the published number.
        decimals: to which it is rounded; half a unit of the last counts in its favour.

    Returns:
        ``reproduced`` where the 95 % interval of the mean reaches the number.
    """
    if len(values) < 2:
        return Verdict("one seed")
    apart = float(np.mean(values)) - claim
    if abs(apart) <= interval(values) + 0.5 * 10.0**-decimals + 1e-9:
        return Verdict("reproduced")
    return Verdict(f"{'above' if apart > 0 else 'short'} by {abs(apart):.2f}")

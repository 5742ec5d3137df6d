"""Significance of differences: paired tests, Holm's correction, and verdicts on published numbers.

Trials are paired by seed. Two methods with the same seed start from the same full-precision weights
and see the same batches. Differences are therefore tested seed by seed, with a two-sided paired
t-test. Within a column of a table its variance is moderated (Smyth, Stat. Appl. Genet. Mol. Biol.
3, 2004): shrunk towards that of the other pairs of the column, with four degrees of freedom. Three
seeds then resolve what the ordinary test resolves at five. A difference also has to pass the
ordinary test, so that a pair that is noisier than the others is not told apart by their calm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, stdtr, stdtrit  # χ², Student's t and its inverse

LEVEL = 0.05
PRIOR = 4  # degrees of freedom of the column's variance; more would tell equal rows apart
FEWEST_ROWS = 6  # with fewer, the column's variance is not known well enough
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
    return PairedTests([a, b]).uncorrected(0, 1)


class PairedTests:
    """Moderated paired t-tests between the rows of one column.

    With D the differences of two rows over their S common seeds, s² their sample variance and s₀²
    the median over all pairs of s² / (median of χ²(S − 1) / (S − 1))::

        st² = (k·s₀² + (S − 1)·s²) / (k + S − 1)
        t   = mean(D) / √(st² / S),  with k + S − 1 degrees of freedom

    k is `PRIOR`, or 0 if there are fewer than `FEWEST_ROWS` rows. If every pair has the same
    difference in each seed, s₀² is that of the fewest test images that explain a difference.

    Args:
        rows: Values of each row by seed, in %. Rows that are the same function count once, so they
            are given once.
        items: Number of test images. 0 if it is not known.

    Attributes:
        k: Degrees of freedom of the column's variance.
        variance: The column's variance s₀² of a difference, in points². NaN if it is not known.
    """

    def __init__(self, rows: Sequence[Mapping[int, float]], items: int = 0) -> None:
        seeds = sorted(set[int]().union(*rows))
        values = np.array([[row.get(seed, np.nan) for seed in seeds] for row in rows])
        values = values.reshape(len(rows), len(seeds))
        differences = values[:, None] - values[None]
        self.seeds = np.isfinite(differences).sum(axis=2)
        tested = self.seeds > 1
        n = np.where(tested, self.seeds, 2)
        mean = np.where(tested, np.nansum(differences, axis=2) / n, np.nan)
        spread = np.nansum((differences - mean[..., None]) ** 2, axis=2) / (n - 1)
        same = np.ones((len(rows), len(rows)), dtype=bool)
        if seeds:
            filled = np.where(np.isfinite(differences), differences, mean[..., None])
            same = np.ptp(filled, axis=2) <= _ALIKE
        spread = np.where(same, 0.0, spread)
        above = np.triu(tested, 1)
        typical = spread[above] / (chdtri(n - 1, 0.5) / (n - 1))[above]
        self.k = PRIOR if len(rows) >= FEWEST_ROWS else 0
        self.variance = float(np.median(typical)) if typical.size else float("nan")
        prior = np.full_like(spread, self.variance)
        if self.variance == 0.0 and items:  # differences of whole images: a share q of them differs
            prior = 100.0 * np.abs(mean) / items
        self.differences = mean
        self.freedom = n - 1 + self.k
        own = _p_value(mean, spread, n, n - 1)
        own = np.where(same, 0.0, own) if self.k else own  # the column's variance judges it
        pooled = (self.k * prior + (n - 1) * spread) / self.freedom if self.k else spread
        self.errors = np.sqrt(pooled / n)
        moderated = _p_value(mean, pooled, n, self.freedom)
        equal = same & (np.abs(mean) <= _ALIKE)
        self._own = np.where(equal, 1.0, np.where(tested, own, np.nan))
        self._moderated = np.where(equal, 1.0, np.where(tested, moderated, np.nan))

    def uncorrected(self, a: int, b: int) -> float:
        """Return the p-value of one pair, without correction.

        Args:
            a: Index of a row.
            b: Index of another row.

        Returns:
            The larger of the moderated and the ordinary p-value. 1 if the values are equal for each
            seed. NaN if there is no test: with fewer than two common seeds, or if no pair of the
            column has any spread and the number of test images is not known.
        """
        return float(np.maximum(self._moderated[a, b], self._own[a, b]))

    def corrected(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Return the p-values of a family of pairs, with Holm's correction.

        Args:
            pairs: Indices of two rows each.

        Returns:
            For each pair the larger of the corrected moderated and the ordinary p-value. NaN if
            there is no test.
        """
        corrected = holm([float(self._moderated[pair]) for pair in pairs])
        return [
            max(p, float(self._own[pair])) if p == p else p
            for p, pair in zip(corrected, pairs, strict=True)
        ]

    def half_width(self, a: int, b: int, level: float = LEVEL) -> float:
        """Return half the width of the interval of a difference, in points.

        Args:
            a: Index of a row.
            b: Index of another row.
            level: Significance level. The interval has the confidence 1 − `level`.
        """
        return float(stdtrit(self.freedom[a, b], 1 - level / 2) * self.errors[a, b])

    def ranks(self) -> list[tuple[int, int]]:
        """Return the ranks that each row may have, by all pairs with Holm's correction.

        Returns:
            For each row the first rank, 1 + the number of rows that are significantly better, and
            the last, the number of rows − those that are significantly worse. All intervals hold
            together with a confidence of 95 %.
        """
        rows = len(self.differences)
        pairs = [(a, b) for a in range(rows) for b in range(a + 1, rows)]
        first, last = [1] * rows, [rows] * rows
        for (a, b), p in zip(pairs, self.corrected(pairs), strict=True):
            if p < LEVEL:
                better, worse = (a, b) if self.differences[a, b] > 0 else (b, a)
                first[worse] += 1
                last[better] -= 1
        return list(zip(first, last, strict=True))


def _p_value(
    mean: np.ndarray, variance: np.ndarray, n: np.ndarray, freedom: np.ndarray
) -> np.ndarray:
    """Return the two-sided p-values of Student's t. NaN where there is no variance."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean) / np.sqrt(variance / n)
    return np.where(variance > 0, 2 * stdtr(freedom, -t), np.nan)


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

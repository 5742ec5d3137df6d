"""How far two trainings of one trial may differ where the last bits of the arithmetic do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import chdtri, stdtrit

from qbench.report.significance import PRIOR

_LEVEL = 0.01
_TRAINING_NOISE = 4.0  # variance over seeds in variances of the images, if nothing else is known


def allowed_difference(
    value: float, others: Sequence[float], rows: Sequence[Sequence[float]], items: int
) -> float:
    """Return the largest difference, in points, that the spread over seeds explains.

    Another processor rounds sums otherwise, and a training then ends as another seed might. With s²
    the variance of the row over its other seeds, and s₀² the median over the rows of the column of
    s² / (median of χ²(d) / d), d = seeds − 1::

        st² = (k·s₀² + d·s²) / (k + d)
        limit = t(k + d) · √(2·st²)

    at a level of 1 %. k is `qbench.report.significance.PRIOR`. The variance is at least that of
    the images, p·(1 − p)/N.

    Args:
        value: Recorded value, in %.
        others: Recorded values of the other seeds of the row, in %.
        rows: Recorded values of each row of the column, over its seeds, in %.
        items: Number of images that they were measured on. 0 if it is not known.

    Returns:
        The limit, above 0.
    """
    share = min(max(value / 100, 0.0), 1.0)
    of_images = 1e4 * share * (1 - share) / items if items else 0.0
    typical = [
        np.var(row, ddof=1) * (len(row) - 1) / chdtri(len(row) - 1, 0.5)
        for row in rows
        if len(row) > 1
    ]
    k = PRIOR if typical else 0
    prior = float(np.median(typical)) if typical else 0.0
    d = max(len(others) - 1, 0)
    own = float(np.var(others, ddof=1)) if d else 0.0
    if k + d:
        variance, quantile = (k * prior + d * own) / (k + d), float(stdtrit(k + d, 1 - _LEVEL / 2))
    else:
        variance, quantile = _TRAINING_NOISE * of_images, 2.58
    return quantile * math.sqrt(2 * max(variance, of_images, 1e-4))

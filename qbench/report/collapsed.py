"""Trials that collapsed: they guess, or lie far below the other seeds of their result."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

LEAST_FALL = 5.0  # points below the median of the other seeds
_DEVIATIONS = 6  # sample standard deviations of the other seeds
_ERRORS = 3  # standard errors of an accuracy on the test items


def collapsed(values: Mapping[int, float], chance: float, items: int) -> dict[int, str]:
    """Find the collapsed trials of one result.

    They stay in its mean, and the tables name them.

    Args:
        values: Accuracy of each finished trial by seed, in %.
        chance: Accuracy of guessing, in %. NaN if it is not known.
        items: Number of test items. 0 if it is not known.

    Returns:
        What is wrong by seed: ``no better than guessing``, or ``far below the other seeds``.
    """
    found = {}
    ordered = sorted(values.values())
    for seed, value in values.items():
        if math.isnan(value) or value <= chance + standard_errors(chance, items):
            found[seed] = "no better than guessing"
        elif len(values) > 2 and value < ordered[(len(values) + 1) // 2] - LEAST_FALL:
            # The median of the others is at most that, so of most seeds it need not be computed.
            others = [other for name, other in values.items() if name != seed]
            fall = max(LEAST_FALL, _DEVIATIONS * float(np.std(others, ddof=1)))
            if value < float(np.median(others)) - fall:
                found[seed] = "far below the other seeds"
    return found


def standard_errors(accuracy: float, items: int) -> float:
    """Return three standard errors of an accuracy, in points.

    Args:
        accuracy: The accuracy, in %.
        items: Number of test items. 0 if it is not known.

    Returns:
        The errors; 0 if either is not known.
    """
    if math.isnan(accuracy) or not items:
        return 0.0
    share = min(max(accuracy / 100, 0.0), 1.0)
    return _ERRORS * 100 * math.sqrt(share * (1 - share) / items)

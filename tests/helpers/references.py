"""Formulas that several papers share, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.tensors import Array


def sign(values: Array) -> Array:
    """Return −1 for negative values and +1 for the others, 0 included."""
    return np.where(values >= 0, 1.0, -1.0)


def filter_means(values: Array) -> Array:
    """Return the mean of each filter, to broadcast against the weight."""
    mean: Array = values.mean(axis=tuple(range(1, values.ndim)), keepdims=True)
    return mean


def scaled_signs(weight: Array) -> Array:
    """Return mean|w| · sign(w) of each filter (Rastegari et al., 2016, Eq. 5 and 6)."""
    scaled: Array = filter_means(np.abs(weight)) * sign(weight)
    return scaled


def over_weights(statistic: Any, values: Array, scope: str) -> Array:
    """Return a statistic of each filter or of the layer, to broadcast against the weight."""
    axes = tuple(range(1, values.ndim)) if scope == "filter" else None
    result: Array = statistic(values, axis=axes, keepdims=True)
    return result


def uniform_symmetric(w: Array, r: Array, n: int) -> Array:
    """Round to the 2n + 1 evenly spaced levels from −r to r."""
    s = r / n
    result: Array = s * np.clip(np.round(w / s), -n, n)
    return result

"""Ranges that options and values of recipes are tuned in."""

from __future__ import annotations

import math
from dataclasses import dataclass

_DIGITS = 3  # of a value, so that tables show what was trained


@dataclass(frozen=True)
class Tunable:
    """Range of an option that a suite with ``recipe: tuned`` searches.

    Write it into the annotation of the option. It changes no result: the default stays what it is.

    Args:
        low: Smallest value.
        high: Largest value, above `low`.
        log: Whether the logarithm of the value is uniform, which needs a `low` above 0.

    Raises:
        ValueError: The range is empty, or has no logarithm.

    Example:
        >>> from typing import Annotated
        >>> from qbench.method import Field, Method, Tunable
        >>> class Penalized(Method):
        ...     title = "Penalized"
        ...     rho: Annotated[float, Field(gt=0), Tunable(0.1, 10, log=True)] = 1.0
        >>> Tunable(0.1, 10, log=True).at(0.5)
        1.0
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Check the range."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"Tunable: low must be less than high, not {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"Tunable: with log, low must be above 0, not {self.low}")

    def at(self, share: float) -> float:
        """Return the value at a share of the range, to three significant digits.

        Args:
            share: Share, in [0, 1].
        """
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + (self.high - self.low) * share
        return float(f"{value:.{_DIGITS}g}")

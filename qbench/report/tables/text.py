"""Texts of numbers and names in tables, before any markup."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

DASH = "–"
WAITING = "…"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Format a mean and its sample standard deviation, with two decimals.

    Args:
        values: Values, one for each seed; at least one.

    Returns:
        ``97.22 ± 0.31``, or ``97.22`` for a single value.
    """
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def one_line(text: object) -> str:
    """Put a text on one line and remove control characters.

    Args:
        text: Any object; its ``str`` is used. Error messages may contain escape codes of terminals.

    Returns:
        The text in Unicode form NFC, with each run of white space replaced by one space.
    """
    words = unicodedata.normalize("NFC", " ".join(str(text).split()))
    return "".join(letter for letter in words if unicodedata.category(letter) != "Cc")

"""Numbers and names as tables print them, before any markup."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

DASH = "–"
WAITING = "…"


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return ``97.22 ± 0.31`` with the sample standard deviation, or ``97.22`` of one value."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def one_line(text: object) -> str:
    """Return text on one line, without control characters (as errors from terminals have)."""
    words = unicodedata.normalize("NFC", " ".join(str(text).split()))
    return "".join(letter for letter in words if unicodedata.category(letter) != "Cc")

"""Texts of numbers and names in tables, before any markup."""

from __future__ import annotations

import json
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
        ``97.22 ± 0.31``, or ``97.22`` for a single value. A dash if a value is NaN.
    """
    if np.isnan(values).any():
        return DASH
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


def setting_text(value: object) -> str:
    """Format the value of an option or of a recipe.

    Args:
        value: Any value that JSON can hold.

    Returns:
        The text: ``0.1`` for a float, ``(30, 60)`` for a list, ``(weight 1, temperature 4)`` for a
        mapping, a string without quotes, and otherwise JSON.
    """
    if isinstance(value, list):
        return f"({', '.join(map(setting_text, value))})"
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {setting_text(each)}' for name, each in value.items())})"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)

"""Findings of pydantic in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qbench.errors import nearest
from qbench.spec.words import counted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}

_LENGTHS = {"too_short": ("min_length", "at least"), "too_long": ("max_length", "at most")}


def plain(found: ErrorDetails | Mapping[str, Any]) -> str:
    """Return what is wrong with a value, and what would be valid.

    Args:
        found: A finding, of ``ValidationError.errors()``.

    Returns:
        A clause that ends with the value, as in ``must be a number, not 'x'``; for other findings
        than those of types and bounds, pydantic's message.
    """
    kind, value, limits = found["type"], found["input"], found.get("ctx", {})
    if kind == "value_error":
        return str(limits["error"])
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", limits["expected"])
        if not words:
            return f"must be {limits['expected']}, not {value!r}"
        return f"{value!r} is not one{nearest(str(value), words)}"
    if kind in _BOUNDS:
        name, words_of = _BOUNDS[kind]
        return f"must be {words_of} {limits[name]:g}, not {value!r}"
    family = kind.partition("_")[0]
    if family in _KINDS and kind.endswith(("_type", "_parsing", "_from_float")):
        return f"must be {_KINDS[family]}, not {value!r}"
    if kind == "missing" and isinstance(value, list | tuple):
        return f"is missing from {value!r}"
    for ending, (limit, than) in _LENGTHS.items():
        if kind.endswith(ending):
            unit = "character" if kind.startswith("string") else "value"
            return f"must have {than} {counted(limits[limit], unit)}, not {value!r}"
    if kind == "finite_number":
        return f"must be a finite number, not {value!r}"
    message = found["msg"][0].lower() + found["msg"][1:]
    return f"{message.replace('input should be', 'must be')}, not {value!r}"

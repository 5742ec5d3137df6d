"""Names that a suite can use for methods, models and datasets."""

from __future__ import annotations

import itertools
import re

# What stands next to a method's name in an entry of a suite's ``methods``.
ROW_KEYS = ("label", "recipe", "published", "bits", "placement")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_WORDS_OF_YAML = ("null", "true", "false", "yes", "no", "on", "off")


def unfit(name: object) -> str:
    """Return why a suite cannot use a name, in words that follow it, or an empty string.

    Args:
        name: Name of a method, a model or a dataset.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "is no name: a letter, then at most 63 letters, digits, '_', '-' and '.'"
    if name.lower() in _WORDS_OF_YAML:
        return "is a word of YAML, which a suite would not read as text"
    if name in ROW_KEYS:
        return "is a key of a row in a suite"
    return ""


def snake_case(name: str) -> str:
    """Convert the name of a class, as in ``LSQPlus``, to snake_case, as in ``lsqplus``."""
    out = [name[0].lower()]
    for before, letter in itertools.pairwise(name):
        if letter.isupper() and not before.isupper():
            out.append("_")
        out.append(letter.lower())
    return "".join(out)

"""Errors that are reported to the user without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QbenchError(Exception):
    """Raised for invalid user input.

    The message states the location, the offending value and the valid alternatives.
    """


_FEW = 30


def reason_of(error: Exception) -> str:
    """Return an exception as one line: its type and message, or the message of a `QbenchError`."""
    text = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, QbenchError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def nearest(word: object, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word closest to ``word``, or all if few.

    Args:
        word: Word that the user wrote.
        known: The valid words.

    Returns:
        A clause to append to an error message, or an empty string if no word is valid.
    """
    words = sorted(known)
    if hint := closest(word, words):
        return hint
    more = f" and {len(words) - _FEW} more" if len(words) > _FEW else ""
    return f"; known: {', '.join(words[:_FEW])}{more}" if words else ""


def closest(word: object, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word closest to ``word``, or an empty string.

    Args:
        word: Word that the user wrote.
        known: The valid words, of which there may be too many to list.
    """
    by_letters = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(word).lower(), by_letters, n=1, cutoff=0.5)
    return f"; did you mean '{by_letters[close[0]]}'?" if close else ""

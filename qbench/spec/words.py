"""Counts in words."""

from __future__ import annotations


def counted(count: int, what: str) -> str:
    """Return a count with its noun: ``1 trial``, ``3 trials``.

    Args:
        count: The count.
        what: The noun in the singular. Its plural adds an s.
    """
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"

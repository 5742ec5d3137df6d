"""Numbers in words, as messages print them: two significant digits."""

from __future__ import annotations

_UNITS = (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48), ("days", 86400, 1000))
_YEAR = 365 * 86400


def rounded(value: float) -> str:
    """Round a number to two significant digits: ``0.25``, ``4.1``, ``41`` or ``13,000``.

    Args:
        value: The number, at least 0.
    """
    value = float(f"{value:.2g}")
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def duration(seconds: float) -> str:
    """Return a time in words: ``40 s``, ``3 min``, ``2.5 h``, ``41 days`` or ``37 years``.

    Args:
        seconds: The time.
    """
    for unit, length, most in _UNITS:
        if seconds < most * length:
            return f"{rounded(seconds / length)} {unit}"
    return f"{rounded(seconds / _YEAR)} years"


def size(count: int) -> str:
    """Return a number of bytes in words: ``310 MiB`` or ``1.5 GiB``.

    Args:
        count: Number of bytes.
    """
    if count >= 2**30:
        return f"{rounded(count / 2**30)} GiB"
    return f"{rounded(count / 2**20)} MiB"

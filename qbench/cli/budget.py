"""A limit of the time that a command trains."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from qbench.errors import QbenchError

_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(min|[smhd])")


class Budget:
    """Time that a command may train. It ends as Ctrl-C ends it: nothing is lost.

    Args:
        text: The time, such as ``90min``, ``2h`` or ``1h30m``. None: no limit.

    Attributes:
        text: The time as it was given.
        spent: Whether the time has ended a training.

    Raises:
        QbenchError: The text is no time.
    """

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.spent = False
        self._end = float("inf") if text is None else time.monotonic() + seconds_of(text)

    @contextmanager
    def limit(self) -> Iterator[None]:
        """Context manager that interrupts what runs in it when the time is spent."""
        if self.text is None:
            yield
            return
        timer = threading.Timer(max(0.0, self._end - time.monotonic()), self._interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _interrupt(self) -> None:
        self.spent = True
        os.kill(os.getpid(), signal.SIGINT)  # Tune ends in good order


def seconds_of(text: str) -> float:
    """Return a time in seconds.

    Args:
        text: Numbers with the units s, min (or m), h and d, such as ``90min`` or ``1h30m``.

    Raises:
        QbenchError: The text is no such time, or it is zero.
    """
    stripped = text.strip().lower()
    parts = _PART.findall(stripped)
    if _PART.sub("", stripped).strip() or not parts:
        raise QbenchError(f"'{text}' is no time; write for example 90min, 2h or 1h30m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not seconds:
        raise QbenchError(f"'{text}': a time greater than 0 is needed")
    return float(seconds)

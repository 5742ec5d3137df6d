"""Limits of a trial: one that exceeds its time or memory is ended, even if it hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 30.0  # for a hang that lets no other thread run


@dataclass(frozen=True)
class Limits:
    """Limits of one trial.

    Attributes:
        seconds: Longest time in seconds. None: no limit.
        memory: GiB of memory that its process may take beyond what it had before. None: no limit.
    """

    seconds: float | None = None
    memory: float | None = None


class Guard:
    """Guard that watches this process in a thread of its own until it is closed.

    Args:
        limits: The limits.
        give_up: Called just before the process is ended, with the reason and the stack of the
            thread that made the guard.
    """

    def __init__(self, limits: Limits, give_up: Callable[[str, str], None]) -> None:
        self._limits = limits
        self._give_up = give_up
        self._watched = threading.get_ident()
        self._start = time.monotonic()
        self._memory = resident_bytes()
        self._closed = threading.Event()
        if limits.seconds is None and limits.memory is None:
            return
        if limits.seconds is not None:
            faulthandler.dump_traceback_later(limits.seconds + _GRACE_SECONDS, exit=True)
        threading.Thread(target=self._watch, name="qbench-guard", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            if reason := self._exceeded():
                frame = sys._current_frames().get(self._watched)
                where = "".join(traceback.format_stack(frame)) if frame else ""
                with contextlib.suppress(Exception):
                    self._give_up(reason, where)
                os._exit(1)

    def _exceeded(self) -> str:
        limits = self._limits
        if limits.seconds is not None and time.monotonic() - self._start > limits.seconds:
            return over_time(limits.seconds)
        if limits.memory is not None:
            taken = (resident_bytes() - self._memory) / GIB
            if taken > limits.memory:
                return f"it took {taken:.1f} GiB of memory, and may take {limits.memory:g}"
        return ""


def over_time(seconds: float) -> str:
    """Return the reason of a trial that failed because it took too long."""
    return f"it took longer than its time limit of {seconds:g} s"


def resident_bytes() -> int:
    """Return the bytes of memory of this process, or their peak if the system tells only that."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return pages * resource.getpagesize()

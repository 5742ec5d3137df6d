"""The form of a check: a function that raises if a promise is broken."""

from __future__ import annotations

from collections.abc import Callable

from qbench.lab.check.networks import Case


class BrokenPromiseError(Exception):
    """Raised if a method breaks a promise. The message says which, and what to look at."""


Check = Callable[[Case], None]

"""Progress of the training of a grid, and a summary of how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from qbench.spec.result import Result
from qbench.spec.trial import Trial


class ProgressListener(Protocol):
    """Listener to the progress of a grid. Its methods are called on the driver."""

    def started(self, trial: Trial) -> None:
        """Handle the start of a trial on a worker."""

    def progressed(self, trial: Trial, epoch: int) -> None:
        """Handle the end of an epoch of a trial, counted from 1."""

    def retried(self, trial: Trial, reason: str) -> None:
        """Handle that a trial will be tried again, and why."""

    def ended(self, result: Result) -> None:
        """Handle the result of a trial that is done or has failed."""


@dataclass
class Summary:
    """Outcome of training a grid.

    Attributes:
        ended: Number of trials that ended.
        seconds: Seconds that these trials took together.
        unrecorded: Why results could not be recorded, or empty. They wait in the spool.
        interrupted: Whether Ctrl-C stopped the grid.
        stopped: Why the grid ended before all trials had, other than by Ctrl-C, or empty.
    """

    ended: int = 0
    seconds: float = 0.0
    unrecorded: str = ""
    interrupted: bool = False
    stopped: str = ""

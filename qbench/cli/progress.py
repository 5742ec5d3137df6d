"""Progress of a run: a live display on a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from qbench.cli.words import duration
from qbench.spec.result import Result
from qbench.spec.trial import Trial

_QUIET_SECONDS = 60.0
_ON_VALIDATION = " on validation images"
_STARTING = "Ray is starting; the first trial begins in about 20 seconds"


class Display:
    """Display of a run: trials done, running and failed, the time left, the best results so far.

    It is a context manager, and a `qbench.schedule.progress.ProgressListener`.

    Args:
        console: The console.
        names: Name of each trial that will be trained, by key.
    """

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console = console
        self._names = names
        self._total = total = len(names)
        self._running: dict[str, tuple[Trial, int]] = {}
        self._best: dict[str, Result] = {}
        self._done = 0
        self._failed = 0
        self._begun = False
        self._start = self._spoke = time.monotonic()
        self._live: Live | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("trials"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
            )
            self._task = self._bar.add_task("trials", total=total)
            self._live = Live(
                console=console,
                refresh_per_second=4,
                get_renderable=self._render,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._live:
            self._live.__enter__()
        else:
            self._console.print(f"{_STARTING}.")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.__exit__(kind, error, trace)

    def started(self, trial: Trial) -> None:
        """Show a trial as running."""
        self._begun = True
        self._running[trial.key] = (trial, 0)

    def progressed(self, trial: Trial, epoch: int) -> None:
        """Show the epoch that a trial has reached; in a pipe, at most once a minute."""
        self._running[trial.key] = (trial, epoch)
        if self._live is None and time.monotonic() - self._spoke > _QUIET_SECONDS:
            self._spoke = time.monotonic()
            self._console.print(
                f"{self._names[trial.key]}: epoch {epoch}/{trial.epochs}; {self._left()}",
                highlight=False,
                soft_wrap=True,
            )

    def retried(self, trial: Trial, reason: str) -> None:
        """Print that a trial is tried again: the cause may lie in the machine."""
        self._running.pop(trial.key, None)
        name = escape(self._names[trial.key])
        self._console.print(f"{name}: [yellow]{escape(reason)}; trying again[/]", soft_wrap=True)

    def ended(self, result: Result) -> None:
        """Count a trial as done or failed. Print a line if it failed, and always in a pipe."""
        trial = result.trial
        self._running.pop(trial.key, None)
        if result.status == "done":
            self._done += 1
            column = f"{trial.bits}{_ON_VALIDATION}" if trial.validation else trial.bits
            best = self._best.get(column)
            if not trial.stop_after and (best is None or _score(result)[1] > _score(best)[1]):
                self._best[column] = result
            metric, value = _score(result)
            where = _ON_VALIDATION if trial.validation else ""
            what = f"{metric} {value:.2f}{where}  {result.seconds:.1f} s"
            if result.unreadable:
                what += f"  [yellow]{escape(result.unreadable_text)}[/]"
            if result.audit_text:
                what += f"  [yellow]not k-bit: {escape(result.audit_text)}[/]"
        else:
            self._failed += 1
            what = f"[red]failed:[/] {escape(result.reason)}"
        if self._live:
            self._bar.update(self._task, completed=self._done + self._failed)
        if self._live is None or result.status == "failed":
            self._spoke = time.monotonic()
            count = self._done + self._failed
            width = len(str(self._total))
            self._console.print(
                f"[{count:{width}}/{self._total}] {escape(self._names[trial.key])}: {what}",
                highlight=False,
                soft_wrap=True,
            )

    def _left(self) -> str:
        count = self._done + self._failed
        elapsed = time.monotonic() - self._start
        if count < 2:
            return "time left unknown yet"
        return f"about {duration(elapsed / count * (self._total - count))} left"

    def _render(self) -> RenderableType:
        counts = f"{self._done} done, {len(self._running)} running, {self._failed} failed"
        now = Table.grid(padding=(0, 2))
        for trial, epoch in list(self._running.values()):
            name = escape(self._names[trial.key])
            now.add_row("  training", name, f"epoch {epoch}/{trial.epochs}")
        for column, result in sorted(dict(self._best).items()):
            name = escape(self._names[result.trial.key])
            now.add_row(f"  best {column}", name, f"{_score(result)[1]:.2f}")
        state = f"{counts}; {self._left()}" if self._begun else f"{_STARTING} …"
        return Group(self._bar, state, now)


def _score(result: Result) -> tuple[str, float]:
    """Return the name and the value of a task's first metric."""
    return next(iter(result.metrics.items()))

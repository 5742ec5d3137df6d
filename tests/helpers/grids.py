"""A grid of trials, driven as Ray Tune drives it but without Ray."""

from __future__ import annotations

import time
from pathlib import Path

from qbench.schedule.backlog import Backlog
from qbench.schedule.progress import Summary
from qbench.schedule.recorder import ResultRecorder
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.store.spool import Spool
from qbench.train.limits import Limits


class Heard:
    """Listener that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.results: list[Result] = []

    def started(self, trial: Trial) -> None:
        self.said.append(f"started {trial.seed}")

    def progressed(self, trial: Trial, epoch: int) -> None:
        self.said.append(f"progressed {trial.seed}")

    def retried(self, trial: Trial, reason: str) -> None:
        self.said.append(f"retried {trial.seed}: {reason}")

    def ended(self, result: Result) -> None:
        self.results.append(result)
        self.said.append(f"{result.status} {result.trial.seed}: {result.reason}")


class Grid:
    """A backlog with its spool, recorder and listener."""

    def __init__(self, folder: Path, trials: list[Trial], limits: Limits | None = None) -> None:
        self.heard, self.summary, self.spool = Heard(), Summary(), Spool(folder)
        self.recorded: list[str] = []
        self.refusing = ""
        records = ResultRecorder(self.record, self.spool, self.summary)
        self.backlog = Backlog(
            "suite", trials, self.spool, records, self.heard, self.summary, limits or Limits()
        )
        self.close = records.close
        self._names = iter("abcdefghij")

    def record(self, result: Result) -> None:
        if self.refusing:
            raise OSError(self.refusing)
        self.recorded.append(result.trial.key)

    def start(self) -> str:
        name = next(self._names)
        assert isinstance(self.backlog.suggest(name), dict)
        self.backlog.started(name)
        return name

    def die(self, error: BaseException | None = None) -> None:
        name = self.start()
        self.backlog.errors[name] = error
        self.backlog.on_trial_complete(name, error=True)

    def finish(self) -> None:
        name = self.start()
        key = self.backlog.running[name].key
        self.spool.put(done(self.backlog.running[name]), None)
        self.backlog.on_trial_complete(name, {"done": True})
        assert key not in {trial.key for trial in self.backlog.waiting}


def done(what: Trial) -> Result:
    return Result(trial=what, status="done", metrics={"top1": 90.0}, started=time.time())

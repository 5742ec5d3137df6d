"""Searcher of Ray Tune that holds the trials that wait for a worker, and the events of Tune."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from qbench.schedule.progress import ProgressListener, Summary
from qbench.schedule.recorder import ResultRecorder
from qbench.spec.result import Result
from qbench.spec.trial import FP32, Trial
from qbench.store.spool import Spool
from qbench.train.limits import Limits, over_time

TRIES = 3  # attempts at a trial whose worker dies, such as with its node


class Backlog(Searcher):
    """Searcher that gives Tune the trials in order, once the trials that they need have ended.

    Args:
        suite: Name of the suite.
        trials: Trials to train, in order.
        spool: Spool that workers write results to.
        recorder: Receives the key of each trial that ends.
        listener: Is called as trials progress.
        summary: Counts the trials that end.
        limits: Limits of a trial.

    Attributes:
        waiting: Trials that no worker has started.
        running: Trials in training, or that wait for their worker to start, by Tune's id.
        errors: Exceptions that ended workers, by Tune's id.
    """

    def __init__(
        self,
        suite: str,
        trials: Sequence[Trial],
        spool: Spool,
        recorder: ResultRecorder,
        listener: ProgressListener,
        summary: Summary,
        limits: Limits,
    ) -> None:
        super().__init__()
        self._suite = suite
        self.waiting = list(trials)
        self.running: dict[str, Trial] = {}
        self._spool = spool
        self._recorder = recorder
        self._listener = listener
        self._summary = summary
        self._limits = limits
        self._tries: Counter[str] = Counter()
        self._began: dict[str, float] = {}
        self.errors: dict[str, BaseException | None] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial whose sources have ended, None to wait, or ``FINISHED``."""
        pending = {trial.key for trial in (*self.waiting, *self.running.values())}
        for trial in list(self.waiting):
            ended = self._spool.get(trial.key)
            if ended is not None and ended.status == "done":
                # A worker of a driver that was killed has ended it in the meantime.
                self.waiting.remove(trial)
                pending.discard(trial.key)
                self._end(ended)
            elif pending.isdisjoint(trial.sources):
                if ended is not None:  # a failure that was not recorded; this attempt replaces it
                    self._spool.discard(trial.key)
                self.waiting.remove(trial)
                self.running[trial_id] = trial
                return {"trial": trial.model_dump_json()}
        return None if self.waiting or self.running else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take the result of a trial from the spool, or put the trial back to try it again."""
        trial = self.running.pop(trial_id, None)
        if trial is None or (result is not None and not result.get("done") and not error):
            return
        ended = self._spool.get(trial.key)
        if ended is None and not error and result is not None:
            # A worker reports the end after it has written the result. Another attempt would write
            # it to the same place.
            where = f"spool/{trial.key}"  # results are published without folders of a machine
            reason = f"its worker reported that it had ended, and {where} has no readable result"
            ended = self._failed(trial, reason)
        ended = ended or self._ended_badly(trial_id, trial)
        if ended is None:
            self.waiting.insert(0, trial)
        else:
            self._end(ended)

    def take_back(self, error: BaseException) -> None:
        """Put trials in training back, or end them, after Tune itself has failed."""
        for trial_id in reversed(list(self.running)):  # each goes to the front
            if trial_id not in self._began:  # no worker had started it, so that is no attempt
                self.waiting.insert(0, self.running.pop(trial_id))
                continue
            self.errors[trial_id] = error
            self.on_trial_complete(trial_id, error=True)

    def started(self, trial_id: str) -> None:
        """Note that a worker has started a trial."""
        self._began.setdefault(trial_id, time.monotonic())
        self._listener.started(self.running[trial_id])

    def progressed(self, trial_id: str, epoch: int) -> None:
        """Pass on that a trial has ended an epoch."""
        self._listener.progressed(self.running[trial_id], epoch)

    def _ended_badly(self, trial_id: str, trial: Trial) -> Result | None:
        """Return the result of a trial whose worker left none, or None to try it again."""
        reason = reason_of(self.errors.pop(trial_id, None))
        limit = self._limits.seconds
        took = time.monotonic() - self._began.pop(trial_id, time.monotonic())
        if limit is not None and took > limit:
            return self._failed(trial, over_time(limit))
        self._tries[trial.key] += 1
        if self._tries[trial.key] < TRIES:
            self._listener.retried(trial, reason)
            return None
        return self._failed(trial, f"{reason}; tried {TRIES} times")

    def _end(self, result: Result) -> None:
        key = result.trial.key
        weights = self._spool.folder(key) / "weights.pt"
        if result.trial.method == FP32 and not result.trial.stop_after and weights.exists():
            self._spool.keep_weights(key, weights)
        self._summary.ended += 1
        self._summary.seconds += result.seconds
        self._listener.ended(result)
        self._recorder.add(key)
        if result.status == "failed":
            for trial in [t for t in self.waiting if key in t.sources]:
                self.waiting.remove(trial)
                which = "it starts from" if key == trial.source else "that teaches it"
                reason = f"the full-precision network {which} failed: {result.reason}"
                self._end(self._failed(trial, reason))

    def _failed(self, trial: Trial, reason: str) -> Result:
        result = Result(
            trial=trial, suite=self._suite, status="failed", reason=reason, started=time.time()
        )
        with contextlib.suppress(OSError):  # the recorder reports that it is absent
            self._spool.put(result, None)
        return result

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the store knows which trials are done."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing."""


def reason_of(error: BaseException | None) -> str:
    """Return in one line why a worker ended without a result."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, ray.exceptions.OutOfMemoryError):
        return "the machine ran out of memory"
    if error is None or isinstance(cause, ray.exceptions.RayError | tune.TuneError):
        return "its worker died: out of memory, killed, or crashed"
    return f"its worker failed: {(str(cause).strip() or repr(cause)).splitlines()[-1]}"


class ErrorReader(FIFOScheduler):
    """Scheduler that gives the backlog the exception that ended a worker."""

    def __init__(self, backlog: Backlog) -> None:
        super().__init__()
        self._backlog = backlog

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Read the exception that Tune stored; it reports the end of the trial afterwards."""
        with contextlib.suppress(OSError, TypeError), open(trial.pickled_error_file, "rb") as file:
            self._backlog.errors[trial.trial_id] = ray.cloudpickle.load(file)


class ProgressCallback(tune.Callback):
    """Callback that passes starts and epochs of trials to the backlog."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Pass on that a trial has started."""
        self._backlog.started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass on the epoch that a trial has reached."""
        if not result.get("done"):
            self._backlog.progressed(trial.trial_id, result["epoch"])

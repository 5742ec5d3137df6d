"""Trials on Ray Tune: as many at once as the machine, or the cluster, can hold."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from qbench.errors import QbenchError
from qbench.registry import Plugin
from qbench.schedule.capacity import Share, share_of_process, trials_at_once
from qbench.schedule.worker import Desk, Job, TrialActor
from qbench.spec.result import Result
from qbench.spec.trial import FP32, Trial
from qbench.store.spool import Spool
from qbench.suite.suite import Resources
from qbench.train.limits import Limits, over_time

PATIENCE_SECONDS = 30.0  # with a store that is away when all is trained
TRIES = 3  # of a trial whose worker dies: killed with its node, or by what ran beside it


class Observer(Protocol):
    """Watches a grid being trained; called on the driver."""

    def started(self, trial: Trial) -> None:
        """A trial has been given to a worker."""

    def progressed(self, trial: Trial, epoch: int) -> None:
        """A trial has trained up to an epoch."""

    def retried(self, trial: Trial, reason: str) -> None:
        """A trial will be tried again."""

    def ended(self, result: Result) -> None:
        """A trial is done or has failed."""


@dataclass
class Summary:
    """How a grid ended.

    Attributes:
        ended: how many trials did.
        seconds: that these took.
        unrecorded: why results that ended could not be recorded; they wait in the spool.
        interrupted: whether Ctrl-C stopped it.
        stopped: why it ended before all trials had, if not by Ctrl-C.
    """

    ended: int = 0
    seconds: float = 0.0
    unrecorded: str = ""
    interrupted: bool = False
    stopped: str = ""


def run(
    suite: str,
    trials: Sequence[Trial],
    spool: Spool,
    record: Callable[[Result], None],
    observer: Observer,
    resources: Resources,
    address: str | None = None,
    plugins: Sequence[Plugin] = (),
    data: Mapping[str, Any] | None = None,
    loader_workers: float = 1,
) -> Summary:
    """Train trials, each as soon as the one it starts from has finished.

    Args:
        suite: the suite's name, under which results are recorded.
        trials: what to train; a trial whose base is neither here nor in the spool fails.
        spool: where workers leave what they finish.
        record: stores a result; called once for each, in a thread of its own.
        observer: is told what happens.
        resources: what one trial takes.
        address: of a running Ray cluster; None: ``RAY_ADDRESS``, else this machine alone.
        plugins: method files that the trials need.
        data: options of their dataset.
        loader_workers: Loader workers (CPU cores) of each GPU that the dataset asks for.

    Raises:
        QbenchError: there is no cluster at the address, or no node can hold a trial.
    """
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    summary = Summary()
    recorder = _Recorder(record, spool, summary)
    backlog = _Backlog(suite, trials, spool, recorder, observer, summary, resources.limits)
    falls = 0
    try:
        while backlog.waiting and falls < TRIES:
            ended = summary.ended
            try:
                _train(
                    backlog,
                    Desk(spool, "", suite),
                    resources,
                    address,
                    plugins,
                    data,
                    loader_workers,
                )
            except QbenchError as error:
                if falls == 0:
                    raise
                summary.stopped = str(error)
                break
            except Exception as error:  # Tune falls where a worker of its dies at the wrong moment
                falls = falls + 1 if summary.ended == ended else 1
                summary.stopped = _reason(error) if falls == TRIES else ""
                backlog.take_back(error)
            else:
                # Tune ends in good order on Ctrl-C and does not say so; it leaves trials behind.
                summary.interrupted = bool(backlog.waiting or backlog.running)
                break
    except KeyboardInterrupt:
        summary.interrupted = True
    finally:
        recorder.close()
        _disconnect()
    return summary


def _train(
    backlog: _Backlog,
    desk: Desk,
    resources: Resources,
    address: str | None,
    plugins: Sequence[Plugin],
    data: Mapping[str, Any] | None,
    loader_workers: float,
) -> None:
    """Have Tune train what waits, until nothing does."""
    _disconnect()
    _connect(address)
    scratch = tempfile.mkdtemp(prefix="qbench-tune-")
    try:
        nodes = _nodes()
        process = share_of_process(resources, nodes, loader_workers)
        desk = dataclasses.replace(desk, node=ray.get_runtime_context().get_node_id())
        job = Job(desk, list(plugins), dict(data or {}), *process, resources.limits)
        together = resources.processes > 1
        tune.run(
            tune.with_parameters(TrialActor, job=job),
            name="grid",
            search_alg=backlog,
            num_samples=TRIES * len(backlog.waiting),
            scheduler=_Errors(backlog),
            # Ray Train takes what a trial on several processes needs, so Tune takes but a byte.
            resources_per_trial=(
                {"memory": 1} if together else {"cpu": process.cpus, "gpu": process.gpus}
            ),
            max_concurrent_trials=(
                trials_at_once(process, resources.processes, nodes) if together else None
            ),
            reuse_actors=True,
            max_failures=0,
            raise_on_failed_trial=False,
            storage_path=scratch,
            trial_dirname_creator=lambda trial: trial.trial_id,
            callbacks=[_Starts(backlog)],
            verbose=0,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Backlog(Searcher):
    """Hands Tune the trials whose full-precision weights are there, in order."""

    def __init__(
        self,
        suite: str,
        trials: Sequence[Trial],
        spool: Spool,
        recorder: _Recorder,
        observer: Observer,
        summary: Summary,
        limits: Limits,
    ) -> None:
        super().__init__()
        self._suite = suite
        self.waiting = list(trials)
        self.running: dict[str, Trial] = {}
        self._spool = spool
        self._recorder = recorder
        self._observer = observer
        self._summary = summary
        self._limits = limits
        self._tries: Counter[str] = Counter()
        self._began: dict[str, float] = {}
        self.errors: dict[str, BaseException | None] = {}

    def suggest(self, trial_id: str) -> Any:
        pending = {trial.key for trial in (*self.waiting, *self.running.values())}
        for trial in list(self.waiting):
            ended = self._spool.get(trial.key)
            if ended is not None and ended.status == "done":
                # A worker of a driver that was killed has ended it in the meantime.
                self.waiting.remove(trial)
                pending.discard(trial.key)
                self._end(ended)
            elif trial.base is None or trial.base.key not in pending:
                if ended is not None:  # a failure that no store took; this try comes in its place
                    self._spool.discard(trial.key)
                self.waiting.remove(trial)
                self.running[trial_id] = trial
                return {"trial": trial.model_dump_json()}
        return None if self.waiting or self.running else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial = self.running.pop(trial_id, None)
        if trial is None or (result is not None and not result.get("done") and not error):
            return
        ended = self._spool.get(trial.key) or self._ended_badly(trial_id, trial)
        if ended is None:
            self.waiting.insert(0, trial)
        else:
            self._end(ended)

    def take_back(self, error: BaseException) -> None:
        """Have what was being trained wait again, or end: Tune has fallen."""
        for trial_id in reversed(list(self.running)):  # each goes to the front
            self.errors[trial_id] = error
            self.on_trial_complete(trial_id, error=True)

    def started(self, trial_id: str) -> None:
        """A worker has a trial."""
        self._began.setdefault(trial_id, time.monotonic())
        self._observer.started(self.running[trial_id])

    def progressed(self, trial_id: str, epoch: int) -> None:
        """A trial has trained up to an epoch."""
        self._observer.progressed(self.running[trial_id], epoch)

    def _ended_badly(self, trial_id: str, trial: Trial) -> Result | None:
        """The result of a trial whose worker left none; None where it is worth another try."""
        reason = _reason(self.errors.pop(trial_id, None))
        limit = self._limits.seconds
        took = time.monotonic() - self._began.pop(trial_id, time.monotonic())
        if limit is not None and took > limit:
            return self._failed(trial, over_time(limit))
        self._tries[trial.key] += 1
        if self._tries[trial.key] < TRIES:
            self._observer.retried(trial, reason)
            return None
        return self._failed(trial, f"{reason}; tried {TRIES} times")

    def _end(self, result: Result) -> None:
        key = result.trial.key
        weights = self._spool.folder(key) / "weights.pt"
        if result.trial.method == FP32 and weights.exists():
            self._spool.keep_weights(key, weights)
        self._summary.ended += 1
        self._summary.seconds += result.seconds
        self._observer.ended(result)
        self._recorder.add(key)
        if result.status == "failed":
            for trial in [t for t in self.waiting if t.base and t.base.key == key]:
                self.waiting.remove(trial)
                reason = f"the full-precision network it starts from failed: {result.reason}"
                self._end(self._failed(trial, reason))

    def _failed(self, trial: Trial, reason: str) -> Result:
        result = Result(
            trial=trial, suite=self._suite, status="failed", reason=reason, started=time.time()
        )
        with contextlib.suppress(OSError):  # the recorder finds that it is not there, and says so
            self._spool.put(result, None)
        return result

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is done is known from the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


def _reason(error: BaseException | None) -> str:
    """What a worker ended with, if not with a result."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, ray.exceptions.OutOfMemoryError):
        return "the machine ran out of memory"
    if error is None or isinstance(cause, ray.exceptions.RayError | tune.TuneError):
        return "its worker died: out of memory, killed, or crashed"
    return f"its worker failed: {(str(cause).strip() or repr(cause)).splitlines()[-1]}"


class _Errors(FIFOScheduler):
    """Tells the backlog what a trial's worker ended with, just before Tune tells that it did."""

    def __init__(self, backlog: _Backlog) -> None:
        super().__init__()
        self._backlog = backlog

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        with contextlib.suppress(OSError, TypeError), open(trial.pickled_error_file, "rb") as file:
            self._backlog.errors[trial.trial_id] = ray.cloudpickle.load(file)


class _Starts(tune.Callback):
    """Tells the backlog what Tune starts and hears."""

    def __init__(self, backlog: _Backlog) -> None:
        self._backlog = backlog

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._backlog.started(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if not result.get("done"):
            self._backlog.progressed(trial.trial_id, result["epoch"])


class _Recorder:
    """Records results in a thread, so that workers never wait for the store.

    They wait in the spool, not in memory. What the store refuses, because its server is away or its
    disk full, is tried again with every later result, and for a while at the end; what is left
    then stays in the spool, for the next run.
    """

    def __init__(self, record: Callable[[Result], None], spool: Spool, summary: Summary) -> None:
        self._record = record
        self._spool = spool
        self._summary = summary
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._refused: list[str] = []
        self._thread = threading.Thread(target=self._work, name="qbench-recorder")
        self._thread.start()

    def add(self, key: str) -> None:
        """Queue the result that waits under a key."""
        self._queue.put(key)

    def close(self) -> None:
        """Wait until everything queued has been tried."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            self._try([key, *self._refused])
        until = time.monotonic() + PATIENCE_SECONDS
        self._try(self._refused)
        while self._refused and time.monotonic() < until:
            time.sleep(PATIENCE_SECONDS / 10)
            self._try(self._refused)

    def _try(self, keys: list[str]) -> None:
        """Record results up to the first that is refused, which then has its turn last."""
        self._summary.unrecorded = ""
        for index, key in enumerate(keys):
            try:
                result = self._spool.get(key)
                if result is None:
                    raise QbenchError(f"{self._spool.folder(key)} cannot be read")
                self._record(result)
            except Exception as error:
                self._summary.unrecorded = str(error)
                self._refused = [*keys[index + 1 :], key]
                return
        self._refused = []


def _disconnect() -> None:
    """Leave Ray, and stop it where it is this machine's alone.

    Ray ends the process if what Tune leaves behind is collected during that, in whichever thread.
    """
    gc.collect()
    gc.disable()
    ray.shutdown()
    gc.enable()


def _connect(address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        _probe(address)
    local = {} if address else {"include_dashboard": False, "num_gpus": _gpus()}
    try:
        ray.init(
            address=address or "local",
            logging_level=logging.CRITICAL,
            log_to_driver=False,
            configure_logging=False,
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start"
        reason = " ".join(str(error).split())[:400]  # of versions that differ it takes five lines
        raise QbenchError(f"{where}: {reason}") from error


def _probe(address: str) -> None:
    """Raise QbenchError where nothing listens: Ray itself tries for minutes."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise QbenchError(
            f"'{address}' is no address of a Ray cluster; write HOST:PORT, and run qbench on a node"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise QbenchError(f"no Ray cluster answers at {address}: {error}") from error


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _nodes() -> list[Share]:
    """Return the CPU cores and GPUs of each living node of the cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Share(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]

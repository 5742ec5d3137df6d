"""Trials on Ray Tune: as many at once as the machine, or the cluster, can hold."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.search import Searcher

from qbench.errors import QbenchError
from qbench.outcome import Outcome
from qbench.registry import Plugin
from qbench.spool import Spool
from qbench.suite import Resources
from qbench.trial import Trial
from qbench.worker import Desk, Job, TrialActor


class Observer(Protocol):
    """Watches a grid being trained; called on the driver."""

    def started(self, trial: Trial) -> None:
        """A trial has been given to a worker."""

    def progressed(self, trial: Trial, epoch: int) -> None:
        """A trial has trained up to an epoch."""

    def ended(self, outcome: Outcome) -> None:
        """A trial is done or has failed."""


@dataclass
class Summary:
    """How a grid ended.

    Attributes:
        outcomes: of the trials that ended, in the order in which they did.
        unrecorded: why outcomes that ended could not be recorded; they wait in the spool.
        interrupted: whether Ctrl-C stopped it.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    unrecorded: str = ""
    interrupted: bool = False


def run(
    suite: str,
    trials: Sequence[Trial],
    spool: Spool,
    record: Callable[[Outcome], None],
    observer: Observer,
    resources: Resources,
    address: str | None = None,
    plugins: Sequence[Plugin] = (),
    data: Mapping[str, Any] | None = None,
    feeding: float = 1,
) -> Summary:
    """Train trials, each as soon as the one it starts from has finished.

    Args:
        suite: the suite's name, under which outcomes are recorded.
        trials: what to train; a trial whose base is neither here nor in the spool fails.
        spool: where workers leave what they finish.
        record: stores an outcome; called once for each, in a thread of its own.
        observer: is told what happens.
        resources: what one trial takes.
        address: of a running Ray cluster; None: ``RAY_ADDRESS``, else this machine alone.
        plugins: method files that the trials need.
        data: options of their dataset.
        feeding: CPU cores that feed a GPU with its data.

    Raises:
        QbenchError: there is no cluster at the address, or no node can hold a trial.
    """
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _connect(address)
    summary = Summary()
    recorder = _Recorder(record, summary)
    scratch = tempfile.mkdtemp(prefix="qbench-tune-")
    try:
        process = _process(resources, feeding)
        desk = Desk(spool, ray.get_runtime_context().get_node_id(), suite)
        backlog = _Backlog(suite, trials, spool, recorder, observer, summary)
        job = Job(desk, list(plugins), dict(data or {}), process["cpu"], process["gpu"])
        together = resources.processes > 1
        tune.run(
            tune.with_parameters(TrialActor, job=job),
            name="grid",
            search_alg=backlog,
            num_samples=len(trials),
            # Ray Train takes what a trial on several processes needs, so Tune takes but a byte.
            resources_per_trial={"memory": 1} if together else process,
            max_concurrent_trials=_at_once(process, resources.processes) if together else None,
            reuse_actors=True,
            max_failures=0,
            raise_on_failed_trial=False,
            storage_path=scratch,
            trial_dirname_creator=lambda trial: trial.trial_id,
            callbacks=[_Starts(observer)],
            verbose=0,
        )
        # Tune ends in good order on Ctrl-C and does not say so; it leaves trials behind.
        summary.interrupted = bool(backlog.waiting or backlog.running)
    except KeyboardInterrupt:
        summary.interrupted = True
    finally:
        recorder.close()
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
    return summary


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
    ) -> None:
        super().__init__()
        self._suite = suite
        self.waiting = list(trials)
        self.running: dict[str, Trial] = {}
        self._spool = spool
        self._recorder = recorder
        self._observer = observer
        self._summary = summary

    def suggest(self, trial_id: str) -> Any:
        pending = {trial.key for trial in (*self.waiting, *self.running.values())}
        for trial in self.waiting:
            if trial.base is None or trial.base.key not in pending:
                self.waiting.remove(trial)
                self.running[trial_id] = trial
                return {"trial": trial.model_dump_json()}
        return None if self.waiting else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial = self.running.pop(trial_id, None)
        if trial is None or (result is not None and not result.get("done") and not error):
            return
        outcome = self._spool.get(trial.key)
        if outcome is None:
            outcome = self._failed(trial, "its worker died: out of memory, killed, or crashed")
        self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        key = outcome.trial.key
        weights = self._spool.folder(key) / "weights.pt"
        if outcome.trial.method == "fp32" and weights.exists():
            self._spool.keep_weights(key, weights)
        self._summary.outcomes.append(outcome)
        self._observer.ended(outcome)
        self._recorder.add(outcome)
        if outcome.status == "failed":
            for trial in [t for t in self.waiting if t.base and t.base.key == key]:
                self.waiting.remove(trial)
                reason = f"the full-precision network it starts from failed: {outcome.reason}"
                self._end(self._failed(trial, reason))

    def _failed(self, trial: Trial, reason: str) -> Outcome:
        now = time.time()
        return Outcome(trial=trial, suite=self._suite, status="failed", reason=reason, started=now)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is done is known from the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Starts(tune.Callback):
    """Tells the observer what Tune starts and hears."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._observer.started(Trial.model_validate_json(trial.config["trial"]))

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if not result.get("done"):
            self._observer.progressed(
                Trial.model_validate_json(trial.config["trial"]), result["epoch"]
            )


class _Recorder:
    """Records outcomes in a thread, so that workers never wait for the store."""

    def __init__(self, record: Callable[[Outcome], None], summary: Summary) -> None:
        self._record = record
        self._summary = summary
        self._queue: queue.Queue[Outcome | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="qbench-recorder")
        self._thread.start()

    def add(self, outcome: Outcome) -> None:
        """Queue an outcome."""
        self._queue.put(outcome)

    def close(self) -> None:
        """Wait until everything queued has been tried."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (outcome := self._queue.get()) is not None:
            try:
                self._record(outcome)
            except Exception as error:  # the outcome stays in the spool for the next run
                self._summary.unrecorded = str(error)


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
        raise QbenchError(f"{where}: {str(error).splitlines()[0]}") from error


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


def _process(resources: Resources, feeding: float) -> dict[str, float]:
    """What one process of a trial takes of the cluster.

    Raises:
        QbenchError: the cluster has not enough for a trial.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = max(node.get("CPU", 0) for node in nodes)
    gpus = max(node.get("GPU", 0) for node in nodes)
    wanted_cpus, wanted_gpus = resources.process(cpus, gpus, feeding)
    process = {"cpu": wanted_cpus, "gpu": wanted_gpus}
    if _at_once(process, resources.processes) < 1:
        each = f" for each of {resources.processes} processes" if resources.processes > 1 else ""
        raise QbenchError(
            f"a trial takes {wanted_cpus:g} CPUs and {wanted_gpus:g} GPUs{each}, and the largest "
            f"node has {cpus:g} and {gpus:g}; see `resources` in the suite"
        )
    return process


def _at_once(process: Mapping[str, float], processes: int) -> int:
    """How many trials of so many processes the cluster can hold."""
    held = 0
    for node in (node["Resources"] for node in ray.nodes() if node["Alive"]):
        rooms = [
            (node.get(kind, 0) + 1e-9) // size
            for kind, size in (("CPU", process["cpu"]), ("GPU", process["gpu"]))
            if size
        ]
        held += int(min(rooms))
    return held // processes

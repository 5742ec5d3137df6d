"""What runs in a Ray worker: one actor trains one trial after another.

torch is imported with the first trial, not with this module: Tune gives a waiting trial to the
actor that is free first, and one that takes seconds to start would never get its turn beside one
that trains for less.

A trial on several processes is trained by Ray Train; the actor waits for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from qbench.quant.plugins import Plugin, load_plugin
from qbench.spec.result import Result
from qbench.spec.trial import FP32, Trial
from qbench.store.spool import Spool
from qbench.train.limits import Guard, Limits

if TYPE_CHECKING:
    from qbench.train.trial import Training

REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class Desk:
    """The driver's spool, from any node of the cluster.

    Attributes:
        spool: the spool, on the driver's machine.
        node: the Ray node that the driver runs on.
        suite: the suite being run.
    """

    spool: Spool
    node: str
    suite: str

    def put(self, result: Result, weights: bytes | None) -> None:
        """Write a result to the driver's spool and block until it is on disk.

        Of a rehearsal no weights are kept but those that other trials start from.
        """
        result.suite = self.suite
        if result.trial.rehearsal and result.trial.method != FP32:
            weights = None
        self._do(_put, result.model_dump_json(), weights)

    def weights(self, key: str) -> bytes:
        """Return the stored weights that a trial starts from."""
        data: bytes = self._do(_weights, key)
        return data

    def checkpoint(self, key: str) -> bytes | None:
        """Return the last checkpoint of a trial, or None."""
        data: bytes | None = self._do(Spool.checkpoint, key)
        return data

    def keep_checkpoint(self, key: str, data: bytes) -> None:
        """Write a checkpoint and block until it is on the driver's disk."""
        self._do(Spool.keep_checkpoint, key, data)

    def progress(self, key: str) -> int:
        """Return the last epoch that a trial on several processes has reported."""
        epoch: int = self._do(Spool.progress, key)
        return epoch

    def keep_progress(self, key: str, epoch: int) -> None:
        """Report the last epoch of a trial."""
        self._do(Spool.keep_progress, key, epoch)

    def _do(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """Do something with the spool: here, or from another node by a task on the driver's."""
        if str(ray.get_runtime_context().get_node_id()) == self.node:
            return what(self.spool, *arguments)
        where = NodeAffinitySchedulingStrategy(self.node, soft=False)
        task = ray.remote(what).options(num_cpus=0, scheduling_strategy=where)
        return ray.get(task.remote(self.spool, *arguments))


def _put(spool: Spool, result: str, weights: bytes | None) -> None:
    spool.put(Result.model_validate_json(result), weights)


def _weights(spool: Spool, key: str) -> bytes:
    return spool.weights_path(key).read_bytes()


@dataclass(frozen=True)
class TrialCheckpoints:
    """The checkpoints of one trial, on the driver's machine (`Checkpoints`)."""

    desk: Desk
    key: str

    def load(self) -> bytes | None:
        """Return the last one, or None."""
        return self.desk.checkpoint(self.key)

    def save(self, data: bytes) -> None:
        """Write one in place of the last."""
        self.desk.keep_checkpoint(self.key, data)


@dataclass(frozen=True)
class Job:
    """What every trial of a run is trained with.

    Attributes:
        desk: where results go.
        plugins: method files to load before the first trial.
        data: options of the dataset.
        cpus: CPU cores of each process of a trial.
        gpus: GPUs of each.
        limits: what a trial may take.
    """

    desk: Desk
    plugins: Sequence[Plugin] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 1
    gpus: float = 0
    limits: Limits = field(default_factory=Limits)

    def training(self, trial: Trial) -> Training:
        """Return the training of a trial in this process."""
        from qbench.train.trial import ExecutionEnvironment, Training

        weights = self.desk.weights(trial.source) if trial.source else None
        place = ExecutionEnvironment(self.data, self.cpus, TrialCheckpoints(self.desk, trial.key))
        return Training(trial, weights, place)


class TrialActor(tune.Trainable):
    """Trains the trial in its config; reused for the next one, so that torch is imported once."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Take the first trial; the method files are loaded when it starts."""
        assert job is not None  # noqa: S101 - Tune passes it by keyword
        self.job = job
        self.plugins = list(job.plugins)
        self.config = config
        self.epochs: Iterator[int] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.config = new_config
        self.epochs = None
        return True

    def step(self) -> dict[str, Any]:
        """Train for some seconds of epochs, or to the end, and say how far it is."""
        start = time.monotonic()
        trial = Trial.model_validate_json(self.config["trial"])
        if self.epochs is None:
            self.epochs = self._guarded(trial)
        for epoch in self.epochs:
            if time.monotonic() - start > REPORT_SECONDS:
                return {"epoch": epoch, "done": False}
        return {"epoch": trial.recipe.epochs, "done": True}

    def _guarded(self, trial: Trial) -> Iterator[int]:
        """Train, within the limits of a trial."""
        import qbench.train.trial  # noqa: F401 - torch is no part of what the first trial takes

        started, start = time.time(), time.monotonic()  # a clock may be set while it trains

        def give_up(reason: str, where: str) -> None:
            result = Result(trial=trial, status="failed", reason=reason, started=started)
            result.traceback = where
            result.seconds = time.monotonic() - start
            self.job.desk.put(result, None)

        guard = Guard(self.job.limits, give_up)
        try:
            yield from self._alone(trial) if trial.processes == 1 else self._together(trial)
        finally:
            guard.close()

    def _alone(self, trial: Trial) -> Iterator[int]:
        while self.plugins:
            load_plugin(self.plugins[0])
            self.plugins.pop(0)
        me = os.getpid()
        training = self.job.training(trial)
        for record in training.epochs():
            _end_copies(me)
            yield int(record["epoch"])
        _end_copies(me)
        self.job.desk.put(training.result, training.weights)
        del training
        _return_memory()

    def _together(self, trial: Trial) -> Iterator[int]:
        """Have Ray Train train it; the first process puts the result on the desk."""
        with tempfile.TemporaryDirectory(prefix="qbench-train-") as scratch:
            trainer = _trainer(self.job, trial, scratch)
            thread = threading.Thread(target=_fit, args=(trainer,), daemon=True)
            thread.start()
            while thread.is_alive():
                thread.join(REPORT_SECONDS)
                yield self.job.desk.progress(trial.key)


def _end_copies(pid: int) -> None:
    """End this process if it is a copy that a method forked and let go on."""
    if os.getpid() != pid:
        os._exit(0)


def _return_memory() -> None:
    """Give back what a trial has freed and the allocator keeps (`ray_environment`)."""
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def _fit(trainer: Any) -> None:
    from ray.train import TrainingFailedError

    # The process that failed has put its result on the desk, or has died.
    with contextlib.suppress(TrainingFailedError):
        trainer.fit()


def _trainer(job: Job, trial: Trial, scratch: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        _train_share,
        train_loop_config={"job": job, "trial": trial.model_dump_json()},
        scaling_config=ScalingConfig(
            num_workers=trial.processes,
            use_gpu=job.gpus > 0,
            resources_per_worker={"CPU": job.cpus, **({"GPU": job.gpus} if job.gpus else {})},
        ),
        run_config=RunConfig(
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )


def _train_share(config: dict[str, Any]) -> None:
    """Train a process' share of a trial; each of its processes runs this."""
    import torch
    from ray.train.torch import get_device

    job: Job = config["job"]
    for plugin in job.plugins:
        load_plugin(plugin)
    if (device := get_device()).type == "cuda":
        torch.cuda.set_device(device)
    training = job.training(Trial.model_validate_json(config["trial"]))
    first = ray.train.get_context().get_world_rank() == 0
    for record in training.epochs():
        if first:
            job.desk.keep_progress(training.result.trial.key, int(record["epoch"]))
    result = training.result
    if result.status == "failed":
        job.desk.put(result, None)
        raise RuntimeError(result.reason)  # so that the other processes do not wait for this one
    if first:
        job.desk.put(result, training.weights)

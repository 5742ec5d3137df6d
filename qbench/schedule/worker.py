"""Ray workers: one actor trains one trial after another.

torch is imported when the first trial starts, not with this module. Tune gives a waiting trial to
the actor that is free first; an actor that takes seconds to start would never get one while another
trains short trials.

A trial on several processes is trained by Ray Train, and the actor waits for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from qbench.plugins import Plugin, load_plugin
from qbench.schedule.driver import DriverSpool, SpoolCheckpoints
from qbench.spec.result import Result
from qbench.spec.trial import FP32, Trial
from qbench.store.spool import Spool
from qbench.train.limits import Guard, Limits

if TYPE_CHECKING:
    from qbench.train.trial import Training

REPORT_SECONDS = 5.0


@dataclass(frozen=True)
class WorkerConfig:
    """Configuration that all trials of a run share.

    Attributes:
        driver: The driver's spool, which receives results.
        suite: Name of the suite.
        plugins: Python files to load before the first trial.
        data: Options of the dataset.
        environment: Variables of the driver's environment, for a node that does not set them.
        cpus: CPU cores of each process of a trial.
        gpus: GPUs of each process of a trial.
        limits: Limits of a trial.
    """

    driver: DriverSpool
    suite: str
    plugins: Sequence[Plugin] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    cpus: float = 1
    gpus: float = 0
    limits: Limits = field(default_factory=Limits)

    def training(self, trial: Trial) -> Training:
        """Return the training of a trial in this process."""
        from qbench.train.building import ExecutionEnvironment
        from qbench.train.trial import Training

        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        weights = self.driver.call(Spool.weights, trial.source) if trial.source else None
        taught_by = trial.taught_by
        teacher = self.driver.call(Spool.weights, taught_by.key) if taught_by else None
        checkpoints = SpoolCheckpoints(self.driver, trial.whole.key)
        execution = ExecutionEnvironment(self.data, self.cpus, checkpoints)
        return Training(trial, weights, execution, teacher)

    def deliver(self, result: Result, weights: bytes | None) -> None:
        """Write a result to the driver's spool and block until it is on disk.

        Of a rehearsal, only weights that other trials start from are kept.

        Args:
            result: Result of a trial.
            weights: Its serialized hardened weights, or None if there are none.
        """
        result.suite = self.suite
        if result.trial.rehearsal and result.trial.method != FP32:
            weights = None
        self.driver.call(Spool.put, result, weights)


class TrialActor(tune.Trainable):
    """Actor that trains the trial in its config, and is reused for the next trial.

    An actor that is reused imports torch once.
    """

    def setup(self, config: dict[str, Any], worker: WorkerConfig | None = None) -> None:
        """Accept the first trial. Method files are loaded when it starts.

        Args:
            config: Holds the trial as JSON under ``trial``.
            worker: Configuration of the run.
        """
        assert worker is not None  # noqa: S101 - Tune passes it by keyword
        self.worker = worker
        self.plugins = list(worker.plugins)
        self.config = config
        self.epochs: Iterator[int] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Accept the next trial."""
        self.config = new_config
        self.epochs = None
        return True

    def step(self) -> dict[str, Any]:
        """Train for some seconds, or to the end.

        Returns:
            ``epoch``: the last epoch that has ended; ``done``: whether the trial has ended.
        """
        start = time.monotonic()
        trial = Trial.model_validate_json(self.config["trial"])
        if self.epochs is None:
            self.epochs = self._guarded(trial)
        for epoch in self.epochs:
            if time.monotonic() - start > REPORT_SECONDS:
                return {"epoch": epoch, "done": False}
        return {"epoch": trial.epochs, "done": True}

    def _guarded(self, trial: Trial) -> Iterator[int]:
        """Train within the limits of a trial, and yield the number of each epoch that ends."""
        import qbench.train.trial  # noqa: F401 - its import must not count as time of the trial

        started, start = time.time(), time.monotonic()  # a clock may be set while it trains

        def give_up(reason: str, where: str) -> None:
            result = Result(trial=trial, status="failed", reason=reason, started=started)
            result.traceback = where
            result.seconds = time.monotonic() - start
            self.worker.deliver(result, None)

        guard = Guard(self.worker.limits, give_up)
        try:
            yield from self._alone(trial) if trial.processes == 1 else self._together(trial)
        finally:
            guard.close()

    def _alone(self, trial: Trial) -> Iterator[int]:
        """Train in this process."""
        while self.plugins:
            load_plugin(self.plugins[0])
            self.plugins.pop(0)
        me = os.getpid()
        training = self.worker.training(trial)
        for record in training.epochs():
            _end_copies(me)
            yield int(record["epoch"])
        _end_copies(me)
        self.worker.deliver(training.result, training.weights)
        del training
        _return_memory()

    def _together(self, trial: Trial) -> Iterator[int]:
        """Train with Ray Train on several processes. The first of them delivers the result."""
        with tempfile.TemporaryDirectory(prefix="qbench-train-") as scratch:
            trainer = _trainer(self.worker, trial, scratch)
            thread = threading.Thread(target=_fit, args=(trainer,), daemon=True)
            thread.start()
            while thread.is_alive():
                thread.join(REPORT_SECONDS)
                yield self.worker.driver.call(Spool.progress, trial.key)


def _end_copies(pid: int) -> None:
    """End this process if it is a copy that a method forked and did not end."""
    if os.getpid() != pid:
        os._exit(0)


def _return_memory() -> None:
    """Return memory that a trial has freed and the allocator keeps (see `ray_environment`)."""
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def _fit(trainer: Any) -> None:
    from ray.train import TrainingFailedError

    # The process that failed has delivered its result, or has died.
    with contextlib.suppress(TrainingFailedError):
        trainer.fit()


def _trainer(worker: WorkerConfig, trial: Trial, scratch: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        _train_share,
        train_loop_config={"worker": worker, "trial": trial.model_dump_json()},
        scaling_config=ScalingConfig(
            num_workers=trial.processes,
            use_gpu=worker.gpus > 0,
            resources_per_worker={
                "CPU": worker.cpus,
                **({"GPU": worker.gpus} if worker.gpus else {}),
            },
        ),
        run_config=RunConfig(
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )


def _train_share(config: dict[str, Any]) -> None:
    """Train the share of one process. Each process of a trial runs this."""
    import torch
    from ray.train.torch import get_device

    worker: WorkerConfig = config["worker"]
    for plugin in worker.plugins:
        load_plugin(plugin)
    if (device := get_device()).type == "cuda":
        torch.cuda.set_device(device)
    training = worker.training(Trial.model_validate_json(config["trial"]))
    first = ray.train.get_context().get_world_rank() == 0
    for record in training.epochs():
        if first:
            key, epoch = training.result.trial.key, int(record["epoch"])
            worker.driver.call(Spool.keep_progress, key, epoch)
    result = training.result
    if result.status == "failed":
        worker.deliver(result, None)
        raise RuntimeError(result.reason)  # so that the other processes do not wait for this one
    if first:
        worker.deliver(result, training.weights)

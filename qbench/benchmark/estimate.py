"""Estimate the time and the disk space that trials take on this machine.

Times come from finished trials where there are any, otherwise from a timed training step.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import torch

from qbench import registry, tasks
from qbench.benchmark import tuned_frames
from qbench.benchmark.benchmark import Benchmark
from qbench.data import Dataset
from qbench.report.problems import noted
from qbench.schedule.capacity import Share, trials_at_once
from qbench.spec.trial import FP32, Trial
from qbench.suite.grid import PlannedTrial, without_storage

QUANTIZED_FACTOR = 1.6
"""Time of a quantized step over that of a full-precision one, before any has been measured."""

START_SECONDS = 20.0
"""Time until the first trial begins: Ray and its workers start."""

TRIAL_SECONDS = 1.0
"""Time of a trial besides its steps: data are loaded, the network is audited and recorded."""

_EVALUATION_FACTOR = 1 / 3  # time of a forward pass over that of a training step
_TIMED_STEPS = 3
_CPU_BATCH = 8
_GPU_BATCH = 64
_LOGGER = logging.getLogger(__name__)


class Estimator:
    """Estimates of what trials of a benchmark take on this machine.

    Args:
        benchmark: The benchmark, whose finished trials estimates are based on. With
            ``recipe: tuned``, those of the same rows with the aligned recipe count too.

    Attributes:
        problems: Which models could not be estimated, and why.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        measured: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        sources = [benchmark]
        if benchmark.tuned is not None:  # whose trials are as long as those with one recipe
            sources.append(tuned_frames.with_aligned_recipe(benchmark))
        for source in sources:
            for planned in source.planned:
                if source.status(planned) == "done":
                    metrics = source.runs[planned.trial.key].metrics
                    per_epoch = metrics["seconds"] / _epochs(planned)
                    for kind in _kinds(planned.trial):
                        measured[kind].append(per_epoch)
        self.problems: list[str] = []
        self._resources = benchmark.suite.resources
        self._dataset = benchmark.dataset
        self._timed: dict[tuple[str, int], float] = {}
        self._epoch_seconds = {kind: statistics.median(times) for kind, times in measured.items()}

    @functools.cached_property
    def at_once(self) -> int:
        """Number of trials that this machine trains at once, at least 1."""
        machine = Share(os.cpu_count() or 1, torch.cuda.device_count())
        process = Share(*self._resources.process(*machine, self._dataset.loader_workers))
        return max(1, trials_at_once(process, self._resources.processes, [machine]))

    def seconds(self, planned: PlannedTrial) -> float:
        """Return the seconds that one trial takes, or NaN if its model cannot be timed.

        Times a training step of the model if no finished trial resembles this one.

        Args:
            planned: The trial.
        """
        trial, epochs = planned.trial, _epochs(planned)
        for kind in _kinds(trial):
            if kind in self._epoch_seconds:
                return self._epoch_seconds[kind] * epochs
        factor = 1.0 if trial.method == FP32 else QUANTIZED_FACTOR
        train, test = self._dataset.sizes()
        images: float = train * epochs
        if trial.recipe.steps is not None:
            steps = trial.recipe.steps * planned.epochs_to_train
            images = min(images, steps * trial.recipe.batch_size)
        images += _EVALUATION_FACTOR * test * epochs
        return TRIAL_SECONDS + factor * images * self._image_seconds(trial)

    def total_seconds(self, trials: Sequence[PlannedTrial]) -> float:
        """Return the seconds that trials take when as many as fit are trained at once.

        Trials of models that cannot be timed are left out.

        Args:
            trials: The trials.
        """
        known = (seconds for each in trials if (seconds := self.seconds(each)) == seconds)
        return sum(known) / self.at_once

    def run_seconds(self, trials: Sequence[PlannedTrial]) -> float:
        """Return the seconds of a run of trials, with the start of Ray; 0 if there are none.

        Args:
            trials: The trials.
        """
        return START_SECONDS + self.total_seconds(trials) if trials else 0.0

    def disk_bytes(self, trials: Sequence[PlannedTrial]) -> int:
        """Return the bytes on disk that trials take.

        These are the hardened weights of all, and the checkpoints of those that are trained at
        once, and of those from which others go on.

        Args:
            trials: The trials.
        """
        networks = [planned.trial.architecture for planned in trials]
        sizes = {network: self._weight_bytes(network) for network in set(networks)}
        stored = sum(sizes[network] for network in networks)
        checkpoints = self.at_once * max(sizes.values(), default=0)
        first = [p.trial for p in trials if p.trial.stop_after and not p.epochs_before]
        checkpoints += sum(sizes[trial.architecture] for trial in first)
        return stored + 2 * checkpoints  # a checkpoint also holds the optimizer's momentum

    def _weight_bytes(self, model: str) -> int:
        sizes: list[int] = []
        with noted(self.problems, f"the size of {model}"):
            state = without_storage(model, self._dataset).state_dict()
            sizes = [t.numel() * t.element_size() for t in state.values()]
        return sum(sizes)

    def _image_seconds(self, trial: Trial) -> float:
        """Return the seconds of a full-precision training step, per image."""
        kind = (trial.architecture, trial.threads)
        if kind not in self._timed:
            _LOGGER.info("timing a step of %s", trial.architecture)
            self._timed[kind] = math.nan
            with noted(self.problems, f"the time of {trial.architecture}"):
                self._timed[kind] = image_seconds(trial.architecture, self._dataset, trial.threads)
        return self._timed[kind]


def _epochs(planned: PlannedTrial) -> int:
    """Return the number of epochs that the time of a trial is divided by."""
    return max(1, planned.epochs_to_train)


def _kinds(trial: Trial) -> list[tuple[str, ...]]:
    """Return the kinds of trials that a trial belongs to, the narrowest first."""
    where = (trial.architecture, trial.dataset)
    quantized = FP32 if trial.method == FP32 else "quantized"
    return [(*where, trial.method, trial.bits), (*where, trial.method), (*where, quantized)]


def image_seconds(model: str, dataset: Dataset, threads: int) -> float:
    """Time full-precision training steps on random images.

    Args:
        model: Name of the model.
        dataset: The dataset whose classes and image shape the model is built for. Its data may be
            missing.
        threads: Number of threads of torch on a CPU.

    Returns:
        Seconds per image.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = _GPU_BATCH if device.type == "cuda" else _CPU_BATCH
    task = tasks.get(dataset.task)
    net = registry.build_model(model, dataset.num_classes, dataset.image_shape[0])
    net.to(device).train()
    batch = task.random_batch(size, dataset.image_shape, dataset.num_classes, device)
    for step in range(_TIMED_STEPS + 1):
        if step == 1:  # the first one warms up
            start = _now(device)
        net.zero_grad()
        task.loss(net, batch).backward()
    return (_now(device) - start) / _TIMED_STEPS / size


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()

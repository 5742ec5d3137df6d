"""How long will trials take? From finished ones where there are any, else from a timed step."""

from __future__ import annotations

import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import torch

from qbench import registry, tasks
from qbench.benchmark.benchmark import Benchmark
from qbench.data import Dataset
from qbench.spec.trial import FP32, Trial

# A quantized step over a full-precision one, before any has been measured.
QUANTIZED_FACTOR = 1.6
_STEPS = 3
_CPU_BATCH = 8
_GPU_BATCH = 64
_LOGGER = logging.getLogger(__name__)


class Estimator:
    """Seconds that a trial may take on this machine.

    Args:
        benchmark: whose finished trials are learnt from.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        measured: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        for planned in benchmark.planned:
            if benchmark.status(planned) == "done":
                metrics = benchmark.runs[planned.trial.key].data.metrics
                per_epoch = metrics["seconds"] / max(1, planned.trial.recipe.epochs)
                for kind in _kinds(planned.trial):
                    measured[kind].append(per_epoch)
        self._benchmark = benchmark
        self._timed: dict[tuple[str, int], float] = {}
        self._items = benchmark.dataset.sizes()[0]
        self._measured = {kind: statistics.median(times) for kind, times in measured.items()}

    def seconds(self, trial: Trial) -> float:
        """Seconds for one trial."""
        for kind in _kinds(trial):
            if kind in self._measured:
                return self._measured[kind] * max(1, trial.recipe.epochs)
        factor = 1.0 if trial.method == FP32 else QUANTIZED_FACTOR
        images = self._items * max(1, trial.recipe.epochs)
        if trial.recipe.steps is not None:
            images = min(images, trial.recipe.steps * trial.recipe.batch_size * trial.recipe.epochs)
        return factor * images * self._image_seconds(trial)

    def total(self, trials: Sequence[Trial], at_once: int) -> float:
        """Seconds for all of them, so many at once."""
        return sum(self.seconds(trial) for trial in trials) / max(1, at_once)

    def _image_seconds(self, trial: Trial) -> float:
        """Time of a full-precision training step, by the image."""
        kind = (trial.model, trial.threads)
        if kind not in self._timed:
            _LOGGER.info("timing a step of %s", trial.model)
            dataset = self._benchmark.dataset
            self._timed[kind] = image_seconds(trial.model, dataset, trial.threads)
        return self._timed[kind]


def _kinds(trial: Trial) -> list[tuple[str, ...]]:
    """What a trial's time may be learnt from, closest first."""
    where = (trial.model, trial.dataset)
    quantized = FP32 if trial.method == FP32 else "quantized"
    return [(*where, trial.method, trial.bits), (*where, trial.method), (*where, quantized)]


def image_seconds(model: str, dataset: Dataset, threads: int) -> float:
    """Time full-precision training steps on random images, by the image.

    Args:
        model: the network.
        dataset: whose classes and images it is for; its data need not be there.
        threads: torch's threads on a CPU.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = _GPU_BATCH if device.type == "cuda" else _CPU_BATCH
    task = tasks.get(dataset.task)
    net = registry.build_model(model, dataset.num_classes, dataset.image_shape[0])
    net.to(device).train()
    batch = task.random_batch(size, dataset.image_shape, dataset.num_classes, device)
    for step in range(_STEPS + 1):
        if step == 1:  # the first one warms up
            start = _now(device)
        net.zero_grad()
        task.loss(net, batch).backward()
    return (_now(device) - start) / _STEPS / size


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()

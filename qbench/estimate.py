"""How long will trials take? From finished ones where there are any, else from a timed step."""

from __future__ import annotations

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import torch

from qbench import registry, tasks
from qbench.benchmark import Benchmark
from qbench.trial import Trial

# A quantized step over a full-precision one, before any has been measured.
QUANTIZED_FACTOR = 1.6


class Estimator:
    """Seconds that a trial may take on this machine.

    Args:
        benchmark: whose finished trials are learnt from.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        measured: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        for cell in benchmark.cells:
            if benchmark.status(cell) == "done":
                metrics = benchmark.runs[cell.trial.key].data.metrics
                per_epoch = metrics["seconds"] / max(1, cell.trial.recipe.epochs)
                for kind in _kinds(cell.trial):
                    measured[kind].append(per_epoch)
        self._measured = {kind: statistics.median(times) for kind, times in measured.items()}

    def seconds(self, trial: Trial) -> float:
        """Seconds for one trial."""
        for kind in _kinds(trial):
            if kind in self._measured:
                return self._measured[kind] * max(1, trial.recipe.epochs)
        factor = 1.0 if trial.method == "fp32" else QUANTIZED_FACTOR
        per_epoch = _epoch_seconds(
            trial.model, trial.dataset, trial.recipe.batch_size, trial.threads
        )
        return factor * per_epoch * max(1, trial.recipe.epochs)

    def total(self, trials: Sequence[Trial], at_once: int) -> float:
        """Seconds for all of them, so many at once."""
        return sum(self.seconds(trial) for trial in trials) / max(1, at_once)


def _kinds(trial: Trial) -> list[tuple[str, ...]]:
    """What a trial's time may be learnt from, closest first."""
    where = (trial.model, trial.dataset)
    quantized = "fp32" if trial.method == "fp32" else "quantized"
    return [(*where, trial.method, trial.bits), (*where, trial.method), (*where, quantized)]


@functools.cache
def _epoch_seconds(model: str, dataset_name: str, batch_size: int, threads: int) -> float:
    """Time three full-precision steps and scale them to an epoch."""
    torch.set_num_threads(threads)
    dataset = registry.build_dataset(dataset_name)
    images = dataset.train()
    net = registry.build_model(model, dataset.num_classes, dataset.image_shape[0]).train()
    size = min(batch_size, len(images))  # type: ignore[arg-type]
    batch = torch.utils.data.default_collate([images[i] for i in range(size)])
    task = tasks.get(dataset.task)
    for step in range(4):
        if step == 1:  # the first one warms up
            start = time.perf_counter()
        net.zero_grad()
        task.loss(net, batch).backward()
    steps = -(-len(images) // batch_size)  # type: ignore[arg-type]
    return (time.perf_counter() - start) / 3 * steps

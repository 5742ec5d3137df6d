"""Build a trial: its data, its network, its quantizers and its optimizer."""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench import distributed, registry, tasks
from qbench.data import Dataset
from qbench.data.validation import without_test
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from qbench.quant.preparation import preparation_of, prepare_as
from qbench.spec.bits import BitWidths
from qbench.spec.granularity import PerTensor
from qbench.spec.trial import FP32, Trial
from qbench.tasks.distillation import Distillation
from qbench.train import weights
from qbench.train.checkpoint import Checkpoints, RefusedError, load_weights
from qbench.train.loading import evaluation_loader, training_loader, worker_count
from qbench.train.loop import TrainingLoop
from qbench.train.optimizer import Schedule, build_optimizer
from qbench.train.recorder import WeightRecorder


class TrainingError(Exception):
    """Raised when training cannot continue. The message states the reason."""


@dataclass(frozen=True)
class ExecutionEnvironment:
    """Execution environment of a trial.

    Nothing here affects results, so it is not part of the trial's key.

    Attributes:
        data: Options of the dataset, ``root`` among them.
        cpus: CPU cores of each process; may be a fraction.
        checkpoints: Stores the checkpoint from which an interrupted trial resumes, and a longer one
            goes on (`Trial.whole`). None neither writes nor reads checkpoints.
        checkpoint_seconds: Least time between two checkpoints, in seconds.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 1
    checkpoints: Checkpoints | None = None
    checkpoint_seconds: float = 30.0


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, on every device.

    Args:
        seed: The seed.
    """
    random.seed(seed)
    np.random.seed(seed)  # a plugin or a dataset may draw from it
    torch.manual_seed(seed)


def build(
    trial: Trial,
    execution: ExecutionEnvironment,
    pretrained: bytes | None,
    trains: bool = True,
) -> TrainingLoop:
    """Build the data, the model, the quantizers and the optimizer of a trial.

    Args:
        trial: The trial.
        execution: Where and with which resources it runs.
        pretrained: Serialized weights that it starts from; None: random ones.
        trains: Whether it trains. Otherwise hardened weights are loaded afterwards: it starts from
            random ones, and the method does not calibrate the whole model.

    Returns:
        The trial, ready for its first epoch.

    Raises:
        TrainingError: The data are others than the trial's, or the weights are missing or refused.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task, recipe = tasks.get(trial.task), trial.recipe
    dataset = _dataset_of(trial, execution)
    if dataset.identity() != trial.data:
        raise TrainingError(
            f"the data here are {dataset.identity()}, and the trial is of {trial.data}"
        )
    order = torch.Generator().manual_seed(trial.seed)
    workers = worker_count(execution.cpus, device)
    train, measured = dataset.splits(trial.validation)
    loader = training_loader(dataset, train, recipe, trial.seed, order, workers, device)
    evaluation = evaluation_loader(dataset, measured, recipe, workers, device)
    calibration = training_loader(
        dataset, train, recipe, trial.seed, order, 0, device, shared=False
    )

    model = _build(trial, dataset)
    starts = trial.source is not None and trains
    if starts and trial.prepared is None:
        _load_pretrained(model, trial, pretrained)
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if trial.method == FP32 and trial.prepared is not None:
        model = prepare_as(model, trial.prepared)
    from_changed = starts and trial.prepared is not None
    method = build_method(trial.method, trial.options)
    if not trains:
        method.calibrate = _leave  # type: ignore[method-assign]
    handle = attach(
        model,
        method,
        bits=trial.bits,
        layers=trial.layers,
        placement=trial.placement,
        task=trial.task,
        calibration=map(task.inputs, itertools.islice(calibration, recipe.calibration_batches)),
        state_dict=_pretrained_state(trial, pretrained) if from_changed else None,
    )
    if distributed.world() > 1:
        handle.model = distributed.synchronise_batch_norm(handle.model, device)
    network: Any = handle.model
    if recipe.compile:
        torch.compiler.reset()  # torch stops compiling after many models in one process
        network = torch.compile(handle.model)
    optimizer = build_optimizer(handle, recipe)
    handle.attach_optimizer(optimizer)
    levels = [layer.weight_levels for layer in handle.layers if layer.weight_levels is not None]
    layerwise = all(each.granularity == PerTensor() for each in levels)
    one_function = handle.method.soft and layerwise and handle.method.elementwise
    return TrainingLoop(
        task,
        dataset,
        handle,
        network,
        optimizer,
        Schedule(optimizer, recipe),
        WeightRecorder(handle.layers, recipe.epochs, one_function),
        loader,
        evaluation,
        calibration,
        order,
    )


def _leave(model: nn.Module, batches: Sequence[Any]) -> None:
    """Leave a model as it is, in place of `qbench.method.Method.calibrate`."""


def check_unchanged(trial: Trial, execution: ExecutionEnvironment) -> None:
    """Check that weights of the unchanged network are not given for a changed one.

    Args:
        trial: A trial that starts from weights of the unchanged network.
        execution: Where it runs.

    Raises:
        TrainingError: Its method changes the network.
    """
    dataset = _dataset_of(trial, execution)
    method, bits = build_method(trial.method, trial.options), BitWidths.parse(trial.bits)
    unchanged = functools.partial(_build, trial, dataset)
    declared = method.network_for(trial.model, bits)
    another = trial.method != FP32 and trial.architecture != declared
    if another or preparation_of(method, bits, unchanged) is not None:
        raise TrainingError(
            f"the weights that it starts from are of the unchanged {trial.model}, and "
            f"{trial.method} changes it"
        )


def _load_pretrained(model: nn.Module, trial: Trial, pretrained: bytes | None) -> None:
    """Load the weights that a trial starts from."""
    weights.start(model, _pretrained_state(trial, pretrained), trial.starts_from_initial_weights)


def _pretrained_state(trial: Trial, pretrained: bytes | None) -> dict[str, Tensor]:
    """Return the weights that a trial starts from."""
    return _full_precision_state(pretrained, "that it starts from", trial.source)


def _full_precision_state(data: bytes | None, which: str, key: str | None) -> dict[str, Tensor]:
    """Read weights of a full-precision trial."""
    if data is None:
        raise TrainingError(f"the full-precision weights {which} are missing")
    try:
        return load_weights(data)
    except RefusedError as error:
        raise TrainingError(
            f"the weights {which}, weights/{key}.pt, are refused: the file {error}"
        ) from error


def distillation(trial: Trial, loop: TrainingLoop, weights: bytes | None) -> Distillation:
    """Build the teacher of a trial, without drawing from the global generators.

    Args:
        trial: A trial whose recipe has a teacher.
        loop: The trial.
        weights: Serialized weights of the teacher.

    Returns:
        The loss that the teacher adds.

    Raises:
        TrainingError: The weights are missing or refused.
    """
    base, recipe = trial.taught_by, trial.recipe.teacher
    assert base is not None and recipe is not None  # noqa: S101, PT018
    state = _full_precision_state(weights, "of its teacher", base.key)
    with torch.random.fork_rng():
        network = _build(base, loop.dataset)
    network.load_state_dict(state)
    network.to(loop.loader.device)
    if trial.recipe.channels_last:
        network.to(memory_format=torch.channels_last)
    network.requires_grad_(False).eval()
    return Distillation(network, recipe.weight, recipe.temperature)


def _build(trial: Trial, dataset: Dataset) -> nn.Module:
    """Build the network of a trial, before a method changes it."""
    return registry.build_model(trial.architecture, dataset.num_classes, dataset.image_shape[0])


def _dataset_of(trial: Trial, execution: ExecutionEnvironment) -> Dataset:
    """Return the dataset of a trial, with the options of its environment."""
    options = json.dumps(dict(execution.data), sort_keys=True)
    return _dataset(trial.dataset, options, trial.validation > 0)


@functools.lru_cache(maxsize=4)
def _dataset(name: str, options: str, closed: bool) -> Dataset:
    """Build a dataset from its name and options (JSON); cached, so that a worker reads it once.

    If closed, its test split raises.
    """
    dataset = registry.build_dataset(name, json.loads(options))
    return without_test(dataset) if closed else dataset

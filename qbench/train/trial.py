"""One trial, start to finish: data, model, quantizers, training, hardening, audit, evaluation."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

from qbench import distributed, registry, tasks
from qbench.data import Dataset
from qbench.errors import QbenchError
from qbench.quant.attach import Handle, attach
from qbench.quant.audit import audit
from qbench.spec.recipe import Recipe
from qbench.spec.result import CodeFingerprint, Result
from qbench.spec.trial import Trial
from qbench.train import fingerprint, weights
from qbench.train.checkpoint import (
    Checkpoints,
    RefusedError,
    dump_weights,
    load_weights,
    pack,
    random_state,
    set_random_state,
    unpack,
)
from qbench.train.loading import Loader, evaluation_loader, training_loader, worker_count
from qbench.train.provenance import environment
from qbench.train.recorder import Observer


@dataclass(frozen=True)
class Place:
    """Where a trial is trained, and with what: nothing that its numbers depend on.

    Attributes:
        data: options of the dataset, ``root`` among them.
        cpus: CPU cores of each process.
        checkpoints: keeps what an interrupted trial goes on from; None: it starts anew.
        checkpoint_seconds: the least time between two checkpoints.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 1
    checkpoints: Checkpoints | None = None
    checkpoint_seconds: float = 30.0


class Training:
    """A trial under way. Nothing it raises leaves it: what goes wrong becomes the result.

    Args:
        trial: what to train.
        weights: the stored weights that it starts from (`Trial.source`), as bytes.
        place: where.

    Attributes:
        result: what it has come to so far; final once `epochs` is exhausted.
        weights: the hardened weights, serialised, once it is done.
    """

    def __init__(self, trial: Trial, weights: bytes | None = None, place: Place = Place()) -> None:
        self.result = Result(trial=trial, status="failed", started=time.time())
        self.weights: bytes | None = None
        self._start = time.perf_counter()
        self._pretrained = weights
        self._place = place

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train, yielding each epoch's record; then harden, audit and evaluate."""
        result = self.result
        try:
            result.environment = environment()
            result.code = fingerprint.code_of(result.trial.method)
            yield from self._epochs(result.trial)
            result.status = "done"
        except Exception as error:  # a trial's failure is a result, never the grid's end
            result.reason = _reason(error)
            result.traceback = traceback.format_exc()
        except SystemExit as error:
            result.reason = f"the method called sys.exit({error.code})"
            result.traceback = traceback.format_exc()
        except KeyboardInterrupt:  # the driver's Ctrl-C reaches no worker
            result.reason = "the method raised KeyboardInterrupt"
            result.traceback = traceback.format_exc()
        result.seconds = time.perf_counter() - self._start

    def _epochs(self, trial: Trial) -> Iterator[dict[str, float]]:
        torch.set_num_threads(trial.threads)
        seed_everything(trial.seed)
        run = _prepared(trial, self._place, self._pretrained)
        recipe, handle, model = trial.recipe, run.handle, run.handle.model
        done = self._resume(run)
        start = saved = time.perf_counter()
        before = self.result.train_seconds
        for epoch in range(done + 1, recipe.epochs + 1):
            lr = run.optimizer.param_groups[0]["lr"]
            handle.on_epoch_start(epoch, recipe.epochs)
            model.train()
            loss = run.epoch(recipe)
            if not math.isfinite(loss):
                raise TrainingError(f"the training loss is {loss} in epoch {epoch}")
            record = {"epoch": epoch, "train_loss": loss, "lr": lr}
            model.eval()
            record |= run.measured()
            if handle.method.soft:
                for quantizer in handle.quantizers:
                    quantizer.train()
                record |= {f"soft_{name}": value for name, value in run.measured().items()}
            run.observer.after_epoch(epoch)
            self.result.history.append(record)
            self.result.train_seconds = before + time.perf_counter() - start
            if time.perf_counter() - saved >= self._place.checkpoint_seconds:
                self._checkpoint(run)
                saved = time.perf_counter()
            yield record

        _check_finite(model)
        self.result.weights, self.result.curve = run.observer.weights(), run.observer.curve()
        layers = list(handle.layers)
        handle.harden()
        self.weights = dump_weights(model)
        images = run.task.inputs(next(iter(run.evaluation)))
        scope = handle.method.weight_scope
        self.result.audit = audit(layers, scope, load_weights(self.weights), model, images)
        model.eval()
        self.result.metrics = run.measured()
        self.result.unreadable = run.unreadable()
        self.result.examples = run.task.examples(model, run.dataset)

    def _checkpoint(self, run: _Run) -> None:
        """Keep the trial as it is after an epoch."""
        if self._place.checkpoints is None or distributed.rank() > 0:
            return
        result = self.result
        content = {
            "code": result.code.model_dump(),
            "history": result.history,
            "train_seconds": result.train_seconds,
            **run.state(),
        }
        self._place.checkpoints.save(pack(content))

    def _resume(self, run: _Run) -> int:
        """Go on from the last checkpoint, if there is one; returns the epochs done."""
        data = self._place.checkpoints.load() if self._place.checkpoints is not None else None
        if data is None:
            return 0
        try:
            content = unpack(data)
        except RefusedError as error:
            key = self.result.trial.key
            raise TrainingError(
                f"its checkpoint, checkpoints/{key}.pt, is refused: the file {error}; without it "
                "the trial starts anew"
            ) from error
        recorded = CodeFingerprint.model_validate(content.get("code", {}))
        if fingerprint.change(self.result.trial.method, recorded):
            return 0  # epochs of two different codes are not mixed
        self.result.history = content["history"]
        self.result.train_seconds = content["train_seconds"]
        run.restore(content)
        return len(self.result.history)


def _prepared(trial: Trial, place: Place, pretrained: bytes | None) -> _Run:
    """Data, model, quantizers and optimiser of a trial, nothing trained yet."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task, recipe = tasks.get(trial.task), trial.recipe
    dataset = _dataset(trial.dataset, json.dumps(dict(place.data), sort_keys=True))
    if dataset.identity() != trial.data:
        raise TrainingError(
            f"the data here are {dataset.identity()}, and the trial is of {trial.data}"
        )
    order = torch.Generator().manual_seed(trial.seed)
    workers = worker_count(place.cpus, device)
    loader = training_loader(dataset, recipe, trial.seed, order, workers, device)
    evaluation = evaluation_loader(dataset, recipe, workers, device)
    whole = training_loader(dataset, recipe, trial.seed, order, 0, device, shared=False)

    model = registry.build_model(trial.model, dataset.num_classes, dataset.image_shape[0])
    if trial.source is not None:
        if pretrained is None:
            raise TrainingError("the full-precision weights that it starts from are missing")
        try:
            weights.start(model, pretrained, trial.starts_from_backbone)
        except RefusedError as error:
            raise TrainingError(
                f"the weights that it starts from, weights/{trial.source}.pt, are refused: the "
                f"file {error}"
            ) from error
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    handle = attach(
        model,
        registry.build_method(trial.method, trial.options),
        bits=trial.bits,
        layers=trial.layers,
        task=trial.task,
        calibration=map(task.inputs, itertools.islice(whole, recipe.calibration_batches)),
    )
    if distributed.world() > 1:
        handle.model = distributed.synchronise_batch_norm(handle.model, device)
    network: Any = handle.model
    if recipe.compile:
        torch.compiler.reset()  # torch stops compiling what has been compiled for many models
        network = torch.compile(handle.model)
    optimizer = _optimizer(handle, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(_lr_at, recipe))
    layerwise = handle.method.weight_scope == "layer"
    one_function = handle.method.soft and layerwise and handle.method.elementwise
    observer = Observer(handle.layers, recipe.epochs, one_function)
    return _Run(
        task,
        dataset,
        handle,
        network,
        optimizer,
        schedule,
        observer,
        loader,
        evaluation,
        whole,
        order,
    )


@dataclass
class _Run:
    """A trial ready to be trained, and what changes while it is.

    Attributes:
        dataset: what it is trained on.
        network: the model as training calls it, compiled if asked to.
        loader: training batches, this process' share of each.
        evaluation: test batches.
        whole: training batches for calibration, all of each.
        order: from which the order of an epoch is drawn.
    """

    task: tasks.Task
    dataset: Dataset
    handle: Handle
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    observer: Observer
    loader: Loader
    evaluation: Loader
    whole: Loader
    order: torch.Generator

    def state(self) -> dict[str, Any]:
        """What changes, to `restore` from."""
        return {
            "model": self.handle.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": self.loader.batches.epoch,
            "order": self.order.get_state(),
            "curves": self.observer.curves,
            "random": random_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was called."""
        self.handle.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = self.loader.batches.epoch = state["epochs"]
        self.order.set_state(state["order"])
        self.observer.curves = state["curves"]
        set_random_state(state["random"])

    def epoch(self, recipe: Recipe) -> float:
        """One pass over the training data; returns the mean loss of its steps."""
        handle, steps, device = self.handle, len(self.loader), self.loader.device
        network = self._together()
        total = torch.zeros((), device=device)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"
        )
        for step, batch in enumerate(self.loader, 1):
            handle.on_step_start(step, steps)
            with autocast:
                loss = self.task.loss(network, batch) * self._share(step, batch)
            loss = loss + handle.penalty().to(device)
            self.optimizer.zero_grad()
            loss.backward()
            if recipe.gradient_clip is not None:
                nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            handle.before_step()
            self.optimizer.step()
            handle.after_step()
            total += loss.detach()
        self.schedule.step()
        return float(distributed.total(total) / (steps * distributed.world()))

    def measured(self) -> dict[str, float]:
        """Metrics of the model in its mode; weights are quantized once, not for every batch."""
        with parametrize.cached():
            return self.task.evaluate(self.handle.model, self.evaluation)

    def unreadable(self) -> list[str]:
        """What of the data could not be read."""
        loaders = (self.whole, self.loader, self.evaluation)
        return sorted({text for loader in loaders for text in loader.unreadable()})

    def _together(self) -> nn.Module:
        """The network, of which processes average their gradients."""
        if distributed.world() == 1:
            return self.network
        # Anew each epoch, because a method may have fixed or freed parameters. Unused ones are
        # those of quantizers that are not at work yet.
        return DistributedDataParallel(self.network, find_unused_parameters=True)

    def _share(self, step: int, batch: Any) -> float:
        """What the mean over this process' share of a batch counts for in the mean over all."""
        world = distributed.world()
        if world == 1:
            return 1.0
        return len(self.task.inputs(batch)) * world / self.loader.batches.size(step)


class TrainingError(Exception):
    """Training cannot go on; the message is the reason."""


def _reason(error: Exception) -> str:
    """Why a trial failed, in a line."""
    first, *further = (str(error).strip() or "no message").splitlines()
    if further and first.startswith("Caught "):  # in a process that loads: its traceback follows
        return further[-1]
    if isinstance(error, TrainingError | QbenchError):
        return first
    return f"{type(error).__name__}: {first}"


def _check_finite(model: nn.Module) -> None:
    """Raise TrainingError where training has left something that is no number."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise TrainingError(f"after training, {name} is not finite")


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)  # a plugin or a dataset may draw from it
    torch.manual_seed(seed)


@functools.lru_cache(maxsize=4)
def _dataset(name: str, options: str) -> Dataset:
    """A dataset by its name and its options (JSON), so that a worker reads it once."""
    return registry.build_dataset(name, json.loads(options))


def _optimizer(handle: Handle, recipe: Recipe) -> torch.optim.Optimizer:
    groups = handle.parameter_groups(recipe.lr, recipe.weight_decay, recipe.other_lr)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def _lr_at(recipe: Recipe, epochs_done: int) -> float:
    """Learning rate after so many epochs, as a factor of the first."""
    progress = epochs_done / max(1, recipe.epochs)
    last = recipe.final_lr / recipe.lr
    match recipe.schedule:
        case "cosine":
            return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2
        case "cosine_restarts":
            ends = sorted({0, *recipe.milestones, recipe.epochs})
            begin = max(end for end in ends if end <= epochs_done)
            length = next((end for end in ends if end > epochs_done), begin + 1) - begin
            progress = (epochs_done - begin) / length
            return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return last + (1 - last) * (1 - progress)
        case "step":
            return recipe.gamma ** sum(epochs_done >= m for m in recipe.milestones)
        case "exponential":
            return last**progress
        case "constant":
            return 1.0

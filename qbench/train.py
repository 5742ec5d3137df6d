"""One trial, start to finish: data, model, quantizers, training, hardening, audit, evaluation."""

from __future__ import annotations

import functools
import io
import itertools
import math
import random
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from qbench import registry, tasks
from qbench.attachment import Handle, attach
from qbench.audit import audit
from qbench.data import Dataset
from qbench.environment import environment
from qbench.errors import QbenchError
from qbench.observation import Observer
from qbench.outcome import Outcome
from qbench.recipe import Recipe
from qbench.trial import Trial

_EVALUATION_BATCH = 500


class Training:
    """A trial under way. Nothing it raises leaves it: what goes wrong becomes the outcome.

    Args:
        trial: what to train.
        weights: the stored weights of the trial it starts from (`Trial.base`), as bytes.

    Attributes:
        outcome: what it has come to so far; final once `epochs` is exhausted.
        weights: the hardened weights, serialised, once it is done.
    """

    def __init__(self, trial: Trial, weights: bytes | None = None) -> None:
        self.outcome = Outcome(trial=trial, status="failed", started=time.time())
        self.weights: bytes | None = None
        self._start = time.perf_counter()
        self._pretrained = weights

    def epochs(self) -> Iterator[dict[str, float]]:
        """Train, yielding each epoch's record; then harden, audit and evaluate."""
        outcome = self.outcome
        try:
            outcome.environment = environment()
            outcome.method_source = registry.method_source(outcome.trial.method)
            yield from self._epochs(outcome.trial)
            outcome.status = "done"
        except Exception as error:  # a trial's failure is a result, never the grid's end
            first_line = (str(error).strip() or "no message").splitlines()[0]
            outcome.reason = f"{type(error).__name__}: {first_line}"
            if isinstance(error, TrainingError | QbenchError):
                outcome.reason = first_line
            outcome.traceback = traceback.format_exc()
        except SystemExit as error:
            outcome.reason = f"the method called sys.exit({error.code})"
        outcome.seconds = time.perf_counter() - self._start

    def _epochs(self, trial: Trial) -> Iterator[dict[str, float]]:
        torch.set_num_threads(trial.threads)
        seed_everything(trial.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        task = tasks.get(trial.task)
        dataset = _dataset(trial.dataset)
        recipe = trial.recipe
        train_loader, test_loader = _loaders(dataset, recipe.batch_size, trial.seed)

        model = registry.build_model(trial.model, dataset.num_classes, dataset.image_shape[0])
        if trial.base is not None:
            if self._pretrained is None:
                raise TrainingError("the full-precision weights that it starts from are missing")
            model.load_state_dict(load_weights(self._pretrained))
        model.to(device)
        handle = attach(
            model,
            registry.build_method(trial.method, trial.options),
            bits=trial.bits,
            layers=trial.layers,
            task=trial.task,
            calibration=(
                task.inputs(batch).to(device)
                for batch in itertools.islice(train_loader, recipe.calibration_batches)
            ),
        )
        model = handle.model
        optimizer = _optimizer(handle, recipe)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(_lr_at, recipe))
        soft = handle.method.soft
        layerwise = handle.method.weight_scope == "layer"
        one_function = soft and layerwise and handle.method.elementwise
        observer = Observer(handle.layers, recipe.epochs, one_function)

        start = time.perf_counter()
        for epoch in range(1, recipe.epochs + 1):
            lr = optimizer.param_groups[0]["lr"]
            handle.on_epoch_start(epoch, recipe.epochs)
            model.train()
            loss = _train_epoch(task, model, handle, train_loader, optimizer, recipe, device)
            schedule.step()
            if not math.isfinite(loss):
                raise TrainingError(f"the training loss is {loss} in epoch {epoch}")
            record = {"epoch": epoch, "train_loss": loss, "lr": lr}
            model.eval()
            record |= task.evaluate(model, test_loader)
            if soft:
                for quantizer in handle.quantizers:
                    quantizer.train()
                measured = task.evaluate(model, test_loader)
                record |= {f"soft_{name}": value for name, value in measured.items()}
            observer.after_epoch(epoch)
            self.outcome.history.append(record)
            self.outcome.train_seconds = time.perf_counter() - start
            yield record

        self.outcome.weights, self.outcome.curve = observer.weights(), observer.curve()
        layers = list(handle.layers)
        handle.harden()
        self.weights = dump_weights(model)
        images = task.inputs(next(iter(test_loader))).to(device)
        self.outcome.audit = audit(
            layers, handle.method.weight_scope, load_weights(self.weights), model, images
        )
        self.outcome.metrics = task.evaluate(model.eval(), test_loader)


class TrainingError(Exception):
    """Training cannot go on; the message is the reason."""


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)  # a plugin or a dataset may draw from it
    torch.manual_seed(seed)


def dump_weights(model: nn.Module) -> bytes:
    """A model's ``state_dict``, on the CPU, serialised by ``torch.save``."""
    buffer = io.BytesIO()
    torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, buffer)
    return buffer.getvalue()


def load_weights(data: bytes) -> dict[str, Tensor]:
    """Read what `dump_weights` wrote; nothing but tensors is accepted."""
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


@functools.lru_cache(maxsize=4)
def _dataset(name: str) -> Dataset:
    return registry.build_dataset(name)


def _loaders(
    dataset: Dataset, batch_size: int, seed: int
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Shuffled training batches and ordered test batches.

    A batch is fetched from the dataset at once, by its list of indices, which for tensors in memory
    is far cheaper than image by image.
    """
    train, test = dataset.train(), dataset.test()
    order = torch.Generator().manual_seed(seed)
    shuffled = BatchSampler(RandomSampler(train, generator=order), batch_size, drop_last=False)  # type: ignore[arg-type]
    in_order = BatchSampler(SequentialSampler(test), _EVALUATION_BATCH, drop_last=False)  # type: ignore[arg-type]
    return (
        DataLoader(train, sampler=shuffled, batch_size=None),
        DataLoader(test, sampler=in_order, batch_size=None),
    )


def _train_epoch(
    task: tasks.Task,
    model: nn.Module,
    handle: Handle,
    loader: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    device: torch.device,
) -> float:
    """One pass over the training data; returns the mean loss of its steps."""
    total = torch.zeros((), device=device)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    steps = len(loader)
    for step, batch in enumerate(loader, 1):
        handle.on_step_start(step, steps)
        loss = task.loss(model, [part.to(device) for part in batch]) + handle.penalty().to(device)
        optimizer.zero_grad()
        loss.backward()
        if recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
        handle.before_step()
        optimizer.step()
        handle.after_step()
        total += loss.detach()
    return float(total / steps)


def _optimizer(handle: Handle, recipe: Recipe) -> torch.optim.Optimizer:
    groups = handle.parameter_groups(lr=recipe.lr, weight_decay=recipe.weight_decay)
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

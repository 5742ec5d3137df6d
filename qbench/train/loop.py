"""The training loop: one optimization step, one epoch, and the state between epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

from qbench import distributed, tasks
from qbench.data import Dataset
from qbench.quant.handle import Handle
from qbench.spec.recipe import Recipe
from qbench.tasks.distillation import Distillation
from qbench.train.checkpoint import random_state, set_random_state
from qbench.train.loading import Loader
from qbench.train.optimizer import Schedule
from qbench.train.recorder import WeightRecorder


def training_step(
    handle: Handle,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    gradient_clip: float | None = None,
) -> Tensor:
    """Take one step of training.

    Args:
        handle: The attached method.
        optimizer: Optimizer over the groups of `Handle.parameter_groups`, which was given to
            `Handle.attach_optimizer`.
        loss: Runs the model on a batch and returns its loss, a scalar. The regularization loss
            of the method is added to it.
        gradient_clip: Largest L2 norm of all gradients together; None does not clip.

    Returns:
        The sum of both, a detached scalar.
    """
    total = loss()
    total = total + handle.regularization_loss().to(total.device)
    optimizer.zero_grad()
    total.backward()
    if gradient_clip is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, gradient_clip)
    optimizer.step()
    return total.detach()


@dataclass
class TrainingLoop:
    """A trial that is ready to train, and the state that training changes.

    Attributes:
        task: Loss and metrics.
        dataset: The dataset of the trial.
        handle: The attached method and its model.
        network: The model as training calls it: compiled if the recipe asks for it.
        optimizer: The optimizer.
        schedule: Schedule of learning rates and weight decays, stepped once per epoch.
        recorder: Records the distribution of the weights.
        loader: Training batches; each process has its share of every batch.
        evaluation: Test batches; each process has its share of the test set.
        calibration: Training batches for calibration; each process has all of every batch.
        order: Generator that draws the order of the training items.
        distillation: The teacher, and its share of the loss. None: there is none.
    """

    task: tasks.Task
    dataset: Dataset
    handle: Handle
    network: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    recorder: WeightRecorder
    loader: Loader
    evaluation: Loader
    calibration: Loader
    order: torch.Generator
    distillation: Distillation | None = None

    def run_epoch(self, recipe: Recipe) -> dict[str, float]:
        """Train for one pass over the training data.

        Args:
            recipe: Names the precision, the label smoothing and the limit of the gradient norm.

        Returns:
            ``train_loss``, the mean loss of the steps over all processes, with the regularization
            loss, and ``train_top1`` (%), if the task has classes: the accuracy on the batches as
            they are trained on, with augmentation and before each step.
        """
        steps, device = len(self.loader), self.loader.device
        network = self._distributed_network()
        total = torch.zeros((), device=device)
        hits: list[Tensor] = []
        items = 0
        autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"
        )
        for step, batch in enumerate(self.loader, 1):
            share = self._share(step, batch)
            items += len(self.task.inputs(batch))
            self.schedule.start_step(step, steps)

            def loss(batch: Any = batch, share: float = share) -> Tensor:
                with autocast:
                    smoothing, taught = recipe.label_smoothing, self.distillation
                    return self.task.loss(network, batch, smoothing, hits, taught) * share

            total += training_step(self.handle, self.optimizer, loss, recipe.gradient_clip)
        self.schedule.step()
        loss_per_step = distributed.total(total) / (steps * distributed.world())
        measured = {"train_loss": float(loss_per_step)}
        if hits:
            counts = distributed.total(
                torch.stack([torch.stack(hits).sum(), hits[0].new_tensor(items)])
            )
            measured["train_top1"] = 100 * float(counts[0]) / float(counts[1])
        return measured

    def evaluate(self, predicted: list[int] | None = None) -> dict[str, float]:
        """Return the metrics of the model on the test data, in the mode the model is in.

        Args:
            predicted: List that predicted classes are appended to; see `qbench.tasks.Task`.
        """
        with parametrize.cached():  # quantizes the weights once, not for every batch
            return self.task.evaluate(self.handle.model, self.evaluation, predicted)

    def unreadable(self) -> list[str]:
        """Return descriptions of the items that could not be read, sorted."""
        loaders = (self.calibration, self.loader, self.evaluation)
        return sorted({text for loader in loaders for text in loader.unreadable()})

    def state(self) -> dict[str, Any]:
        """Return everything that training changes, for `restore`."""
        return {
            "model": self.handle.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": self.loader.batches.epoch,
            "order": self.order.get_state(),
            "curves": self.recorder.curves,
            "random": random_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; training then continues with the same bits."""
        self.handle.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = self.loader.batches.epoch = state["epochs"]
        self.order.set_state(state["order"])
        self.recorder.curves = state["curves"]
        set_random_state(state["random"])

    def _distributed_network(self) -> nn.Module:
        """Return the network, wrapped to average gradients if there are several processes."""
        if distributed.world() == 1:
            return self.network
        # Wrapped again in each epoch, because a method may have frozen or unfrozen parameters.
        # Unused parameters are those of quantizers that are not active yet.
        return DistributedDataParallel(self.network, find_unused_parameters=True)

    def _share(self, step: int, batch: Any) -> float:
        """Return the factor that turns the mean over this process's share into the batch's mean."""
        world = distributed.world()
        if world == 1:
            return 1.0
        return len(self.task.inputs(batch)) * world / self.loader.batches.size(step)

"""The optimizer of a trial, and the schedule of its learning rates and weight decays."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from qbench.quant.handle import Handle
from qbench.quant.layers import QUANTIZABLE
from qbench.quant.parametrizations import originals
from qbench.spec.recipe import Recipe


def build_optimizer(handle: Handle, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the optimizer that a recipe names, over the parameters of an attached model.

    Args:
        handle: The attached method; its `Handle.parameter_groups` are optimized.
        recipe: Names the optimizer, the learning rates, the momentum, epsilon, the weight decay and
            what it applies to.

    Returns:
        ``torch.optim.SGD``, ``torch.optim.Adam`` or ``torch.optim.AdamW``. Groups that the weight
        decay of the recipe applies to are marked with ``decayed``.
    """
    groups = list(_groups(handle, recipe))
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(
                groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov
            )
        case "adam":
            return torch.optim.Adam(groups, lr=recipe.lr, eps=recipe.epsilon)
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.lr, eps=recipe.epsilon, weight_decay=0.0)


class Schedule(LambdaLR):
    """Schedule of a recipe. Step it once per epoch, as a scheduler of torch.

    Args:
        optimizer: The optimizer, as of `build_optimizer`.
        recipe: Names the schedule, the warm-up, and the weight decays of the milestones.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
        self._recipe = recipe
        # Noted here: the groups of a restored checkpoint may have been written without the mark.
        self._decayed = [bool(group.get("decayed")) for group in optimizer.param_groups]
        super().__init__(optimizer, functools.partial(learning_rate_factor, recipe))

    def start_step(self, step: int, steps: int) -> None:
        """Set the learning rates of a warm-up and the weight decays of the epoch.

        Both follow from the numbers of the epoch and the step alone, so that a resumed trial has
        the same.

        Args:
            step: Number of the step that starts, from 1 in every epoch.
            steps: Number of steps of the epoch.
        """
        recipe, groups = self._recipe, self.optimizer.param_groups
        if recipe.warmup_epochs:
            factor = learning_rate_factor(recipe, self.last_epoch)
            factor *= warmup_factor(recipe, self.last_epoch, step, steps)
            for group, lr in zip(groups, self.base_lrs, strict=True):
                group["lr"] = lr * factor
        if recipe.milestone_weight_decays:
            for group, decayed in zip(groups, self._decayed, strict=True):
                if decayed:
                    group["weight_decay"] = weight_decay(recipe, self.last_epoch)


def learning_rate_factor(recipe: Recipe, epochs_done: int) -> float:
    """Return the learning rate after a number of epochs, relative to the initial one.

    Args:
        recipe: Names the schedule, the initial and final learning rates, the milestones (epochs)
            and the number of epochs.
        epochs_done: Number of finished epochs, from 0 to ``recipe.epochs``.

    Returns:
        The factor; 1.0 before the first epoch.

    Example:
        >>> from qbench.spec.recipe import Recipe
        >>> recipe = Recipe(
        ...     epochs=4, batch_size=32, optimizer="sgd", lr=0.1, schedule="step", milestones=(2,)
        ... )
        >>> [round(learning_rate_factor(recipe, done), 6) for done in range(4)]
        [1.0, 1.0, 0.1, 0.1]
    """
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
            passed = _milestones_passed(recipe, epochs_done)
            if recipe.milestone_lrs:
                return (recipe.lr, *recipe.milestone_lrs)[passed] / recipe.lr
            return recipe.gamma**passed
        case "exponential":
            return last**progress
        case "constant":
            return 1.0


def warmup_factor(recipe: Recipe, epochs_done: int, step: int, steps: int) -> float:
    """Return the factor of the warm-up on the learning rate of a step.

    Args:
        recipe: Names the length of the warm-up.
        epochs_done: Number of finished epochs.
        step: Number of the step, from 1 in every epoch.
        steps: Number of steps of an epoch.

    Returns:
        1/n, 2/n, …, 1 in the n steps of the warm-up, and 1 after them.

    Example:
        >>> from qbench.spec.recipe import Recipe
        >>> recipe = Recipe(epochs=2, batch_size=32, optimizer="sgd", lr=0.1, warmup_epochs=0.5)
        >>> [warmup_factor(recipe, 0, step, 8) for step in (1, 2, 3, 4, 5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    length = round(recipe.warmup_epochs * steps)
    return min(1.0, (epochs_done * steps + step) / max(1, length))


def weight_decay(recipe: Recipe, epochs_done: int) -> float:
    """Return the weight decay of the network after a number of epochs.

    Args:
        recipe: Names the weight decay at the start, and those of the milestones if it has any.
        epochs_done: Number of finished epochs.
    """
    if not recipe.milestone_weight_decays:
        return recipe.weight_decay
    values = (recipe.weight_decay, *recipe.milestone_weight_decays)
    return values[_milestones_passed(recipe, epochs_done)]


def _milestones_passed(recipe: Recipe, epochs_done: int) -> int:
    return sum(epochs_done >= milestone for milestone in recipe.milestones)


def _groups(handle: Handle, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Yield the parameter groups of a handle, those of the network split by their weight decay."""
    groups = handle.parameter_groups(recipe.lr, recipe.weight_decay, recipe.other_lr)
    of_network = 1 if recipe.other_lr is None else 2
    for group in groups[:of_network]:
        if recipe.weight_decay_on in ("network", "all"):
            yield {**group, "decayed": True}
            continue
        chosen = _decayed_weights(handle, recipe.weight_decay_on)
        decayed = [p for p in group["params"] if p in chosen]
        others = [p for p in group["params"] if p not in chosen]
        if decayed:
            yield {**group, "params": decayed, "decayed": True}
        if others:
            yield {**group, "params": others, "weight_decay": 0.0}
    as_network = {"weight_decay": recipe.weight_decay, "decayed": True}
    for group in groups[of_network:]:
        yield {**group, **as_network} if recipe.weight_decay_on == "all" else group


def _decayed_weights(handle: Handle, which: str) -> set[nn.Parameter]:
    """Return the weights that ``weights``, ``quantized`` or ``classifier`` names."""
    if which == "quantized":
        modules = [layer.module for layer in handle.layers if layer.weight_quantizer is not None]
    else:
        kind = nn.Linear if which == "classifier" else QUANTIZABLE
        modules = [module for module in handle.model.modules() if isinstance(module, kind)]
    return {parameter for module in modules for parameter in originals(module)}

"""The optimizer of a trial and its learning-rate schedule."""

from __future__ import annotations

import functools
import math

import torch
from torch.optim.lr_scheduler import LambdaLR

from qbench.quant.attach import Handle
from qbench.spec.recipe import Recipe


def build_optimizer(handle: Handle, recipe: Recipe) -> torch.optim.Optimizer:
    """Build the optimizer that a recipe names, over the parameters of an attached model.

    Args:
        handle: The attached method; its `Handle.parameter_groups` are optimized.
        recipe: Names the optimizer (``adam`` or ``sgd``), the learning rates, the momentum and the
            weight decay.

    Returns:
        ``torch.optim.Adam`` or ``torch.optim.SGD``.
    """
    groups = handle.parameter_groups(recipe.lr, recipe.weight_decay, recipe.other_lr)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def build_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> LambdaLR:
    """Build the learning-rate schedule of a recipe; it is stepped once per epoch.

    Args:
        optimizer: The optimizer whose learning rates the schedule scales.
        recipe: As for `learning_rate_factor`.
    """
    return LambdaLR(optimizer, functools.partial(learning_rate_factor, recipe))


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
            return recipe.gamma ** sum(epochs_done >= m for m in recipe.milestones)
        case "exponential":
            return last**progress
        case "constant":
            return 1.0

"""Gradients by autograd and by finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tests.helpers.tensors import Array


def gradient(quantizer: nn.Module, x: Tensor, g: Tensor) -> Array:
    """Return ∂C/∂x where ∂C/∂y = g and y is the quantizer's output."""
    leaf = x.clone().requires_grad_()
    quantizer(leaf).backward(g)
    assert leaf.grad is not None
    return leaf.grad.numpy()


def central_differences(function: Callable[[Array], float], at: Array) -> Array:
    """Return the slope of a function by each element of its argument."""
    slopes = np.empty_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-6
        slopes[index] = (function(at + step) - function(at - step)) / 2e-6
    return slopes


def closed_clamp(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Clamp x, with the gradient 1 at both ends, as ``torch.clamp`` had it before torch 2.15."""
    inside = (x >= low) & (x <= high)
    return torch.where(inside, x, x.detach().clamp(low, high))  # type: ignore[arg-type]

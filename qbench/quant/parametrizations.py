"""Weights that a parametrization computes, such as weight normalization.

``own`` is the number of parametrizations that a layer had before a quantizer was attached.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def parametrization_count(module: nn.Module) -> int:
    """Return how many parametrizations the weight of a module has."""
    if not parametrize.is_parametrized(module, "weight"):
        return 0
    return len(_chain(module))


def originals(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a module's weight is computed from: itself, if nothing does."""
    if not parametrize.is_parametrized(module, "weight"):
        weight = module._parameters.get("weight")
        return [] if weight is None else [weight]
    chain = _chain(module)
    if chain.is_tensor:
        return [chain.original]
    return [getattr(chain, f"original{i}") for i in range(chain.ntensors)]


def computed_weight(module: nn.Module, own: int) -> Tensor:
    """Return the weight that the layer's own parametrizations compute."""
    first, *others = list(_chain(module))[:own]
    value: Tensor = first(*originals(module))
    for each in others:
        value = each(value)
    return value


@torch.no_grad()
def assign_weight(module: nn.Module, own: int, value: Tensor) -> None:
    """Assign a weight through the layer's own parametrizations.

    Args:
        module: The layer.
        own: Number of its own parametrizations.
        value: The weight to compute, or the nearest that they can compute.
    """
    inverse: Any = value
    for each in reversed(list(_chain(module))[:own]):
        if hasattr(each, "right_inverse"):
            inverse = each.right_inverse(inverse)
    values = [inverse] if isinstance(inverse, Tensor) else list(inverse)
    for original, new in zip(originals(module), values, strict=True):
        original.copy_(new)


def _chain(module: nn.Module) -> Any:
    return module.parametrizations.weight  # type: ignore[union-attr]


__all__ = ["assign_weight", "computed_weight", "originals", "parametrization_count"]

"""Classifiers of torchvision by name."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from qbench.errors import QbenchError, nearest


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's classification models."""
    from torchvision import models  # slow to import, and not every suite needs it

    return tuple(models.list_models(module=models))


def torchvision_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Build a torchvision classifier, randomly initialised.

    Args:
        name: Name as in ``torchvision.models.list_models()``.
        num_classes: Number of outputs.
        in_channels: 3, or 1 for grey images, which are repeated to three channels.

    Returns:
        Model. Maps (N, in_channels, H, W) to logits, (N, num_classes).

    Raises:
        QbenchError: torchvision has no classifier with the name.
    """
    if name not in torchvision_names():
        raise QbenchError(f"no model is named '{name}'{nearest(name, torchvision_names())}")
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, num_classes=num_classes)
    if in_channels == 1:
        model.register_forward_pre_hook(_grey_to_rgb)
    return model


def _grey_to_rgb(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return (args[0].expand(-1, 3, -1, -1), *args[1:])

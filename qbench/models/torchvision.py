"""Every classifier of torchvision by its name."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from qbench.errors import QbenchError, nearest


@cache
def torchvision_names() -> tuple[str, ...]:
    """The names of torchvision's classification models."""
    from torchvision import models  # takes a second to import, and not every suite needs it

    return tuple(models.list_models(module=models))


def torchvision_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Build a torchvision classifier, randomly initialised.

    Args:
        name: as in ``torchvision.models.list_models()``.
        num_classes: outputs.
        in_channels: 3, or 1: a grey image is repeated to three channels.

    Raises:
        QbenchError: torchvision has no classifier of that name.
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

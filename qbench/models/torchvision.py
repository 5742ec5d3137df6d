"""Classifiers of torchvision by name."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from qbench.errors import QbenchError, nearest

_WITHOUT_AUXILIARY = {"aux_logits": False, "transform_input": True, "init_weights": True}
_OPTIONS = {"googlenet": _WITHOUT_AUXILIARY, "inception_v3": _WITHOUT_AUXILIARY}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's classification models."""
    from torchvision import models  # slow to import, and not every suite needs it

    return tuple(models.list_models(module=models))


def torchvision_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Build a torchvision classifier, randomly initialised.

    GoogLeNet and Inception v3 have auxiliary classifiers, which only training uses. They are left
    out, and the weights of such classifiers are not loaded. The inputs of these two networks are
    scaled as torchvision's weights expect it.

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

    model: nn.Module = get_model(
        name, weights=None, num_classes=num_classes, **_OPTIONS.get(name, {})
    )
    if name in _OPTIONS:
        model.register_load_state_dict_pre_hook(_drop_auxiliary)
    if in_channels == 1:
        model.register_forward_pre_hook(_grey_to_rgb)
    return model


def _drop_auxiliary(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Remove the weights of auxiliary classifiers from a ``state_dict``, in place."""
    for name in [name for name in state if name.startswith(_AUXILIARY)]:
        del state[name]


def _grey_to_rgb(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
    return (args[0].expand(-1, 3, -1, -1), *args[1:])

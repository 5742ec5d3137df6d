"""Models of timm by name, such as ``timm:deit_tiny_patch16_224``."""

from __future__ import annotations

import importlib.util
from functools import cache

from torch import nn

from qbench.errors import QbenchError, closest

PREFIX = "timm:"
"""Beginning of the names of timm's models."""


def is_timm(name: str) -> bool:
    """Return whether a name is that of a model of timm."""
    return name.startswith(PREFIX)


def check_timm_name(name: str) -> None:
    """Check that timm has a model. Without timm, every name passes.

    Args:
        name: Name with its prefix.

    Raises:
        QbenchError: timm has no such model. The message names the nearest.
    """
    own = name.removeprefix(PREFIX)
    if _installed() and own not in _names():
        hint = closest(name, [PREFIX + each for each in _names()])
        raise QbenchError(f"timm has no model named '{own}'{hint}")


def timm_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Build a model of timm, randomly initialised.

    Transformers with learned positions take images of any size that their patches divide: positions
    are interpolated, as timm does it.

    Args:
        name: Name with its prefix: ``timm:`` and a name of ``timm.list_models()``.
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.

    Returns:
        Model. Maps (N, in_channels, H, W) to logits, (N, num_classes).

    Raises:
        QbenchError: timm is not installed, or has no such model.
    """
    try:
        import timm  # takes seconds, and few suites need it
    except ImportError as error:
        raise QbenchError(
            f"{name} needs timm, which cannot be imported ({error}): "
            "pip install 'qbench-quant[timm]'"
        ) from error
    check_timm_name(name)
    own = name.removeprefix(PREFIX)
    shape = {"num_classes": num_classes, "in_chans": in_channels}
    model: nn.Module
    try:
        model = timm.create_model(own, **shape, dynamic_img_size=True)
    except TypeError:  # it takes no such argument, which is refused before anything is drawn
        model = timm.create_model(own, **shape)
    return model


def _installed() -> bool:
    return importlib.util.find_spec("timm") is not None


@cache
def _names() -> frozenset[str]:
    import timm

    return frozenset(timm.list_models())

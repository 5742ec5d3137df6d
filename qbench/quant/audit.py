"""Is it really k bits? Counts the distinct values of every tensor that was to be quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qbench.method import Layer, Scope
from qbench.spec.result import LevelCount


def audit(
    layers: Sequence[Layer],
    weight_scope: Scope,
    state: Mapping[str, Tensor],
    model: nn.Module,
    images: Tensor,
) -> list[LevelCount]:
    """Count the levels of a hardened model.

    Args:
        layers: the layers that were to be quantized, with their widths.
        weight_scope: whether a weight's levels are the layer's or each filter's.
        state: the ``state_dict`` that is stored, as it was read back: weights are counted in it.
        model: the hardened model, through which `images` are run to count its layers' inputs.
        images: a batch of test images.

    Returns:
        One count for each quantized weight and each quantized input.
    """
    counts = [
        LevelCount(
            layer=layer.name,
            tensor="weight",
            levels=count_levels(state[f"{layer.name}.weight"], weight_scope),
            promised=layer.weight_bits.count,
            scope=weight_scope,
        )
        for layer in layers
        if not layer.weight_bits.is_float
    ]
    inputs = _inputs(model, [m for m in layers if not m.input_bits.is_float], images)
    counts += [
        LevelCount(
            layer=layer.name,
            tensor="input",
            levels=count_levels(inputs[layer.name], "layer"),
            promised=layer.input_bits.count,
            scope="layer",
        )
        for layer in layers
        if not layer.input_bits.is_float
    ]
    return counts


def count_levels(x: Tensor, scope: Scope) -> int:
    """Distinct values of a tensor, or the most that any of its filters (first dimension) has."""
    if scope == "layer":
        return int(x.unique().numel())
    ordered = x.flatten(1).sort(1).values
    return int((ordered.diff(dim=1) != 0).sum(1).max()) + 1


def _inputs(model: nn.Module, layers: Sequence[Layer], images: Tensor) -> dict[str, Tensor]:
    """What each layer is really given. Hooks run in order, so these see the quantized input."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen[name] = args[0]

        return hook

    hooks = [m.module.register_forward_pre_hook(keep(m.name)) for m in layers]
    try:
        if layers:
            model.eval()
            with torch.inference_mode():
                model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen

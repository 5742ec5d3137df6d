"""Verify bit-widths: count the distinct values of every quantized tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from qbench.method import Layer, Scope
from qbench.quant.hooks import observed_inputs
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
        layers: Quantized layers, with their bit-widths.
        weight_scope: Whether a weight's levels are shared by a layer or by each filter.
        state: ``state_dict`` that was stored, read back; weights are counted in it.
        model: Hardened model. `images` are passed through it to count the inputs of its layers.
        images: Batch of test images.

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
    inputs = _inputs(model, [m for m in layers if not m.activation_bits.is_float], images)
    counts += [
        LevelCount(
            layer=layer.name,
            tensor="input",
            levels=count_levels(inputs[layer.name], "layer"),
            promised=layer.activation_bits.count,
            scope="layer",
        )
        for layer in layers
        if not layer.activation_bits.is_float
    ]
    return counts


def count_levels(x: Tensor, scope: Scope) -> int:
    """Count the distinct values of a tensor.

    Args:
        x: Tensor, (filters, …) if counted by filter.
        scope: ``'layer'`` counts over the whole tensor, ``'filter'`` over each entry of the first
            dimension.

    Returns:
        The count; for ``'filter'``, the largest count of any filter.
    """
    if scope == "layer":
        return int(x.unique().numel())
    ordered = x.flatten(1).sort(1).values
    return int((ordered.diff(dim=1) != 0).sum(1).max()) + 1


def _inputs(model: nn.Module, layers: Sequence[Layer], images: Tensor) -> dict[str, Tensor]:
    """Return the quantized input of each layer, by the layer's name."""
    seen: dict[str, Tensor] = {}
    if layers:
        model.eval()
        with observed_inputs(layers, seen.__setitem__), torch.inference_mode():
            model(images)
    return seen

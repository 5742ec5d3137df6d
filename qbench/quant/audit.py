"""Verify bit-widths: count the distinct values of every quantized tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from qbench.method import Granularity, Layer, PerTensor
from qbench.quant.hooks import observed_inputs
from qbench.spec.granularity import scope_of
from qbench.spec.result import LevelCount

_WHOLE = PerTensor()


def audit(
    layers: Sequence[Layer], state: Mapping[str, Tensor], model: nn.Module, images: Tensor
) -> list[LevelCount]:
    """Count the levels of a hardened model.

    Args:
        layers: Quantized layers, with their declared levels.
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
            levels=count_levels(state[f"{layer.name}.weight"], layer.weight_levels.granularity),
            promised=layer.weight_levels.count(layer.weight_bits),
            scope=scope_of(layer.weight_levels.granularity),
            bits=str(layer.weight_bits),
        )
        for layer in layers
        if layer.weight_levels is not None
    ]
    inputs = _inputs(model, [m for m in layers if not m.activation_bits.is_float], images)
    counts += [
        LevelCount(
            layer=layer.name,
            tensor="input",
            levels=count_levels(inputs[layer.name]),
            promised=layer.activation_levels.count(layer.activation_bits),
            scope="layer",
            bits=str(layer.activation_bits),
        )
        for layer in layers
        if layer.activation_levels is not None
    ]
    return counts


def count_levels(x: Tensor, granularity: Granularity = _WHOLE) -> int:
    """Count the distinct values of a tensor.

    Args:
        x: Tensor, (out, in, …) unless counted as a whole.
        granularity: Groups in which to count.

    Returns:
        The count; the largest of any group if there are several.
    """
    if granularity == _WHOLE:
        return int(x.unique().numel())
    ordered = (rows.sort(1).values for rows in granularity.split(x))
    return 1 + max(int((rows.diff(dim=1) != 0).sum(1).max()) for rows in ordered)


def _inputs(model: nn.Module, layers: Sequence[Layer], images: Tensor) -> dict[str, Tensor]:
    """Return the quantized input of each layer, by the layer's name."""
    seen: dict[str, Tensor] = {}
    if layers:
        model.eval()
        with observed_inputs(layers, seen.__setitem__), torch.inference_mode():
            model(images)
    return seen

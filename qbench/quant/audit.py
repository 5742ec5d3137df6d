"""Verify bit-widths: count the distinct values of every quantized tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from qbench.method import Granularity, Layer, PerTensor, Place
from qbench.quant.exchange.transposed import output_first
from qbench.quant.hooks import observed, observed_inputs
from qbench.quant.layers import quantizable_layers
from qbench.quant.placement.plan import Arrival
from qbench.quant.placement.sites import observed_points
from qbench.spec.granularity import scope_of
from qbench.spec.result import LevelCount

_WHOLE = PerTensor()


def audit(
    layers: Sequence[Layer],
    state: Mapping[str, Tensor],
    model: nn.Module,
    images: Tensor,
    places: Sequence[Layer] = (),
    arrivals: Sequence[Arrival] = (),
) -> list[LevelCount]:
    """Count the levels of a hardened model.

    Args:
        layers: Quantized layers, with their declared levels.
        state: ``state_dict`` that was stored, read back; weights are counted in it.
        model: Hardened model. `images` are passed through it to count the inputs of its layers.
        images: Batch of test images.
        places: All that has an activation quantizer.
        arrivals: Additions and poolings at which quantized values arrive, see `Handle.arrivals`.

    Returns:
        One count for each quantized weight, each quantized input, each place between layers, and
        each addend and pooling that receives values of a place. A tensor of which a forward pass
        has several counts once, with the largest number.
    """
    counts = [
        LevelCount(
            layer=layer.name,
            tensor="weight",
            levels=count_levels(_weight(layer, state), layer.weight_levels.granularity),
            promised=layer.weight_levels.count(layer.weight_bits),
            scope=scope_of(layer.weight_levels.granularity),
            bits=str(layer.weight_bits),
        )
        for layer in layers
        if layer.weight_levels is not None
    ]
    between = {place.name: place for place in places if isinstance(place, Place)}
    quantized = [layer for layer in layers if not layer.activation_bits.is_float]
    inputs, outputs, arriving = _counts(model, quantized, between, arrivals, images)
    counts += [
        LevelCount(
            layer=layer.name,
            tensor="input",
            levels=inputs[layer.name],
            promised=layer.activation_levels.count(layer.activation_bits),
            scope="layer",
            bits=str(layer.activation_bits),
        )
        for layer in layers
        if layer.activation_levels is not None
    ]
    counts += [
        _of_place(name, "activation", levels, between[name]) for name, levels in outputs.items()
    ]
    return counts + [
        _of_place(
            each.point.name,
            "addend" if each.point.site.kind == "add" else "pooling",
            arriving[each.point.name],
            between[each.place],
        )
        for each in arrivals
    ]


def _of_place(name: str, tensor: str, levels: int, place: Place) -> LevelCount:
    assert place.activation_levels is not None  # noqa: S101
    return LevelCount(
        layer=name,
        tensor=tensor,
        levels=levels,
        promised=place.activation_levels.count(place.activation_bits),
        scope="layer",
        bits=str(place.activation_bits),
    )


def _weight(layer: Layer, state: Mapping[str, Tensor]) -> Tensor:
    """Return the weight of a layer in a state, output channels first."""
    name = f"{layer.name}.weight"
    weight = state[name] if name in state else state[f"{layer.name}_weight"]  # of attention
    return output_first(layer.module, weight)


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


def _counts(
    model: nn.Module,
    layers: Sequence[Layer],
    places: Mapping[str, Place],
    arrivals: Sequence[Arrival],
    images: Tensor,
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Count the values at the inputs of layers, behind places, and where values arrive, by name."""
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    arriving: dict[str, int] = {}
    if not layers and not places:
        return inputs, outputs, arriving

    def count(found: dict[str, int], name: str, x: Tensor) -> None:
        found[name] = max(found.get(name, 0), count_levels(x))

    quantizers = {
        name: place.activation_quantizer
        for name, place in places.items()
        if place.activation_quantizer is not None
    }
    model.eval()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(observed_inputs(layers, partial(count, inputs)))
        stack.enter_context(observed(quantizers, lambda name, _, y: count(outputs, name, y)))
        if arrivals:
            points = [each.point for each in arrivals]
            modules = quantizable_layers(model).values()
            stack.enter_context(
                observed_points(
                    model, modules, points, lambda point, x: count(arriving, point.name, x)
                )
            )
        model(images)
    return inputs, outputs, arriving

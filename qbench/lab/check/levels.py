"""The promises about levels: declared ones, their granularity, and hardening."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.lab.check.level_fit import has_levels
from qbench.lab.check.networks import Case, images
from qbench.lab.check.promise import BrokenPromiseError
from qbench.lab.check.steps import equal, through_quantizers, train, trained
from qbench.method import Granularity, Layer, Levels, PerChannel, PerGroup, PerTensor
from qbench.quant.audit import count_levels
from qbench.quant.handle import Handle
from qbench.quant.layers import layer_weight
from qbench.spec.bits import BitWidth


def has_the_levels_it_promises(case: Case) -> None:
    """Check that after hardening every tensor has only values of its declared level set."""
    handle = trained(case)
    has_the_levels_it_promises_when_hard(handle)
    for layer in handle.layers:
        values = layer_weight(layer).detach().unique()
        if len(values) < 2:
            raise BrokenPromiseError(
                f"{layer.name}.weight has one value after hardening, {float(values[0]):g}"
            )


def has_the_levels_it_promises_when_hard(handle: Handle) -> None:
    """Harden a model and check its levels.

    Args:
        handle: The attached method.

    Raises:
        BrokenPromiseError: A value is not one of the declared levels.
    """
    handle.harden().eval()
    for layer in handle.layers:
        if layer.weight_levels is not None:
            _check_weight(layer, layer.weight_levels)
    _check_constants(handle)
    for scale in (1.0, 30.0):
        for name, (before, after) in through_quantizers(handle, scale * images(2)).items():
            place = next(place for place in handle.places if place.name == name)
            if place.activation_levels is not None:
                _check_input(place, place.activation_levels, before, after)


def _check_weight(layer: Layer, levels: Levels) -> None:
    weight, width, name = layer_weight(layer).detach(), layer.weight_bits, f"{layer.name}.weight"
    if not weight.isfinite().all():
        raise BrokenPromiseError(f"{name} is not finite after hardening")
    count, promised = count_levels(weight, levels.granularity), levels.count(width)
    if count > promised:
        raise BrokenPromiseError(
            f"{name} has {count} values after hardening, where {width} bits of the declared levels "
            f"allow {promised}: quantize fully where `self.training` is False"
            f"{_finer(weight, levels, width)}"
        )
    if not has_levels(weight, levels, width):
        raise BrokenPromiseError(
            f"{name} does not have the declared levels after hardening: its values {_shown(weight)}"
            f" are not a scale{' and an offset' if levels.offset else ''} times codes of "
            f"{_codes(levels, width)}; declare the levels that the method has, or quantize to "
            f"`layer.weight_levels.codes(layer.weight_bits)`{_finer(weight, levels, width)}"
        )


def _check_constants(handle: Handle) -> None:
    """Check that weights whose levels are declared to be constants have the same ones everywhere.

    Raises:
        BrokenPromiseError: They have not.
    """
    weights: dict[str, list[Tensor]] = {}
    of_width: dict[str, tuple[Levels, BitWidth]] = {}
    for layer in handle.layers:
        levels = layer.weight_levels
        if levels is not None and levels.scales == 0:
            width = str(layer.weight_bits)
            weights.setdefault(width, []).append(layer_weight(layer).detach().flatten())
            of_width[width] = levels, layer.weight_bits
    for width, (levels, bits) in of_width.items():
        if not has_levels(torch.cat(weights[width]), levels, bits, PerTensor()):
            raise BrokenPromiseError(
                f"at {width} bits the levels of weights are declared constants (scales=0), and "
                "layers have different scales: declare scales=1"
            )


def _check_input(layer: Layer, levels: Levels, before: Tensor, after: Tensor) -> None:
    width = layer.activation_bits
    count, promised = count_levels(after, levels.granularity), levels.count(width)
    if not after.isfinite().all():
        raise BrokenPromiseError(f"the quantized input of '{layer.name}' is not finite")
    if count > promised:
        raise BrokenPromiseError(
            f"the input of {layer.name} has {count} values after hardening, where {width} bits of "
            f"the declared levels allow {promised}"
        )
    if not has_levels(after, levels, width, signed=bool(before.min() < 0)):
        raise BrokenPromiseError(
            f"the input of {layer.name} does not have the declared levels after hardening: its "
            f"values {_shown(after)} are not a scale{' and an offset' if levels.offset else ''} "
            f"times codes of {_codes(levels, width)}"
        )


def _finer(weight: Tensor, levels: Levels, width: BitWidth) -> str:
    """Return a hint if the values are levels of a finer granularity than the declared one."""
    if levels.granularity == PerTensor() and has_levels(weight, levels, width, PerChannel()):
        return "; or is it quantized per channel? Then declare granularity=PerChannel()"
    return ""


def _shown(x: Tensor) -> str:
    values = x.unique().tolist()
    shown = ", ".join(f"{value:.5g}" for value in values[:5])
    return f"({shown}{', …' if len(values) > 5 else ''})"


def _codes(levels: Levels, width: BitWidth) -> str:
    codes = levels.codes(width) or ()
    shown = [f"{code:g}" for code in codes]
    if len(shown) > 9:
        shown = [*shown[:4], "…", shown[-1]]
    return f"{levels.about} at {width} bits ({', '.join(shown)})"


def needs_its_granularity(case: Case) -> None:
    """Check that groups of weights have levels of their own where they are declared to.

    The network's weights differ in size from channel to channel, and within a channel.
    """
    model = case.model()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            rows = module.weight.detach().flatten(1)
            for length, shape in ((rows.shape[0], (-1, 1)), (rows.shape[1], (1, -1))):
                rows = rows * torch.linspace(0.25, 1, length).view(shape)
            module.weight.data.copy_(rows.view_as(module.weight))
    handle = case.attach(model=model)
    train(handle)
    handle.harden()
    shared = {}
    for layer in handle.layers:
        levels = layer.weight_levels
        if levels is None or levels.scales == 0:
            continue
        weight = layer_weight(layer).detach()
        coarser = _coarser(levels.granularity)
        if coarser is None:
            continue
        groups = coarser.groups(weight.shape)
        fewer = groups < levels.granularity.groups(weight.shape)
        # Without codes only the count tells, and only where there are more weights than levels.
        tells = levels.codes(layer.weight_bits) is not None or (
            weight.numel() > groups * levels.count(layer.weight_bits)
        )
        if fewer and tells:
            shared[layer.name] = has_levels(weight, levels, layer.weight_bits, coarser)
            declared = levels.granularity
    if shared and all(shared.values()):
        raise BrokenPromiseError(
            f"declares {declared!r}, and the levels of every layer are those of {coarser!r}: "
            f"declare granularity={coarser!r}, or compute the scale of each group, as "
            "`layer.weight_levels.granularity.reduce` does"
        )


def _coarser(granularity: Granularity) -> Granularity | None:
    match granularity:
        case PerGroup():
            return PerChannel()
        case PerChannel():
            return PerTensor()
        case _:
            return None


def hardens_to_what_it_evaluates(case: Case) -> None:
    """Check that hardening keeps what evaluation used, and that nothing softens afterwards."""
    handle = trained(case)
    model = handle.model.eval()
    with torch.no_grad():
        output = model(images(3))
        weights = [layer_weight(layer).clone() for layer in handle.layers]
    handle.harden()
    for layer, weight in zip(handle.layers, weights, strict=True):
        if not equal(layer_weight(layer), weight):
            raise BrokenPromiseError(
                f"hardening changed the values of {layer.name}.weight: forward is not a function "
                "of its input and the state alone"
            )
    with torch.no_grad():
        if not equal(model(images(3)), output):
            raise BrokenPromiseError("hardening changed what the model computes")
    model.train()
    hard = through_quantizers(handle, images(3))
    through_quantizers(handle, 10 * images(4))
    for place in handle.places:
        if place.name in hard and place.activation_quantizer is not None:
            before, after = hard[place.name]
            if not equal(place.activation_quantizer(before), after):
                raise BrokenPromiseError(
                    f"the input quantizer of {place.name} still changes after hardening"
                )

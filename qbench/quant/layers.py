"""Select the layers of a model that a layer policy quantizes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from qbench.errors import QbenchError, nearest
from qbench.method import Layer, Levels, Method, Place
from qbench.quant.exchange.attention import PRODUCT_INPUTS
from qbench.quant.exchange.modules import is_attention
from qbench.quant.exchange.transposed import TRANSPOSED
from qbench.quant.parametrizations import originals
from qbench.spec.bits import FULL_PRECISION, BitWidth, BitWidths
from qbench.spec.policies import POLICIES, LayerPolicy, end_widths

QUANTIZABLE: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *TRANSPOSED)
"""Layers with a weight to quantize. Transposed convolutions count once they are exchanged."""


def quantizable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of a model, by name.

    Args:
        model: Any module.
    """
    return {name: m for name, m in model.named_modules() if isinstance(m, QUANTIZABLE)}


def select_layers(model: nn.Module, policy: LayerPolicy, bits: BitWidths) -> list[Layer]:
    """Select the layers that a policy quantizes, each with its bit-widths.

    Args:
        model: Any module.
        policy: Layer policy, as in `attach`. Names may be patterns such as ``'features.*'``, and a
            name after ``!`` leaves its layers out again: ``['*', '!aux*']``.
        bits: Bit-widths of the layers for which the policy names no other.

    Returns:
        The selected layers in the model's order, without those that stay at full precision.

    Raises:
        QbenchError: The policy is unknown, names a layer that the model does not have, or only
            leaves layers out.
    """
    found = quantizable_layers(model)
    names = list(found)
    widths: dict[str, BitWidths]
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise QbenchError(f"'{policy}' is no layer policy{nearest(policy, POLICIES)}")
        first, last = end_widths(policy, bits)
        widths = dict.fromkeys(names, bits)
        widths |= dict.fromkeys(names[-1:], last) | dict.fromkeys(names[:1], first)
    else:
        widths = {}
        if policy and all(pattern.startswith("!") for pattern in policy):
            raise QbenchError(
                f"layers={list(policy)} only leaves layers out; write {['*', *policy]}"
            )
        for pattern in policy:
            matching = _matching(pattern.removeprefix("!"), names)
            if pattern.startswith("!"):
                widths = {name: each for name, each in widths.items() if name not in matching}
            else:
                given = BitWidths.parse(policy[pattern]) if isinstance(policy, Mapping) else bits
                widths |= dict.fromkeys(matching, given)
    return [
        Layer(name, found[name], widths[name].weights, widths[name].activations)
        for name in names
        if name in widths and not widths[name].is_float
    ]


def attention_places(model: nn.Module, layers: Sequence[Layer]) -> list[Place]:
    """Return the places of activation quantizers inside attention.

    Args:
        model: Model whose attention is exchanged.
        layers: Its quantized layers.

    Returns:
        Four places for each attention that has a layer with a quantized input: both factors of both
        products, with the bit-width of the first such layer.
    """
    widths = {layer.module: layer for layer in layers if not layer.activation_bits.is_float}
    places = []
    for name, module in model.named_modules():
        inner = [widths[each] for each in module.modules() if each in widths]
        if is_attention(module) and inner:
            prefix = f"{name}." if name else ""
            places += [
                Place(
                    f"{prefix}{part}",
                    module.get_submodule(part),
                    FULL_PRECISION.weights,
                    inner[0].activation_bits,
                    kind="attention",
                    consumers=(name,),
                )
                for part in PRODUCT_INPUTS
            ]
    return places


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that a pattern of `fnmatch` matches; at least one.

    Raises:
        QbenchError: No name matches.
    """
    found = [pattern] if pattern in names else fnmatch.filter(names, pattern)
    if not found:
        raise QbenchError(
            f"the model has no conv or linear layer '{pattern}'{nearest(pattern, names)}"
        )
    return found


def declare_levels(layers: Iterable[Layer], method: Method) -> None:
    """Set the levels of layers from what a method declares.

    Args:
        layers: The layers, with their bit-widths.
        method: The method.

    Raises:
        QbenchError: The method declares no levels for a bit-width.
    """
    weights, activations = method.weights, method.activations
    if weights is not None and method.granularity is not None:
        weights = weights.with_granularity(method.granularity)
    for layer in layers:
        layer.weight_levels = _levels(method, "weights", weights, layer.weight_bits)
        layer.activation_levels = _levels(method, "activations", activations, layer.activation_bits)


def _levels(
    method: Method, tensors: str, declared: Levels | None, width: BitWidth
) -> Levels | None:
    if width.is_float:
        return None
    found = declared and declared.family_of(width)
    if found is None:
        raise QbenchError(
            f"{method.name} declares no levels of {tensors} at {width} bits: set `{tensors} = …`, "
            "as in qbench.method.Integers()"
        )
    return found


def layer_weight(layer: Layer) -> Tensor:
    """Return the weight that a layer computes with: quantized, if it has a quantizer.

    Args:
        layer: The layer.

    Returns:
        The weight, (out, in, …).
    """
    weight = layer.module.weight
    assert isinstance(weight, Tensor)  # noqa: S101
    return weight


def check_shared_weights(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Check that layers that share a weight have the same bit-width for it.

    Args:
        model: Any module.
        layers: Its quantized layers.

    Raises:
        QbenchError: Two layers share a weight and have different bit-widths.
    """
    widths = {layer.name: layer.weight_bits for layer in layers}
    first: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, QUANTIZABLE):
            other = first.setdefault(id(originals(module)[0]), name)
            mine, its = (widths.get(each, FULL_PRECISION.weights) for each in (name, other))
            if mine != its:
                raise QbenchError(
                    f"'{other}' and '{name}' share a weight, which cannot have {its} and {mine} "
                    "bits at once; give both layers the same width"
                )


def rename_layers(
    policy: LayerPolicy, modules: Mapping[str, nn.Module], prepared: nn.Module
) -> LayerPolicy:
    """Rename the layers of a policy to their names in a model that a method has rearranged.

    Args:
        policy: Layer policy, with the names of the original model.
        modules: Modules of the original model, by name.
        prepared: The rearranged model.

    Returns:
        The policy with the new names. Names that are not found stay, so that `select_layers`
        reports them.
    """
    now = {module: name for name, module in prepared.named_modules()}

    def name_of(layer: str) -> str:
        module = modules.get(layer)
        return layer if module is None else now.get(module, layer)

    if isinstance(policy, str):
        return policy
    if isinstance(policy, Mapping):
        return {name_of(name): widths for name, widths in policy.items()}
    return [name_of(name) for name in policy]

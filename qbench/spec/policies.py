"""Layer policies: which layers of a model are quantized, and to which bit-widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qbench.spec.bits import FULL_PRECISION, BitWidth, BitWidths

POLICIES = (
    *("skip_first_last", "all", "all_but_image"),
    *("first_last_8bit", "first_last_8bit_weights"),
)
DEFAULT_LAYERS = "skip_first_last"
# The name of a policy, names of layers, or the widths ``W/A`` of layers by name.
LayerPolicy = str | Sequence[str] | Mapping[str, str]


def policy_widths(policy: LayerPolicy, bits: BitWidths) -> list[BitWidths]:
    """Return every pair of widths that a policy asks of a method, each once.

    Args:
        policy: Layer policy.
        bits: Widths of the layers for which the policy names no other.

    Raises:
        ValueError: A width in a mapping is not valid.
    """
    if isinstance(policy, Mapping):
        widths = [BitWidths.parse(text) for text in policy.values()]
    else:
        ends = end_widths(policy, bits) if isinstance(policy, str) else ()
        # A method may require that tensors are quantized, but not at the ends of a network.
        widths = [bits, *(each for each in ends if not _is_part(each, bits))]
    return list(dict.fromkeys(widths))


def _is_part(end: BitWidths, bits: BitWidths) -> bool:
    """Return whether each tensor of an end is at full precision, or has the width of the others."""
    return (end.weights.is_float or end.weights == bits.weights) and (
        end.activations.is_float or end.activations == bits.activations
    )


def end_widths(policy: str, bits: BitWidths) -> tuple[BitWidths, BitWidths]:
    """Return the widths of the first and of the last layer.

    Args:
        policy: Name of a policy.
        bits: Widths of the layers between them.
    """
    floats = FULL_PRECISION.activations
    eight = BitWidths(
        *(width if width.is_float else BitWidth(8) for width in (bits.weights, bits.activations))
    )
    match policy:
        case "all_but_image":
            return BitWidths(bits.weights, floats), bits
        case "first_last_8bit":
            return eight, eight
        case "first_last_8bit_weights":
            return (BitWidths(eight.weights, floats),) * 2
        case "skip_first_last":
            return FULL_PRECISION, FULL_PRECISION
    return bits, bits

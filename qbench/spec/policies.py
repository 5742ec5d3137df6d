"""Layer policies: which layers of a model are quantized, and to which bit-widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qbench.spec.bits import BitWidth, BitWidths

POLICIES = ("skip_first_last", "all", "first_last_8bit")
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
    elif policy == "first_last_8bit":
        widths = [bits, eight_bits(bits)]
    else:
        widths = [bits]
    return list(dict.fromkeys(widths))


def eight_bits(bits: BitWidths) -> BitWidths:
    """Return the widths of the first and the last layer under ``first_last_8bit``.

    Args:
        bits: Widths of the other layers.

    Returns:
        8 bits, where ``bits`` is not full precision.
    """
    eight = BitWidth(8)
    return BitWidths(
        bits.weights if bits.weights.is_float else eight,
        bits.activations if bits.activations.is_float else eight,
    )

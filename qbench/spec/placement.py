"""Placements: where the quantizers of activations sit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from qbench.spec.bits import BitWidths

Placement = Literal["layer_inputs", "after_activation", "after_activation_and_add"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
LAYER_INPUTS: Placement = "layer_inputs"


def resolve_placement(wanted: Placement, widths: Iterable[BitWidths]) -> Placement:
    """Return the placement of a trial.

    Args:
        wanted: Placement of the method, or that of a suite.
        widths: Bit-widths of the layers of the trial.

    Returns:
        The placement; ``layer_inputs`` where no activation is quantized, so that such a trial has
        one key.

    Example:
        >>> resolve_placement("after_activation", [BitWidths.parse("2/32")])
        'layer_inputs'
    """
    quantized = any(not each.activations.is_float for each in widths)
    return wanted if quantized else LAYER_INPUTS

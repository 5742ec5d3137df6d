"""Placements: where the quantizers of activations sit."""

from __future__ import annotations

from typing import Literal, get_args

Placement = Literal["layer_inputs", "after_activation", "after_activation_and_add"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
LAYER_INPUTS: Placement = "layer_inputs"

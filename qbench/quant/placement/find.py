"""Find the places of a model: run it once, and plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from qbench.method import Layer, Place
from qbench.quant.layers import quantizable_layers
from qbench.quant.placement.plan import Arrival, plan
from qbench.quant.placement.sites import Point, Site, find_calls
from qbench.spec.bits import FULL_PRECISION, BitWidth
from qbench.spec.placement import LAYER_INPUTS, Placement
from qbench.spec.words import counted


@dataclass(frozen=True)
class FoundPlaces:
    """Places of a model, without quantizers yet.

    Attributes:
        places: The places between layers.
        points_of: Points of each place.
        own_inputs: Names of the layers with a quantizer at their own input.
        arrivals: Additions and poolings at which values of places arrive.
        sites: All sites of the model.
    """

    places: tuple[Place, ...] = ()
    points_of: tuple[tuple[Point, ...], ...] = ()
    own_inputs: tuple[str, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    sites: tuple[Site, ...] = ()

    @property
    def points(self) -> list[Point]:
        """The points of all places."""
        return [point for points in self.points_of for point in points]


def find_places(
    model: nn.Module,
    layers: Sequence[Layer],
    placement: Placement,
    bits: BitWidth,
    batch: Any,
    replaces: bool = False,
) -> FoundPlaces:
    """Find the places of a model.

    Args:
        model: Model in evaluation mode, without quantizers.
        layers: Its layers whose input is to be on levels.
        placement: ``after_activation`` or ``after_activation_and_add``.
        bits: Width of places that no quantized layer reads.
        batch: Input of the model.
        replaces: Whether quantizers replace ReLUs, see `Method.replaces_activations`.

    Raises:
        QbenchError: Two layers read the same values and want them at different widths.
    """
    calls = find_calls(model, quantizable_layers(model), batch)
    widths = {layer.name: layer.activation_bits for layer in layers}
    planned = plan(calls, placement, widths, bits, replaces)
    modules = dict(model.named_modules())
    return FoundPlaces(
        places=tuple(
            Place(
                place.name,
                modules[place.points[0].site.via or place.points[0].site.owner],
                FULL_PRECISION.weights,
                place.bits,
                kind=place.kind,
                consumers=place.consumers,
            )
            for place in planned.places
        ),
        points_of=tuple(place.points for place in planned.places),
        own_inputs=planned.own_inputs,
        arrivals=planned.arrivals,
        sites=tuple(dict.fromkeys(call.site for call in calls if call.site is not None)),
    )


def placed_text(placement: Placement, places: Sequence[Layer]) -> str:
    """Describe where the quantizers of activations sit, or return an empty string.

    Args:
        placement: Placement of the trial.
        places: All that has an activation quantizer.
    """
    if placement == LAYER_INPUTS:
        return ""
    between = sum(isinstance(place, Place) for place in places)
    own = len(places) - between
    rest = f", {own} at the input of a layer that would read unquantized values" if own else ""
    return f"placement {placement}: {counted(between, 'quantizer')} between layers{rest}"

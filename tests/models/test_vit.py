"""The vision transformer for small images."""

from __future__ import annotations

import pytest
import torch

from qbench.errors import QbenchError
from qbench.models.vit import Positions, VisionTransformerTiny, positions
from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.layers import select_layers
from qbench.spec.bits import BitWidths
from tests.helpers.networks import build, parameters


@pytest.mark.parametrize(("size", "tokens"), [(14, 16), (28, 49)])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_takes_images_of_both_sizes(size: int, tokens: int, channels: int) -> None:
    model = build("vit_tiny", classes=7, channels=channels)
    x = torch.randn(2, channels, size, size)
    assert isinstance(model, VisionTransformerTiny)
    assert model[1](model[0](x)).shape == (2, tokens, 48)
    assert model(x).shape == (2, 7)


def test_its_size_is_that_of_the_documentation() -> None:
    assert parameters(build("vit_tiny", channels=1)) == 86218


def test_every_token_has_a_position_of_its_own() -> None:
    found = positions(48, 7, 5)
    assert found.shape == (35, 48)
    assert len(found.unique(dim=0)) == 35
    swapped = positions(48, 5, 7).unflatten(0, (5, 7)).transpose(0, 1).flatten(0, 1)
    assert torch.equal(found[:, :24], swapped[:, 24:])  # columns and rows alike
    assert torch.equal(Positions()(torch.zeros(1, 48, 7, 5))[0], found)


def test_it_tells_the_same_pixels_at_two_places_apart() -> None:
    model = build("vit_tiny", channels=1).eval()
    x = torch.zeros(2, 1, 14, 14)
    x[0, 0, 4, 4] = x[1, 0, 8, 8] = 5.0
    first, second = model(x)
    assert not torch.allclose(first, second)


def test_all_layers_but_the_embedding_and_the_classifier_are_quantized() -> None:
    model = build("vit_tiny", channels=1)
    names = [
        layer.name for layer in select_layers(model, "skip_first_last", BitWidths.parse("2/2"))
    ]
    assert names[:3] == ["block1.attention.out_proj", "block1.fc1", "block1.fc2"]


def attached(method: str, bits: str) -> Handle:
    torch.manual_seed(0)
    model = VisionTransformerTiny(10, 1, width=8, depth=1, heads=2)
    return attach(model, method, bits=bits, calibration=[torch.randn(8, 1, 14, 14)])


@pytest.mark.parametrize(
    "method",
    ["apot", "dorefa", "ewgs", "hwgq", "lq_nets", "n2uq", "pact", "wrpn"],
)
def test_levels_that_start_at_zero_are_refused_by_name(method: str) -> None:
    bits = "1/2" if method == "hwgq" else "4/4"
    message = rf"'block1.attention.in_proj' has \d+ % negative values, .* of {method} start at zero"
    with pytest.raises(QbenchError, match=message):
        attached(method, bits)


@pytest.mark.parametrize(
    "method", ["dsq", "lsq", "ptq_minmax", "qil", "quantization_networks", "quest", "stats_q"]
)
def test_other_levels_lose_no_negative_value(method: str) -> None:
    assert {place.clipped_share for place in attached(method, "4/4").method.places} == {0}

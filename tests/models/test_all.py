"""What all models have in common: their layers, their order, and how they start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qbench.quant.layers import select_layers
from qbench.spec.bits import BitWidths
from tests.helpers.networks import SIZES, build, calls, images, order


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_gives_every_image_a_score_for_every_class(name: str, channels: int) -> None:
    model = build(name, classes=7, channels=channels)
    assert model(images(name, 2, channels)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *[("alexnet_bn", 6), ("preact_resnet18", 19), ("vgg_small", 5)],
        *[("resnet20", 18), ("resnet32", 30), ("resnet44", 42), ("resnet56", 54)],
        *[("resnet18", 19), ("resnet34", 35), ("resnet50", 52)],
    ],
)
def test_all_layers_but_the_first_and_the_last_are_quantized(name: str, count: int) -> None:
    model = build(name)
    kinds = (nn.Conv2d, nn.Linear)
    weighted = [n for n, module in model.named_modules() if isinstance(module, kinds)]
    layers = select_layers(model, "skip_first_last", BitWidths.parse("2/2"))
    assert [layer.name for layer in layers] == weighted[1:-1]
    assert len(layers) == count


@pytest.mark.parametrize("name", SIZES)
def test_every_quantized_layer_is_given_what_a_relu_returned(name: str) -> None:
    model = build(name)
    quantized = {
        layer.module for layer in select_layers(model, "skip_first_last", BitWidths.parse("2/2"))
    }
    least: dict[nn.Module, float] = {}
    share: dict[nn.Module, float] = {}

    def watch(module: nn.Module, x: Tensor) -> None:
        if module in quantized:
            least[module] = float(x.min())
            share[module] = float((x > 0).float().mean())

    calls(model, images(name), watch)
    assert least.keys() == quantized
    assert set(least.values()) == {0.0}
    assert all(0.2 < value < 1 for value in share.values())


@pytest.mark.parametrize("name", SIZES)
def test_every_layer_but_the_last_is_normalised_before_anything_else_but_pooling(name: str) -> None:
    found = [kind for kind in order(build(name), images(name)) if kind != "MaxPool2d"]
    weighted = [i for i, kind in enumerate(found) if kind in ("Conv2d", "Linear")]
    assert all(found[i + 1].startswith("BatchNorm") for i in weighted[:-1])
    assert weighted[-1] == len(found) - 1


@pytest.mark.parametrize("name", SIZES)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    model = build(name)
    nn.functional.cross_entropy(model(images(name)), torch.arange(4)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("name", [*SIZES, "convnet_tiny", "resnet_tiny", "resnet18"])
def test_a_seed_determines_the_first_weights(name: str) -> None:
    first, again, other = (build(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    weights = [k for k, value in first.items() if value.dim() > 1]
    assert weights
    assert not any(torch.equal(first[k], other[k]) for k in weights)

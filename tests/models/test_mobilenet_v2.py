from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from qbench.models.network import ImageSizeError
from qbench.quant.layers import select_layers
from qbench.spec.bits import BitWidths
from tests.helpers.networks import build, calls, parameters


def shapes(model: nn.Module) -> list[torch.Size]:
    return [p.shape for p in model.parameters()]


def test_the_layers_are_those_of_mobilenet_v2() -> None:
    assert shapes(build("mobilenet_v2_small")) == shapes(mobilenet_v2(num_classes=10))
    assert f"{parameters(build('mobilenet_v2_small')) / 1e6:.2f}" == "2.24"


@pytest.mark.parametrize(("size", "last"), [(28, 4), (32, 4)])
def test_an_image_is_halved_three_times(size: int, last: int) -> None:
    model = build("mobilenet_v2_small", channels=1)
    sides: list[int] = []
    calls(
        model,
        torch.randn(2, 1, size, size),
        lambda module, x: sides.append(x.shape[-1]) if isinstance(module, nn.Conv2d) else None,
    )
    assert sides[0] == size
    assert sorted(set(sides), reverse=True) == [size, size // 2, size // 4, last]
    assert sides[-1] == last


def test_all_layers_but_the_first_and_the_last_are_quantized() -> None:
    layers = select_layers(build("mobilenet_v2_small"), "skip_first_last", BitWidths.parse("2/2"))
    assert len(layers) == 51
    assert layers[0].name == "features.1.conv.0.0"


def test_every_parameter_has_a_gradient() -> None:
    model = build("mobilenet_v2_small", channels=1)
    scores = model(torch.randn(4, 1, 28, 28))
    nn.functional.cross_entropy(scores, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_training_batch_of_one_pixel_is_refused() -> None:
    model = build("mobilenet_v2_small").train()
    model(torch.randn(1, 3, 9, 9))
    with pytest.raises(ImageSizeError, match="one 8 × 8 image"):
        model(torch.randn(1, 3, 8, 8))

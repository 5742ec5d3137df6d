from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from qbench.models.cifar_resnet import PaddedShortcut
from tests.helpers.networks import build, calls, images, parameters

DEPTHS = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85"}


@pytest.mark.parametrize("depth", DEPTHS)
def test_cifar_resnets_have_the_papers_layers_and_parameters(depth: int) -> None:
    model = build(f"resnet{depth}")
    kinds = (nn.Conv2d, nn.Linear)
    assert sum(isinstance(m, kinds) for m in model.modules()) == depth
    assert f"{parameters(model) / 1e6:.2f}" == DEPTHS[depth]
    stages = [x for x in (16, 32, 64) for _ in range((depth - 2) // 3)]
    weights = 3 * 16 * 9 + sum(i * o * 9 for i, o in itertools.pairwise([16, *stages]))
    norms_and_linear = 2 * (16 + sum(stages)) + 64 * 10 + 10
    assert parameters(model) == weights + norms_and_linear


def test_an_option_a_shortcut_takes_every_second_pixel_and_appends_zeros() -> None:
    x = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4)
    y = PaddedShortcut(3)(x)
    assert y.shape == (2, 6, 3, 2)
    assert torch.equal(y[:, :3], x[:, :, [0, 2, 4]][..., [0, 2]])
    assert not y[:, 3:].any()


def test_cifar_resnets_halve_the_image_twice() -> None:
    model = build("resnet20")
    sides: list[int] = []
    calls(
        model,
        images("resnet20"),
        lambda module, x: sides.append(x.shape[-1]) if isinstance(module, nn.Conv2d) else None,
    )
    assert sides == [32] * 8 + [16] * 6 + [8] * 5

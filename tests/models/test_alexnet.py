from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qbench.models.network import ImageSizeError
from tests.helpers.networks import build, calls, images, order, parameters


def test_alexnets_hidden_linear_layers_never_take_an_image_alone() -> None:
    model = build("alexnet_bn")
    with pytest.raises(ImageSizeError, match="a training batch of one 64 × 64 image"):
        model(images("alexnet_bn", 1))
    assert model.eval()(images("alexnet_bn", 1)).shape == (1, 10)


ALEXNET = [  # inputs, outputs, kernel (1: linear)
    *[(3, 96, 11), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3)],
    *[(256 * 6 * 6, 4096, 1), (4096, 4096, 1)],
]


def test_alexnets_parameters_are_those_of_its_table() -> None:
    weights = sum(i * o * k * k for i, o, k in ALEXNET) + 4096 * 1000
    norms_and_bias = sum(2 * o for _, o, _ in ALEXNET) + 1000
    assert parameters(build("alexnet_bn", classes=1000)) == weights + norms_and_bias == 62_387_912


def test_alexnets_layers_are_in_the_papers_order() -> None:
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    pool, resized = ["MaxPool2d"], ["AdaptiveAvgPool2d", "Flatten"]
    expected = [*block, *pool, *block, *pool, *block, *block, *block, *pool, *resized]
    expected += [*hidden, *hidden, "Linear"]
    assert order(build("alexnet_bn"), images("alexnet_bn")) == expected


def test_alexnets_feature_maps_are_the_papers_at_224_and_need_no_resizing() -> None:
    seen: list[Tensor] = []
    model = build("alexnet_bn").eval()
    kinds = (nn.Conv2d, nn.AdaptiveAvgPool2d, nn.Flatten)
    calls(
        model,
        torch.randn(1, 3, 224, 224),
        lambda module, x: seen.append(x) if isinstance(module, kinds) else None,
    )
    assert [x.shape[-1] for x in seen] == [224, 27, 13, 13, 13, 6, 6]
    assert torch.equal(seen[-1], seen[-2])


def test_xnor_nets_alexnet_normalises_before_each_sign_and_keeps_two_relus() -> None:
    """As ``alexnetxnor.lua``: BNorm, sign, convolution, pooling, with a ReLU at both ends."""
    sign = ["BatchNorm2d", "Hardtanh", "Conv2d"]
    hidden = ["BatchNorm1d", "Hardtanh", "Linear"]
    pool, resized = ["MaxPool2d"], ["AdaptiveAvgPool2d", "Flatten"]
    expected = ["Conv2d", "BatchNorm2d", "ReLU", *pool, *sign, *pool, *sign, *sign, *sign, *pool]
    expected += ["BatchNorm2d", "Hardtanh", *resized, "Linear", *hidden]
    expected += ["BatchNorm1d", "ReLU", "Linear"]
    assert order(build("xnor_alexnet"), torch.randn(4, 3, 64, 64)) == expected
    assert parameters(build("xnor_alexnet", classes=1000)) == 62_387_912 + 2 * 96

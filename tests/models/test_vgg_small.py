from __future__ import annotations

import itertools

from tests.helpers.networks import build, images, order, parameters


def test_vgg_smalls_parameters_are_those_of_its_table() -> None:
    channels = [3, 128, 128, 256, 256, 512, 512]
    weights = sum(i * o * 9 for i, o in itertools.pairwise(channels))
    norms_and_linear = 2 * sum(channels[1:]) + 512 * 4 * 4 * 10 + 10
    assert parameters(build("vgg_small")) == weights + norms_and_linear == 4_660_106


def test_vgg_small_pools_between_convolution_and_normalisation() -> None:
    single = ["Conv2d", "BatchNorm2d", "ReLU"]
    pooled = ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"]
    expected = [*(single + pooled) * 3, "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert order(build("vgg_small"), images("vgg_small")) == expected

"""WRPN: wide reduced-precision networks (Mishra et al., ICLR 2018, arXiv:1709.01134), Eq. 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.method import Method
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import activation_quantizer, quantized_weight, weight_quantizer
from tests.helpers.references import scaled_signs
from tests.helpers.tensors import SHAPE, normal


@pytest.mark.parametrize(("bits", "count"), [(2, 3), (3, 7), (4, 15)])
def test_wrpn_weights_are_clipped_and_rounded(bits: int, count: int) -> None:
    w = torch.linspace(-1.7, 1.7, 3001, dtype=torch.float64).view(1, -1)
    found = quantized_weight("wrpn", w, bits)
    n = 2 ** (bits - 1) - 1
    np.testing.assert_allclose(found, np.round(n * np.clip(w.numpy(), -1, 1)) / n, atol=1e-12)
    assert len(np.unique(found)) == count
    assert np.abs(found).max() == 1


def test_wrpn_gradient_is_zero_outside_the_clip() -> None:
    w = torch.tensor([[-1.2, -0.4, 0.0, 0.9, 1.3]], dtype=torch.float64)
    found = gradient(weight_quantizer("wrpn", w, 3), w, torch.ones_like(w))
    np.testing.assert_array_equal(found, [[0, 1, 1, 1, 0]])


def test_wrpn_inputs_are_multiples_between_zero_and_one() -> None:
    x = normal(40)
    found = activation_quantizer("wrpn", x, 3)(x).numpy()
    np.testing.assert_allclose(found, np.round(7 * np.clip(x.numpy(), 0, 1)) / 7, atol=1e-12)


def test_wrpn_widens_every_layer_but_the_images_and_the_classes() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    method: Method = build_method("wrpn", {"widen": 2})
    x = normal(2, 3, 8, 8).float()
    handle = attach(model, method, bits="4/4", layers="all", calibration=[x])
    shapes = [tuple(layer.latent_weight.shape) for layer in handle.layers]
    assert shapes == [(16, 3, 3, 3), (16, 1, 3, 3), (5, 64)]
    assert handle.model.train()(x).shape == (2, 5)


def test_wrpn_binary_weights_are_bwns() -> None:
    w = normal(*SHAPE, scale=0.1)
    np.testing.assert_allclose(quantized_weight("wrpn", w, 1), scaled_signs(w.numpy()), rtol=1e-14)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_wrpn_inputs_take_all_levels_with_a_gradient_between_zero_and_one(bits: int) -> None:
    x, g = torch.linspace(-0.7, 1.7, 1200, dtype=torch.float64), normal(1200, seed=1)
    quantizer = activation_quantizer("wrpn", x, bits)
    n = 2**bits - 1
    np.testing.assert_allclose(quantizer(x).unique().numpy(), np.arange(n + 1) / n, atol=1e-12)
    inside = (x.numpy() > 0) & (x.numpy() < 1)
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * inside, atol=1e-12)


def test_wrpn_levels_do_not_follow_the_weight() -> None:
    w = normal(*SHAPE).clamp(-0.49, 0.49)
    assert not quantized_weight("wrpn", w, 2).any()  # all below one half
    np.testing.assert_array_equal(quantized_weight("wrpn", 1e6 * w, 2), np.sign(w.numpy()))
    assert not list(weight_quantizer("wrpn", w, 4).parameters())

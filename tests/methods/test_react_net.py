"""ReActNet (Liu et al., ECCV 2020, arXiv:2003.03488): RSign and RPReLU, Eq. 2 and 3."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.references import filter_means, sign
from tests.helpers.tensors import SHAPE, normal


def test_react_net_sign_has_a_learned_threshold_for_each_channel() -> None:
    x = normal(5, 3, 4, 4)
    quantizer = activation_quantizer("react_net", x, 1)
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), sign(x.numpy()))
    shift = np.array([0.5, -0.2, 0.0]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        quantizer.get_parameter("shift").copy_(torch.from_numpy(shift))
    shift = quantizer.get_parameter("shift").detach().numpy()
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), sign(x.numpy() + shift))
    g = normal(5, 3, 4, 4, seed=1)
    found = gradient(quantizer, x, g)
    moved = np.abs(x.numpy() + shift)
    expected = g.numpy() * np.where(moved < 1, 2 - 2 * moved, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    grad = quantizer.get_parameter("shift").grad
    assert grad is not None
    np.testing.assert_allclose(grad.numpy().ravel(), expected.sum((0, 2, 3)), rtol=1e-9)


def test_react_net_has_an_rprelu_of_its_own_channels_after_every_binary_convolution() -> None:
    handle = attach_to_convnet("react_net", "1/1")
    found = [m for m in handle.model.modules() if type(m).__name__ == "RPReLU"]
    widths = [layer.latent_weight.shape[0] for layer in handle.layers]
    assert [m.get_parameter("before").numel() for m in found] == widths == [8, 16]
    first = found[0]
    b1, b2 = normal(8, seed=1).float(), normal(8, seed=2).float()
    slopes = torch.linspace(0.1, 0.8, 8)
    x = normal(2, 8, 3, 3).float()
    with torch.no_grad():
        first.get_parameter("before").copy_(b1.view(1, 8, 1, 1))
        first.get_parameter("after").copy_(b2.view(1, 8, 1, 1))
        first.get_parameter("prelu.weight").copy_(slopes)
        y = first(x).numpy()
    for c in range(8):
        moved = x.numpy()[:, c] + float(b1[c])
        expected = np.where(moved > 0, moved, float(slopes[c]) * moved) + float(b2[c])
        np.testing.assert_allclose(y[:, c], expected, atol=1e-6)


def test_react_net_rprelu_starts_as_a_prelu_and_shifts_both_ways() -> None:
    handle = attach_to_convnet("react_net", "1/1")
    (first, *_) = [m for m in handle.model.modules() if type(m).__name__ == "RPReLU"]
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        assert torch.equal(first(x), nn.functional.prelu(x, torch.full((8,), 0.25)))
        first.get_parameter("before").fill_(0.3)
        first.get_parameter("after").fill_(-0.1)
        expected = np.where(x.numpy() + 0.3 > 0, x.numpy() + 0.3, 0.25 * (x.numpy() + 0.3)) - 0.1
        np.testing.assert_allclose(first(x).numpy(), expected, atol=1e-6)


def test_react_net_weights_are_bireals_with_the_released_codes_gradient() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    expected = filter_means(np.abs(w.numpy())) * sign(w.numpy())
    np.testing.assert_allclose(quantized_weight("react_net", w, 1), expected, rtol=1e-14)
    found = gradient(weight_quantizer("react_net", w, 1), w, g)
    np.testing.assert_allclose(found, g.numpy() * (np.abs(w.numpy()) < 1))

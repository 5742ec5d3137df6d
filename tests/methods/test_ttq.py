"""Trained Ternary Quantization (Zhu et al., ICLR 2017, arXiv:1612.01064), Eq. 6 to 9."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import quantized_weight, weight_quantizer
from tests.helpers.tensors import SHAPE, Array, normal


def ttq() -> tuple[nn.Module, Tensor, Array]:
    """Return a quantizer with W_p = 0.7 and W_n = 0.4, its weight, and the codes of the weight."""
    w = normal(*SHAPE)
    quantizer = weight_quantizer("ttq", w, 2)
    with torch.no_grad():
        quantizer.get_parameter("positive").fill_(0.7)
        quantizer.get_parameter("negative").fill_(0.4)
    delta = 0.05 * np.abs(w.numpy()).max()
    region = np.where(w.numpy() > delta, 1, np.where(w.numpy() < -delta, -1, 0))
    return quantizer, w, region


def test_ttq_scales_start_at_one_or_at_the_mean_beyond_the_threshold() -> None:
    w = normal(*SHAPE)
    ones = weight_quantizer("ttq", w, 2)
    assert [float(p.detach()) for p in ones.parameters()] == [1.0, 1.0]
    mean = weight_quantizer("ttq", w, 2, initial="mean")
    values = w.numpy()
    delta = 0.05 * np.abs(values).max()
    expected = [values[values > delta].mean(), -values[values < -delta].mean()]
    assert [float(p.detach()) for p in mean.parameters()] == pytest.approx(expected)


def test_ttq_levels_are_its_two_scales_and_zero() -> None:
    quantizer, w, region = ttq()
    expected = np.choose(region + 1, [-0.4, 0.0, 0.7])
    np.testing.assert_allclose(quantizer(w).detach().numpy(), expected, rtol=1e-7)


def test_ttq_scales_get_the_gradient_of_what_they_stand_for() -> None:
    quantizer, w, region = ttq()
    g = normal(*SHAPE, seed=5)
    quantizer(w).backward(g)
    found = [float(p.grad) for p in quantizer.parameters() if p.grad is not None]
    expected = [g.numpy()[region == 1].sum(), -g.numpy()[region == -1].sum()]
    assert found == pytest.approx(expected)


def test_ttq_latent_weights_get_a_scaled_gradient_in_each_region() -> None:
    quantizer, w, region = ttq()
    g = normal(*SHAPE, seed=5)
    expected = g.numpy() * np.choose(region + 1, [0.4, 1.0, 0.7])
    np.testing.assert_allclose(gradient(quantizer, w, g), expected, rtol=1e-7)


def test_a_weight_on_ttq_threshold_is_zero_and_its_gradient_goes_straight_through() -> None:
    w = torch.tensor([[1.0, -1.0, 0.5, -0.5, 0.0]], dtype=torch.float64)
    quantizer, g = weight_quantizer("ttq", w, 2, threshold=0.5), normal(1, 5, seed=5)
    quantizer.get_parameter("positive").data.fill_(0.25)
    quantizer.get_parameter("negative").data.fill_(2.0)
    assert quantizer(w).tolist() == [[0.25, -2, 0, 0, 0]]
    found = gradient(quantizer, w, g)
    np.testing.assert_array_equal(found, g.numpy() * [[0.25, 2, 1, 1, 1]])


def test_with_twn_threshold_and_scale_ttq_is_twn() -> None:
    w = normal(*SHAPE)
    size = np.abs(w.numpy())
    delta = 0.7 * size.mean()
    quantizer = weight_quantizer("ttq", w, 2, threshold=float(delta / size.max()))
    for scale in quantizer.parameters():
        scale.data.fill_(size[size > delta].mean())
    np.testing.assert_allclose(
        quantizer(w).detach().numpy(), quantized_weight("twn", w, 2), rtol=1e-12
    )


def test_ttq_threshold_follows_the_largest_weight_and_its_scales_do_not() -> None:
    quantizer, w, _ = ttq()
    with torch.no_grad():
        for factor in (0.01, 30.0):
            assert torch.equal(quantizer(factor * w), quantizer(w))
            alone = quantizer(w[:1])  # the largest weight is in another filter
            delta = 0.05 * np.abs(w.numpy()[0]).max()
            assert ((alone.numpy() == 0) == (np.abs(w.numpy()[:1]) <= delta)).all()
    assert np.abs(w.numpy()[0]).max() < np.abs(w.numpy()).max()


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_ttq_scales_get_the_slope_of_the_loss(name: str) -> None:
    quantizer, w, _ = ttq()
    g = normal(*SHAPE, seed=5)
    scale = quantizer.get_parameter(name)
    quantizer(w).backward(g)
    found, at = scale.grad, float(scale.detach())

    def loss(value: Array) -> float:
        scale.data.fill_(float(value))
        return float((quantizer(w) * g).sum().detach())

    slope = central_differences(loss, np.array(at))
    assert found is not None
    assert float(found) == pytest.approx(float(slope), rel=1e-6)

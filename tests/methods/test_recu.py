"""ReCU (Xu et al., ICCV 2021, arXiv:2103.12369), against the formulas of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qbench.method import BitWidth, Layer, Quantizer
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import activation_quantizer, weight_quantizer
from tests.helpers.references import filter_means, sign
from tests.helpers.tensors import SHAPE, Array, normal

AXES = (1, 2, 3)


def standardized(w: Array) -> Array:
    """Return ŵ of each filter."""
    balanced = w - w.mean(AXES, keepdims=True)
    variance = balanced.var(AXES, ddof=1, keepdims=True)
    result: Array = balanced / (np.sqrt(variance + 1e-5) / 2 / np.sqrt(2))
    return result


def test_recu_weights_are_learned_scales_times_signs_of_balanced_weights() -> None:
    w = normal(*SHAPE) + 0.3
    quantizer = weight_quantizer("recu", w, 1)
    alpha = filter_means(np.abs(w.numpy()))
    expected = alpha * sign(standardized(w.numpy()))
    np.testing.assert_allclose(quantizer(w).detach().numpy(), expected, rtol=1e-12)
    g = normal(*SHAPE, seed=1)
    gradient(quantizer, w, g)
    grad = quantizer.get_parameter("alpha").grad
    assert grad is not None
    sums = (g.numpy() * sign(standardized(w.numpy()))).sum(AXES, keepdims=True)
    np.testing.assert_allclose(grad.numpy(), sums, rtol=1e-9)


@pytest.mark.parametrize("tau", [0.85, 0.95])
def test_recu_gradient_ends_at_the_quantile_of_a_laplace_distribution(tau: float) -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    quantizer = weight_quantizer("recu", w, 1)
    quantizer.get_buffer("tau").fill_(tau)
    v = standardized(w.numpy())
    end = -np.abs(v).mean() * np.log(2 - 2 * tau)
    assert 0 < (np.abs(v) > end).mean() < 1
    alpha = filter_means(np.abs(w.numpy()))

    def surrogate(at: Array) -> float:
        return float((g.numpy() * alpha * np.clip(standardized(at), -end, end)).sum())

    expected = central_differences(surrogate, w.numpy())
    np.testing.assert_allclose(gradient(quantizer, w, g), expected, rtol=1e-4, atol=1e-7)


def test_recu_activations_are_standardized_by_image_for_the_gradient_alone() -> None:
    x, g = 3 * normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1)
    quantizer = activation_quantizer("recu", x, 1)

    def polynomial(v: Array) -> Array:  # whose slope is 2 − 2|v|
        c = np.clip(v, -1, 1)
        result: Array = c * (2 - np.abs(c))
        return result

    def surrogate(at: Array) -> float:
        deviation = np.sqrt(at.var(AXES, ddof=1, keepdims=True) + 1e-5)
        return float((g.numpy() * polynomial(at / deviation)).sum())

    expected = central_differences(surrogate, x.numpy())
    np.testing.assert_allclose(gradient(quantizer, x, g), expected, rtol=1e-4, atol=1e-7)
    for module in (quantizer.train(), quantizer.eval()):
        np.testing.assert_array_equal(module(x).detach().numpy(), sign(x.numpy()))


def test_recu_tau_rises_faster_and_faster() -> None:
    quantizer = weight_quantizer("recu", normal(*SHAPE), 1)
    assert isinstance(quantizer, Quantizer)
    layer = Layer("layer", torch.nn.Identity(), BitWidth(1), BitWidth(1))
    a = (0.99 - 0.85) / (np.e - 1)
    for epoch in range(1, 201):
        quantizer.on_epoch_start(layer, epoch, 200)
        expected = a * np.e ** ((epoch - 1) / 200) + 0.85 - a
        assert float(quantizer.get_buffer("tau")) == pytest.approx(expected, rel=1e-6)

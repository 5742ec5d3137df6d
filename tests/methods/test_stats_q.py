"""StatsQ of OFQ (Liu et al., ICML 2023, arXiv:2302.02210), against the authors' code's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.gradients import gradient
from tests.helpers.quantizers import activation_quantizer, quantized_weight, weight_quantizer
from tests.helpers.tensors import normal


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_stats_q_weights_have_the_released_levels(bits: int) -> None:
    w, g = normal(6, 40), normal(6, 40, seed=1)
    s = 2 * np.abs(w.numpy()).mean(1, keepdims=True)
    n = 2.0 ** (bits - 1)
    c = np.clip(w.numpy() / s, -1, 1 - 1e-6)
    expected = s * ((np.round(c * n - 0.5) + 0.5) / n)
    found = quantized_weight("stats_q", w, bits)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    codes = found / s * n + 0.5
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-9)
    assert (codes.min(), codes.max()) == pytest.approx((1 - n, n))
    np.testing.assert_array_equal(gradient(weight_quantizer("stats_q", w, bits), w, g), g.numpy())


@pytest.mark.parametrize(("shape", "channels"), [((5, 3, 4, 4), 1), ((7, 5), 1), ((2, 9, 5), 2)])
def test_stats_q_activations_are_lsqs_after_a_shift_of_each_channel(
    shape: tuple[int, ...], channels: int
) -> None:
    x, g = normal(*shape), normal(*shape, seed=1)
    quantizer = activation_quantizer("stats_q", x, 3)
    lsq = activation_quantizer("lsq", x, 3)
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), lsq(x).detach().numpy())
    shift = quantizer.get_parameter("shift")
    with torch.no_grad():
        shift.copy_(normal(*shift.shape, seed=2))
    moved = x + shift.detach()
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), lsq(moved).detach().numpy())
    expected = gradient(lsq, moved, g)
    np.testing.assert_array_equal(gradient(quantizer, x, g), expected)
    others = tuple(i for i in range(x.dim()) if i != channels)
    assert shift.grad is not None
    np.testing.assert_allclose(shift.grad.numpy().ravel(), expected.sum(others), rtol=1e-9)

"""StableQAT (Chen et al., 2026, arXiv:2601.19320), against the formulas of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qbench.errors import QbenchError
from qbench.quant.options import build_method
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import weight_quantizer
from tests.helpers.tensors import normal


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("amplitude", [0.0, 0.1, 0.21])
def test_stable_qat_weights_and_gradients_are_the_released_codes(
    bits: int, amplitude: float
) -> None:
    w, g = normal(6, 40), normal(6, 40, seed=1)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    quantizer = weight_quantizer("stable_qat", w, bits, amplitude=amplitude)
    step = quantizer.get_parameter("step")
    start = np.abs(w.numpy()).max(1, keepdims=True) / high
    np.testing.assert_allclose(step.detach().numpy(), start)
    with torch.no_grad():
        step.mul_(0.6)  # so that some weights are clipped
    s = step.detach().numpy()
    v = w.numpy() / s
    inside = (v >= low) & (v <= high)
    assert 0 < inside.mean() < 1
    found = quantizer(w).detach().numpy()
    np.testing.assert_allclose(found, np.clip(np.round(v), low, high) * s, rtol=1e-12)
    wave = np.sqrt(2) * np.pi * amplitude * np.cos(np.pi * (v + np.round(v)))
    expected = inside * g.numpy() * (1 - wave) / (1 + wave)
    np.testing.assert_allclose(gradient(quantizer, w, g), expected, rtol=1e-8, atol=1e-12)
    slope = np.where(v < low, low, np.where(v > high, high, np.round(v) - v))
    assert step.grad is not None
    to_step = (g.numpy() * slope).sum(1, keepdims=True) / np.sqrt(w.numel() * high)
    np.testing.assert_allclose(step.grad.numpy(), to_step, rtol=1e-8)


def test_stable_qat_gradient_is_one_halfway_and_least_at_a_level() -> None:
    w = torch.tensor([[0.0, 0.25, 0.4999, 1.0, 3.0]], dtype=torch.float64)
    quantizer = weight_quantizer("stable_qat", w, 3)  # s = 1
    found = gradient(quantizer, w, torch.ones_like(w)).ravel()
    size = np.sqrt(2) * np.pi * 0.21
    expected = [(1 - size) / (1 + size), 1]
    np.testing.assert_allclose(found[[0, 2]], expected, rtol=1e-3)
    assert found[0] < found[1] < found[2]
    assert found[3] == pytest.approx(found[0])


def test_stable_qat_refuses_an_amplitude_whose_gradient_is_negative_at_a_level() -> None:
    with pytest.raises(QbenchError, match="amplitude"):
        build_method("stable_qat", {"amplitude": 0.23})

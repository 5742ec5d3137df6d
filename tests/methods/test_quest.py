"""QuEST without its Hadamard transform (Panferov et al., ICML 2025, arXiv:2502.05003)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from qbench.method import Quantizer
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import activation_quantizer, weight_quantizer
from tests.helpers.tensors import Array, normal

CLIPS = {1: 0.79788, 2: 1.49353, 3: 2.05107, 4: 2.51393, 8: 3.88494}


def released(x: Array, deviation: Array, bits: int) -> tuple[Array, Array]:
    """Return what the authors' TrustQuantizer gives, and where its gradient passes."""
    steps = 2**bits - 1
    scale = CLIPS[bits] * deviation
    step = 2 * scale / steps
    quantized = np.round(np.clip(x, -scale, scale) / step + 0.5) * step - step / 2
    return quantized, np.abs(quantized - x) <= deviation * CLIPS[bits] / steps * (1 + 1e-6)


@pytest.mark.parametrize("bits", CLIPS)
def test_quest_weights_and_gradients_are_those_of_the_trust_quantizer(bits: int) -> None:
    w, g = 2 * normal(6, 400), normal(6, 400, seed=1)
    deviation = np.sqrt((w.numpy() ** 2).mean(1, keepdims=True))
    quantizer = weight_quantizer("quest", w, bits)
    expected, trusted = released(w.numpy(), deviation, bits)
    np.testing.assert_allclose(quantizer(w).detach().numpy(), expected, rtol=1e-4)
    passed = np.where(trusted, g.numpy(), 0)
    np.testing.assert_allclose(gradient(quantizer, w, g), passed, rtol=1e-12)
    assert trusted.mean() < 1 or bits == 8


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_quest_clip_has_the_least_error_for_a_gaussian(bits: int) -> None:
    def error(clip: float) -> float:
        def at(x: float) -> float:
            quantized, _ = released(np.array(x), np.array(clip / CLIPS[bits]), bits)
            return float((quantized - x) ** 2 * stats.norm.pdf(x))

        edges = 2 * clip / (2**bits - 1) * np.arange(2 ** (bits - 1))  # where rounding jumps
        return 2 * float(integrate.quad(at, 0, 8, points=edges[1:] if bits > 1 else None)[0])

    found = optimize.minimize_scalar(error, bounds=(0.5, 4), method="bounded")
    assert found.x == pytest.approx(CLIPS[bits], abs=1e-2)


def test_quest_activations_have_a_running_deviation() -> None:
    x = 3 * normal(5, 3, 4, 4)
    quantizer = activation_quantizer("quest", x, 2)
    assert isinstance(quantizer, Quantizer)
    square = float(x.square().mean())
    expected, _ = released(x.numpy(), np.array(np.sqrt(square)), 2)
    np.testing.assert_allclose(quantizer(x).detach().numpy(), expected, rtol=1e-4)
    quantizer.observe(2 * x)
    assert float(quantizer.get_buffer("square")) == pytest.approx((0.99 + 0.04) * square)


def test_quest_weights_of_zero_stay_finite() -> None:
    w = torch.zeros(2, 3, dtype=torch.float64)
    assert bool(weight_quantizer("quest", w, 2)(w).isfinite().all())

"""TQT: trained quantization thresholds (Jain et al., MLSys 2020, arXiv:1903.08066).

Quantization and scales follow Section 3, gradients Eq. 7 and 8.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qbench.quant.options import build_method
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    build_weight_quantizer,
    parameter_gradient,
    parameter_value,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, Array, normal


def released(x: Array, g: Array, log_t: float, domain: int, n: int, p: int) -> list[Array]:
    """Return q, ∂C/∂x and ∂C/∂log2 t as pytorch_nndct computes them."""
    scale = 2.0 ** np.ceil(log_t) / domain
    rounded = np.round(x / scale)
    below, above = rounded < n, rounded > p
    inside = ~below & ~above
    slope = np.where(inside, rounded - x / scale, np.where(below, n, p))
    return [
        np.clip(rounded, n, p) * scale,
        np.where(inside, g, 0),
        (g * scale * np.log(2) * slope).sum(),
    ]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("log_t", [-0.7, 0.0, 1.3])
def test_tqt_weights_and_gradients_are_those_of_the_released_quantizer(
    bits: int, log_t: float
) -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    half = 2 ** (bits - 1)
    quantizer = set_parameters(weight_quantizer("tqt", w, bits), log_threshold=log_t)
    q, to_w, to_t = released(w.numpy(), g.numpy(), log_t, half, -half, half - 1)
    np.testing.assert_allclose(quantizer(w).detach().numpy(), q, rtol=1e-12)
    np.testing.assert_allclose(gradient(quantizer, w, g), to_w)
    factor = 1 / np.sqrt(w.numel() * (half - 1))  # that of LSQ, which Adam cancels
    assert parameter_gradient(quantizer, "log_threshold") == pytest.approx(to_t * factor)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_tqt_activations_are_unsigned_after_a_relu(bits: int) -> None:
    x, g = normal(5, 3, 4, 4).relu(), normal(5, 3, 4, 4, seed=1)
    quantizer = set_parameters(activation_quantizer("tqt", x, bits), log_threshold=0.4)
    q, to_x, _ = released(x.numpy(), g.numpy(), 0.4, 2**bits, 0, 2**bits - 1)
    np.testing.assert_allclose(quantizer(x).detach().numpy(), q, rtol=1e-12)
    np.testing.assert_allclose(gradient(quantizer, x, g), to_x)


def test_tqt_gradient_passes_half_a_step_beyond_the_outermost_levels() -> None:
    x = torch.tensor([-2.6, -2.4, 1.4, 1.6], dtype=torch.float64)
    quantizer = set_parameters(weight_quantizer("tqt", x, 2), log_threshold=1.0)  # s = 1
    np.testing.assert_array_equal(gradient(quantizer, x, torch.ones_like(x)), [0, 1, 1, 0])


def test_tqt_scales_are_powers_of_two_to_the_last_bit() -> None:
    w = normal(1000).float()
    quantizer = build_weight_quantizer("tqt", w, 2)
    for exponent in range(-30, 31):
        set_parameters(quantizer, log_threshold=exponent - 0.25)
        levels = quantizer(w * 2.0**exponent).detach().unique().numpy()
        np.testing.assert_array_equal(levels, 2.0 ** (exponent - 1) * np.arange(-2, 2))


def test_tqt_thresholds_of_weights_start_at_three_deviations() -> None:
    w = normal(*SHAPE) + 0.3
    expected = np.log2(abs(w.numpy().mean()) + 3 * w.numpy().std())
    found = parameter_value(weight_quantizer("tqt", w, 4), "log_threshold")
    assert found == pytest.approx(expected, rel=1e-6)


def test_tqt_threshold_of_an_activation_has_the_least_distance_between_histograms() -> None:
    """The search of pytorch_nndct, written as it is there: one threshold after another."""
    x, count = normal(50, 50).abs().numpy() ** 1.5, 4
    density, edges = np.histogram(x, 50, (0, x.max()))
    whole = np.cumsum(density) / density.sum()
    best, threshold = np.inf, 0.0
    for i in range(count + 1, 51):
        kept = whole.copy()
        kept[i - 1 :] = 1
        few, many = np.linspace(0, 1, count), np.linspace(0, 1, i)
        found = kept.copy()
        found[:i] = np.interp(many, few, np.interp(few, many, kept[:i]))
        filled = whole != 0
        distance = ((whole - found) * np.log2(whole / found, where=filled, out=0 * whole)).sum()
        if distance < best:
            best, threshold = distance, (i + 0.5) * edges[1]
    quantizer = activation_quantizer("tqt", torch.from_numpy(x), 2)
    found = parameter_value(quantizer, "log_threshold")
    assert found == pytest.approx(np.log2(threshold), rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_tqt_starts_from_a_constant_activation(value: float) -> None:
    quantizer = activation_quantizer("tqt", torch.full((3, 4), value, dtype=torch.float64), 4)
    assert np.isfinite(parameter_value(quantizer, "log_threshold"))


def test_tqt_thresholds_have_a_learning_rate_of_their_own() -> None:
    parameter = torch.nn.Parameter(torch.zeros(()))
    (group,) = build_method("tqt", {}).parameter_groups([parameter], lr=1e-6)
    assert (group["lr"], group["weight_decay"]) == (1e-2, 0)

"""LSQ: learned step size quantization (Esser et al., ICLR 2020, arXiv:1902.08153).

Quantization follows Eq. 1 and 2, gradients Eq. 3 and 5, the initial step and the gradient scale
Section 2.2.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    parameter_gradient,
    parameter_value,
    quantized_weight,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, normal


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_lsq_step_starts_at_twice_the_mean_over_the_root_of_the_top(bits: int) -> None:
    w, x = normal(*SHAPE), normal(7, 5).abs()
    top = 2 ** (bits - 1) - 1
    expected = 2 * np.abs(w.numpy()).mean() / np.sqrt(top)
    assert parameter_value(weight_quantizer("lsq", w, bits), "step") == pytest.approx(expected)
    expected = 2 * np.abs(x.numpy()).mean() / np.sqrt(2**bits - 1)
    assert parameter_value(activation_quantizer("lsq", x, bits), "step") == pytest.approx(expected)


def test_lsq_codes_have_one_more_below_zero_than_above() -> None:
    w = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    quantizer = set_parameters(weight_quantizer("lsq", w, 2), step=0.5)
    np.testing.assert_allclose(np.unique(quantizer(w).detach().numpy()), [-1, -0.5, 0, 0.5])
    symmetric = set_parameters(weight_quantizer("lsq", w, 2, weight_range="symmetric"), step=0.5)
    np.testing.assert_allclose(np.unique(symmetric(w).detach().numpy()), [-0.5, 0, 0.5])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lsq_codes_fill_the_range_of_their_width(bits: int) -> None:
    half = 2 ** (bits - 1)
    v = torch.linspace(-1.5 * half, 2.5 * half, 4001, dtype=torch.float64)
    weights = set_parameters(weight_quantizer("lsq", v, bits), step=0.5)
    found = np.unique(weights(v / 2).detach().numpy())
    np.testing.assert_array_equal(found, 0.5 * np.arange(-half, half))
    inputs = set_parameters(activation_quantizer("lsq", v.abs(), bits), step=0.25)
    found = np.unique(inputs(v / 4).detach().numpy())
    np.testing.assert_array_equal(found, 0.25 * np.arange(2 * half))


@pytest.mark.parametrize("factor", [1e-4, 0.3, 7.0])
@pytest.mark.parametrize("bits", [2, 4])
def test_lsq_start_scales_with_the_weight_and_so_does_what_it_gives(
    bits: int, factor: float
) -> None:
    w = normal(*SHAPE)
    found = quantized_weight("lsq", factor * w, bits)
    np.testing.assert_allclose(found, factor * quantized_weight("lsq", w, bits), rtol=1e-5)


def test_lsq_step_gets_the_piecewise_gradient_scaled() -> None:
    w, g, s = normal(*SHAPE), normal(*SHAPE, seed=1), 0.37
    quantizer = set_parameters(weight_quantizer("lsq", w, 3), step=s)
    found = gradient(quantizer, w, g)
    ratio = w.numpy() / np.float32(s)
    inside = (ratio > -4) & (ratio < 3)
    by_s = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, -4, 3))
    expected = (g.numpy() * by_s).sum() / np.sqrt(w.numel() * 3)
    assert parameter_gradient(quantizer, "step") == pytest.approx(expected)
    np.testing.assert_allclose(found, g.numpy() * inside, rtol=1e-12)


def test_an_input_below_zero_teaches_lsq_nothing() -> None:
    x, g = normal(40, 5), normal(40, 5, seed=1)
    quantizer = set_parameters(activation_quantizer("lsq", x.abs(), 2), step=0.25)
    found = gradient(quantizer, x, g)
    ratio = x.numpy() / 0.25
    inside = (ratio > 0) & (ratio < 3)
    np.testing.assert_array_equal(found, g.numpy() * inside)
    by_s = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, 0, 3))
    expected = (g.numpy() * by_s).sum() / np.sqrt(5 * 3)
    assert parameter_gradient(quantizer, "step") == pytest.approx(expected, rel=1e-6)


def test_lsq_step_gets_no_gradient_where_nothing_is_rounded() -> None:
    w = 0.5 * torch.tensor([-3.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    quantizer = set_parameters(weight_quantizer("lsq", w, 3), step=0.5)
    gradient(quantizer, w, torch.ones_like(w))
    assert parameter_gradient(quantizer, "step") == pytest.approx(0, abs=1e-12)


def test_lsq_activations_count_features_of_a_sample_or_of_the_batch() -> None:
    x = normal(20, 30).abs() + 100  # all above
    for count, expected in (("features", 30), ("numel", 600)):
        quantizer = set_parameters(
            activation_quantizer("lsq", x[:5], 2, activation_count=count), step=1.0
        )
        gradient(quantizer, x, torch.ones_like(x))
        assert parameter_gradient(quantizer, "step") == pytest.approx(
            600 * 3 / np.sqrt(expected * 3)
        )

"""LSQ+: learned offsets (Bhalgat et al., CVPR Workshops 2020, arXiv:2004.09576).

Activations follow Eq. 3 to 6, initialization Section 3.3. Weights are those of LSQ.
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
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, Array, normal


@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_lsq_plus_weights_start_from_three_deviations(shift: float) -> None:
    w = normal(*SHAPE) + shift
    mean, std = w.numpy().mean(), w.numpy().std(ddof=1)
    expected = max(abs(mean - 3 * std), abs(mean + 3 * std)) / 4
    assert parameter_value(weight_quantizer("lsq_plus", w, 3), "step") == pytest.approx(expected)


def affine(x: Array, s: float, beta: float, n: int) -> Array:
    """Return x̂ (Eq. 3)."""
    result: Array = np.round(np.clip((x - beta) / s, 0, n)) * s + beta
    return result


def test_lsq_plus_start_loses_less_than_the_range() -> None:
    x = normal(400, 3).abs() - 0.2
    v = x.numpy()
    quantizer = activation_quantizer("lsq_plus", x, 2)
    found = quantizer(x).detach().numpy()
    step, offset = parameter_value(quantizer, "step"), parameter_value(quantizer, "offset")
    np.testing.assert_allclose(found, affine(v, step, offset, 3), atol=1e-6)
    error = ((found - v) ** 2).mean()
    assert error < ((affine(v, (v.max() - v.min()) / 3, v.min(), 3) - v) ** 2).mean()
    grid = [
        ((affine(v, s, b, 3) - v) ** 2).mean()
        for s in np.linspace(0.7, 1.3, 13) * step
        for b in np.linspace(-0.3, 0.3, 13) * step + offset
    ]
    assert error <= 1.01 * min(grid)


def test_lsq_plus_offset_learns_from_what_is_clipped_alone() -> None:
    x, g = normal(60, 4), normal(60, 4, seed=1)
    quantizer = set_parameters(activation_quantizer("lsq_plus", x, 2), step=0.4, offset=-0.5)
    gradient(quantizer, x, g)
    ratio = (x.numpy() + 0.5) / np.float32(0.4)
    inside = (ratio > 0) & (ratio < 3)
    scale = 1 / np.sqrt(4 * 3)
    expected = (g.numpy() * ~inside).sum() * scale
    assert parameter_gradient(quantizer, "offset") == pytest.approx(expected, rel=1e-6)
    by_s = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, 0, 3))
    assert parameter_gradient(quantizer, "step") == pytest.approx(
        (g.numpy() * by_s).sum() * scale, rel=1e-6
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_lsq_plus_without_an_offset_is_lsq(bits: int) -> None:
    x, g = normal(30, 6), normal(30, 6, seed=1)
    plus = set_parameters(activation_quantizer("lsq_plus", x, bits), step=0.25, offset=0.0)
    plain = set_parameters(activation_quantizer("lsq", x.abs(), bits), step=0.25)
    assert torch.equal(plus(x), plain(x))
    np.testing.assert_array_equal(gradient(plus, x, g), gradient(plain, x, g))
    assert parameter_gradient(plus, "step") == pytest.approx(
        parameter_gradient(plain, "step"), rel=1e-6
    )


def test_lsq_plus_shifts_with_its_input_and_its_offset() -> None:
    x = normal(30, 6)
    quantizer = set_parameters(activation_quantizer("lsq_plus", x, 3), step=0.25, offset=-0.5)
    here = quantizer(x).detach().numpy()
    set_parameters(quantizer, offset=1.5)
    np.testing.assert_allclose(quantizer(x + 2).detach().numpy(), here + 2, atol=1e-12)


def test_lsq_plus_passes_an_inputs_gradient_inside_the_range_only() -> None:
    x, g = normal(300), normal(300, seed=1)
    quantizer = set_parameters(
        activation_quantizer("lsq_plus", x[:, None], 2), step=0.5, offset=-0.75
    )
    inside = (x.numpy() > -0.75) & (x.numpy() < 0.75)
    np.testing.assert_array_equal(gradient(quantizer, x, g), g.numpy() * inside)


def test_lsq_plus_start_is_exact_for_inputs_that_are_levels_already() -> None:
    x = 0.37 * torch.arange(8, dtype=torch.float64).repeat(5)[:, None] - 0.81
    quantizer = activation_quantizer("lsq_plus", x, 3)
    np.testing.assert_allclose(quantizer(x).detach().numpy(), x.numpy(), atol=1e-6)
    assert parameter_value(quantizer, "step") == pytest.approx(0.37)
    assert parameter_value(quantizer, "offset") == pytest.approx(-0.81)


def test_lsq_plus_weights_are_lsqs_without_an_offset() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    plus = set_parameters(weight_quantizer("lsq_plus", w, 3), step=0.25)
    assert [name for name, _ in plus.named_parameters()] == ["step"]
    codes = np.clip(np.round(w.numpy() / 0.25), -4, 3)
    np.testing.assert_array_equal(plus(w).detach().numpy(), 0.25 * codes)
    found = gradient(plus, w, g)
    ratio = w.numpy() / 0.25
    inside = (ratio > -4) & (ratio < 3)
    np.testing.assert_array_equal(found, g.numpy() * inside)
    by_s = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, -4, 3))
    expected = (g.numpy() * by_s).sum() / np.sqrt(w.numel() * 3)
    assert parameter_gradient(plus, "step") == pytest.approx(expected, rel=1e-6)

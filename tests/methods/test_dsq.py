"""DSQ: differentiable soft quantization (Gong et al., ICCV 2019, arXiv:1908.05033), Eq. 5 to 9."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
    first_weight_quantizer,
    parameter_gradient,
    parameter_value,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import Array, normal


def soft_staircase(
    x: Array, low: float, high: float, alpha: float, n: int, cells: Array | None = None
) -> Array:
    """Return Q_S(x) (Eq. 5 to 8). Cells default to those that contain x."""
    delta = (high - low) / n
    i = np.clip(np.floor((x - low) / delta), 0, n - 1) if cells is None else cells
    middle = low + (i + 0.5) * delta
    kappa = np.log(2 / alpha - 1) / delta
    phi = np.tanh(kappa * (x - middle)) / (1 - alpha)
    result: Array = np.where(
        x < low, low, np.where(x > high, high, low + delta * (i + (phi + 1) / 2))
    )
    return result


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_dsq_computes_the_uniform_quantizer(bits: int) -> None:
    w = normal(500)
    quantizer = set_parameters(weight_quantizer("dsq", w, bits), low=-1.2, high=1.5)
    n = 2**bits - 1
    codes = np.round((np.clip(w.numpy(), -1.2, 1.5) + 1.2) / 2.7 * n)
    np.testing.assert_allclose(quantizer(w).detach().numpy(), -1.2 + 2.7 / n * codes, atol=1e-6)


def test_dsq_gradients_are_those_of_its_soft_staircase() -> None:
    w, g = normal(40), normal(40, seed=1)
    start = np.array([-1.1, 1.3, 0.25])
    quantizer = set_parameters(
        weight_quantizer("dsq", w, 2), low=start[0], high=start[1], alpha=start[2]
    )
    found = gradient(quantizer, w, g)
    cells = np.clip(np.floor((w.numpy() - start[0]) / ((start[1] - start[0]) / 3)), 0, 2)

    def loss(w: Array, p: Array) -> float:
        return float((g.numpy() * soft_staircase(w, p[0], p[1], p[2], 3, cells)).sum())

    by_w = central_differences(lambda v: loss(v, start), w.numpy())
    np.testing.assert_allclose(found, by_w, rtol=1e-4, atol=1e-5)
    expected = central_differences(lambda p: loss(w.numpy(), p), start)
    slopes = [parameter_gradient(quantizer, name) for name in ("low", "high", "alpha")]
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_dsq_slope_over_a_cell_adds_up_to_one_step(bits: int, alpha: float) -> None:
    delta = 2.8 / (2**bits - 1)
    quantizer = set_parameters(
        weight_quantizer("dsq", normal(9), bits), low=-1.0, high=1.8, alpha=alpha
    )
    for cell in range(2**bits - 1):
        points = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000  # of the midpoint rule
        x = -1 + delta * (cell + points)
        rise = gradient(quantizer, x, torch.ones_like(x)).mean() * delta
        assert rise == pytest.approx(delta, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.5])
def test_dsq_is_steepest_in_the_middle_of_a_cell(alpha: float) -> None:
    delta = 2 / 3
    kappa = np.log(2 / alpha - 1) / delta
    steepest = delta / 2 * kappa / np.tanh(0.5 * kappa * delta)
    quantizer = set_parameters(
        weight_quantizer("dsq", normal(9), 2), low=-1.0, high=1.0, alpha=alpha
    )
    x = torch.linspace(-0.33, 0.33, 1001, dtype=torch.float64)  # the middle cell
    found = gradient(quantizer, x, torch.ones_like(x))
    assert found.argmax() == 500
    assert found.max() == pytest.approx(steepest, rel=1e-5)
    assert (np.diff(found[:501]) > 0).all()
    np.testing.assert_allclose(found, found[::-1], rtol=1e-4)


def test_dsq_is_the_identity_to_gradients_as_alpha_goes_to_one() -> None:
    x, g = torch.linspace(-0.99, 0.99, 200, dtype=torch.float64), normal(200, seed=1)
    quantizer = set_parameters(weight_quantizer("dsq", x, 2), low=-1.0, high=1.0, alpha=0.999)
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy(), rtol=1e-3)


def test_what_dsq_clips_teaches_the_bound_that_clips_it_and_nothing_else() -> None:
    x = torch.tensor([-3.0, -1.5, 2.0, 4.0, 9.0], dtype=torch.float64)
    g = normal(5, seed=1)
    quantizer = set_parameters(weight_quantizer("dsq", x, 2), low=-1.0, high=1.0)
    assert not gradient(quantizer, x, g).any()
    assert parameter_gradient(quantizer, "low") == pytest.approx(float(g[:2].sum()))
    assert parameter_gradient(quantizer, "high") == pytest.approx(float(g[2:].sum()))
    assert parameter_gradient(quantizer, "alpha") == 0


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dsq_levels_reach_from_one_bound_to_the_other_in_order(bits: int) -> None:
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    found = (
        set_parameters(activation_quantizer("dsq", x, bits), low=-0.5, high=1.5)(x).detach().numpy()
    )
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(
        np.unique(found.round(9)), np.linspace(-0.5, 1.5, 2**bits), atol=1e-6
    )


def test_dsq_alpha_stays_in_its_bounds() -> None:
    handle = attach_to_convnet("dsq", "2/2")
    quantizer = first_weight_quantizer(handle)
    for value, kept in ((0.9, 0.5), (-1.0, 1e-3)):
        set_parameters(quantizer, alpha=value)
        handle._after_optimizer_step()
        assert parameter_value(quantizer, "alpha") == pytest.approx(kept)

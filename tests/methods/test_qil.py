"""QIL: quantization interval learning (Jung et al., CVPR 2019, arXiv:1808.05779), Eq. 2 to 5."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
    parameter_gradient,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import Array, normal


def transformer(x: Array, c: float, d: float, gamma: float = 1.0) -> Array:
    """Return ŵ (Eq. 3 to 5)."""
    u = np.clip(0.5 / d * np.abs(x) - 0.5 * c / d + 0.5, 0, 1)
    result: Array = np.sign(x) * np.where(u > 0, u**gamma, 0)
    return result


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_qil_weights_are_pruned_stretched_and_clipped(bits: int) -> None:
    w = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    quantizer = set_parameters(
        weight_quantizer("qil", w, bits), centre=0.5, half_width=0.3, gamma=1.3
    )
    n = 2 ** (bits - 1) - 1
    expected = np.round(n * transformer(w.numpy(), 0.5, 0.3, 1.3)) / n
    found = quantizer(w).detach().numpy()
    assert (np.abs(found - expected) > 1e-6).mean() < 0.005  # but on a threshold
    assert not found[np.abs(w.numpy()) < 0.2].any()
    assert (np.abs(found[np.abs(w.numpy()) > 0.8]) == 1).all()


def test_qil_interval_gets_the_true_derivative_of_its_transformer() -> None:
    w, g = normal(30), normal(30, seed=1)
    start = np.array([0.9, 0.6, 1.2])
    quantizer = weight_quantizer("qil", w, 3)
    set_parameters(quantizer, centre=start[0], half_width=start[1], gamma=start[2])
    found = gradient(quantizer, w, g)
    slopes = [parameter_gradient(quantizer, name) for name in ("centre", "half_width", "gamma")]
    expected = central_differences(
        lambda p: float((g.numpy() * transformer(w.numpy(), *p)).sum()), start
    )
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6)
    by_w = central_differences(
        lambda v: float((g.numpy() * transformer(v, *start)).sum()), w.numpy()
    )
    np.testing.assert_allclose(found, by_w, rtol=1e-4, atol=1e-6)
    assert not found[np.abs(w.numpy()) < 0.29].any()


def test_qil_inputs_are_unsigned_and_half_way_at_the_centre() -> None:
    quantizer = set_parameters(
        activation_quantizer("qil", normal(9).abs(), 8), centre=1.0, half_width=0.5
    )
    x = torch.tensor([-3.0, 0.2, 0.5, 1.0, 1.5, 9.0], dtype=torch.float64)
    found = quantizer(x).detach().numpy()
    np.testing.assert_allclose(found, [0, 0, 0, 0.5, 1, 1], atol=1 / 255)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_qil_steps_where_its_transformer_crosses_a_half_code(bits: int) -> None:
    w = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    quantizer = set_parameters(weight_quantizer("qil", w, bits), centre=0.5, half_width=0.25)
    found = quantizer(w).detach().numpy()
    q = 2 ** (bits - 1) - 1
    np.testing.assert_allclose(np.unique(found), np.arange(-q, q + 1) / q, atol=1e-12)
    positive = w.numpy()[1:][(np.diff(found) > 0) & (w.numpy()[1:] > 0)]
    halves = (np.arange(q) + 0.5) / q
    np.testing.assert_allclose(positive, 0.5 + 0.25 * (2 * halves - 1), atol=1e-3)
    np.testing.assert_array_equal(found, -found[::-1])


def test_qil_input_interval_gets_the_true_derivative_and_pruned_inputs_none() -> None:
    x, g = normal(60, scale=2), normal(60, seed=1)
    start = np.array([1.1, 0.7])
    quantizer = activation_quantizer("qil", x.abs(), 2)
    set_parameters(quantizer, centre=start[0], half_width=start[1])

    def loss(x: Array, p: Array) -> float:
        a, b = 0.5 / p[1], -0.5 * p[0] / p[1] + 0.5
        return float((g.numpy() * np.clip(a * x + b, 0, 1)).sum())

    found = gradient(quantizer, x, g)
    by_x = central_differences(lambda v: loss(v, start), x.numpy())
    np.testing.assert_allclose(found, by_x, rtol=1e-5, atol=1e-7)
    slopes = [parameter_gradient(quantizer, name) for name in ("centre", "half_width")]
    expected = central_differences(lambda p: loss(x.numpy(), p), start)
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-7)
    inside = np.abs(x.numpy() - 1.1) < 0.7
    np.testing.assert_array_equal(found != 0, inside)


def test_qil_intervals_learn_a_hundred_times_slower_than_the_network() -> None:
    handle = attach_to_convnet("qil", "2/2")
    network_group, *others = handle.parameter_groups(0.4, 1e-4)
    assert network_group["weight_decay"] == 1e-4
    assert [g["lr"] for g in others] == [pytest.approx(0.004)]
    assert others[0]["weight_decay"] == 0
    own = {id(p) for q in handle.quantizers for p in q.parameters() if p.requires_grad}
    assert {id(p) for p in others[0]["params"]} == own

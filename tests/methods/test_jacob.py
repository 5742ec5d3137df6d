"""Integer-arithmetic-only inference (Jacob et al., CVPR 2018, arXiv:1712.05877).

Weights and activations are affine (Eq. 12, Section 3.1), activations over a running range.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_linear,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, normal


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_jacob_weights_are_affine_over_their_range_with_zero_a_level(bits: int) -> None:
    w = normal(*SHAPE) + 0.4
    found = quantized_weight("jacob", w, bits)
    v, n = w.numpy(), 2**bits - 1
    s = (v.max() - v.min()) / (n - 1)
    z = np.round(-v.min() / s)
    expected = s * (np.clip(np.round(v / s) + z, 0, n - 1) - z)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    zero = weight_quantizer("jacob", w, bits)(torch.cat([w, torch.zeros(1, 4, 3, 3).double()]))
    assert not zero[-1].any()


def test_jacob_range_is_a_running_average() -> None:
    first, second = normal(50, seed=1), normal(50, seed=2)
    quantizer = activation_quantizer("jacob", first, 4, momentum=0.75)
    quantizer.observe(second)  # type: ignore[operator]
    for name, of in (("low", np.min), ("high", np.max)):
        expected = 0.75 * of(first.numpy()) + 0.25 * of(second.numpy())
        assert float(quantizer.get_buffer(name)) == pytest.approx(float(expected))


def test_jacob_gradient_passes_inside_the_range_only() -> None:
    sample = torch.tensor([0.0, 3.0], dtype=torch.float64)
    x = torch.tensor([-0.5, 0.2, 1.7, 2.9, 3.1, 9.0], dtype=torch.float64)
    found = gradient(activation_quantizer("jacob", sample, 2), x, torch.ones_like(x))
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 0, 0])


def test_jacob_activations_wait_for_the_delay() -> None:
    handle = attach_to_linear("jacob", "32/2", delay=1)
    x = normal(4, 8).abs()
    quantizer = handle.layers[0].activation_quantizer
    assert quantizer is not None
    handle.on_epoch_start(1, 3, steps=1)
    assert torch.equal(quantizer.train()(x), x)
    assert len(quantizer.eval()(x).unique()) <= 4
    handle.on_epoch_start(2, 3, steps=1)
    assert len(quantizer.train()(x).unique()) <= 4


@pytest.mark.parametrize("delay", [0, 2])
def test_jacob_activations_wait_for_a_number_of_steps(delay: int) -> None:
    handle = attach_to_linear("jacob", "32/2", delay=delay, delay_steps=5)
    x = normal(4, 8).abs()
    quantizer = handle.layers[0].activation_quantizer
    assert quantizer is not None
    optimizer = torch.optim.SGD(handle.parameter_groups(0.1, 0), lr=0.1)
    handle.attach_optimizer(optimizer)
    whole = []
    for epoch in (1, 2, 3):
        handle.on_epoch_start(epoch, 3, steps=3)
        for _ in range(3):
            whole.append(torch.equal(quantizer.train()(x), x))
            optimizer.step()
    waits = max(5, 3 * delay)
    assert whole == [True] * waits + [False] * (9 - waits)


@pytest.mark.parametrize(
    ("sample", "levels"),
    [
        ([0.0, 3.0], [0, 1, 2, 3]),
        ([-1.0, 2.0], [-1, 0, 1, 2]),
        ([-0.9, 2.1], [-1, 0, 1, 2]),  # moved, so that zero is a level
        ([-1.6, 1.4], [-2, -1, 0, 1]),
        ([0.6, 3.0], [0, 1, 2, 3]),  # zero is always within
        ([-3.0, -0.5], [-3, -2, -1, 0]),
    ],
)
def test_jacob_inputs_have_all_levels_and_zero_is_one(
    sample: list[float], levels: list[float]
) -> None:
    quantizer = activation_quantizer("jacob", torch.tensor(sample, dtype=torch.float64), 2)
    x = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    found = quantizer(x).numpy()
    np.testing.assert_allclose(np.unique(found.round(9)), levels, atol=1e-6)
    assert float(quantizer(torch.zeros(1, dtype=torch.float64))) == 0
    inside = (x.numpy() >= min(levels)) & (x.numpy() <= max(levels))
    assert np.abs(found - x.numpy())[inside].max() <= 0.5 + 1e-6


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_jacob_weights_leave_one_code_unused(bits: int) -> None:
    n = 2**bits - 1
    w = torch.linspace(-1, 1, 1001, dtype=torch.float64).view(1, -1)
    found = np.unique(quantized_weight("jacob", w, bits).round(12))
    np.testing.assert_allclose(found, np.linspace(-1, 1, n), atol=1e-12)
    positive = np.unique(quantized_weight("jacob", w.abs() + 1, bits).round(12))
    grid = np.linspace(0, 2, n)
    np.testing.assert_allclose(positive, grid[grid >= positive[0] - 1e-12], atol=1e-12)


def test_jacob_filters_have_their_own_range_where_asked_to() -> None:
    w = normal(*SHAPE) * torch.tensor([1e-3, 0.1, 1, 5, 30, 1000]).double().view(-1, 1, 1, 1)
    found = quantized_weight("jacob", w, 4, scope="filter")
    alone = [quantized_weight("jacob", w[i : i + 1], 4)[0] for i in range(6)]
    np.testing.assert_allclose(found, alone, rtol=1e-12)
    assert not quantized_weight("jacob", w, 4)[0].any()


@pytest.mark.parametrize("size", [12, 10])
def test_jacob_groups_have_their_own_range_where_asked_to(size: int) -> None:
    w = normal(*SHAPE)
    found = quantized_weight("jacob", w, 4, scope=f"per_group({size})").reshape(6, 36)
    for row, of_row in zip(w.view(6, 36), torch.from_numpy(found), strict=True):
        for group, got in zip(row.split(size), of_row.split(size), strict=True):
            np.testing.assert_allclose(got, quantized_weight("jacob", group, 4), rtol=1e-12)


def test_jacob_weight_gradient_goes_straight_through_inside_the_range() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    v = w.numpy()
    s = (v.max() - v.min()) / 14
    z = np.round(-v.min() / s)
    inside = (v > -z * s) & (v < (14 - z) * s)
    assert inside.sum() >= v.size - 2
    found = gradient(weight_quantizer("jacob", w, 4), w, g)
    np.testing.assert_array_equal(found[inside], g.numpy()[inside])


def test_jacob_range_starts_at_the_samples_and_settles_on_what_all_batches_share() -> None:
    quantizer = activation_quantizer("jacob", torch.tensor([-1.0, 4.0], dtype=torch.float64), 8)
    ends = [float(quantizer.get_buffer(name)) for name in ("low", "high")]
    assert ends == [-1, 4]
    for _ in range(2000):
        quantizer.observe(torch.tensor([0.0, 2.0]).double())  # type: ignore[operator]
    ends = [float(quantizer.get_buffer(name)) for name in ("low", "high")]
    np.testing.assert_allclose(ends, [0, 2], atol=1e-6)

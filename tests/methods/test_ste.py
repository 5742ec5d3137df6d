"""Uniform quantization with the straight-through estimator (Bengio et al., 2013, arXiv:1308.3432).

Weights are symmetric over the largest weight, activations unsigned or symmetric over a running
range. References are written in NumPy.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.quant.attach import attach
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    build_activation_quantizer,
    build_weight_quantizer,
    quantized_weight,
)
from tests.helpers.references import filter_means, sign
from tests.helpers.tensors import normal


@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_ste_rounds_weights_to_multiples_of_the_largest_over_n(bits: int, scope: str) -> None:
    w = normal(6, 4, 3, 3)
    n = 2 ** (bits - 1) - 1
    largest = np.abs(w.numpy()).max(axis=(1, 2, 3) if scope == "filter" else None, keepdims=True)
    step = largest / n
    expected = step * np.clip(np.round(w.numpy() / step), -n, n)
    np.testing.assert_allclose(quantized_weight("ste", w, bits, scope=scope), expected, atol=1e-14)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ste_moves_no_weight_by_more_than_half_a_step_and_keeps_zero_and_the_largest(
    bits: int,
) -> None:
    w = normal(3, 50)
    w[:, 7] = 0
    w_q = quantized_weight("ste", w, bits)
    step = np.abs(w.numpy()).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(w_q - w.numpy()) <= step / 2 * (1 + 1e-12)).all()
    assert (w_q[:, 7] == 0).all()
    top = np.abs(w.numpy()).argmax(1)
    rows = np.arange(3)
    np.testing.assert_allclose(w_q[rows, top], w.numpy()[rows, top])


@pytest.mark.parametrize("scope", ["layer", "filter"])
def test_ste_at_one_bit_is_the_sign_times_the_mean(scope: str) -> None:
    w = normal(6, 4, 3, 3)
    size = np.abs(w.numpy())
    mean = filter_means(size) if scope == "filter" else size.mean()
    np.testing.assert_allclose(
        quantized_weight("ste", w, 1, scope=scope), mean * sign(w.numpy()), rtol=1e-12
    )


@pytest.mark.parametrize("bits", [1, 4])
def test_ste_leaves_an_all_zero_filter_alive(bits: int) -> None:
    w = torch.zeros(2, 9)
    w[1] = 0.5
    quantizer = build_weight_quantizer("ste", w, bits)
    assert quantizer(w)[0].tolist() == [0] * 9
    g = normal(2, 9, scale=1e-4).float()
    np.testing.assert_allclose(gradient(quantizer, w, g), g.numpy(), rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ste_rounds_inputs_to_evenly_spaced_levels_from_zero_to_the_range(bits: int) -> None:
    x_q = activation_quantizer("ste", torch.tensor([0.0, 1.0, 3.0]), bits)
    x = torch.linspace(0, 4, 1001, dtype=torch.float64)
    levels = 3.0 * np.arange(2**bits) / (2**bits - 1)
    nearest = levels[np.abs(x.numpy()[:, None] - levels).argmin(1)]
    away = np.abs(x.numpy()[:, None] - (levels[1:] + levels[:-1]) / 2).min(1) > 1e-9
    np.testing.assert_allclose(x_q(x).numpy()[away], nearest[away], atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_ste_quantizes_an_input_with_negative_values_symmetrically(bits: int) -> None:
    x_q = activation_quantizer("ste", torch.tensor([-1.0, 2.0]), bits)
    n = 2 ** (bits - 1) - 1
    found = x_q(torch.linspace(-5, 5, 2001, dtype=torch.float64)).unique()
    np.testing.assert_allclose(found.numpy(), 2.0 * np.arange(-n, n + 1) / n, atol=1e-6)


def test_ste_binarises_an_input_with_negative_values_to_two_levels() -> None:
    x_q = activation_quantizer("ste", torch.tensor([-1.0, 2.0]), 1)
    assert len(x_q(torch.linspace(-5, 5, 2001, dtype=torch.float64)).unique()) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ste_keeps_a_dead_input_at_zero(dtype: torch.dtype) -> None:
    quantizer = build_activation_quantizer("ste", torch.zeros(9), 4)
    assert quantizer(torch.zeros(9, dtype=dtype)).tolist() == [0] * 9


@pytest.mark.parametrize(("sample", "low"), [([0.0, 2.0], 0.0), ([-2.0, 1.0], -2.0)])
def test_ste_passes_an_inputs_gradient_inside_the_range_only(
    sample: list[float], low: float
) -> None:
    x = torch.linspace(-3, 3, 200, dtype=torch.float64)
    g = normal(200, seed=1)
    inside = (x.numpy() > low) & (x.numpy() < 2)
    found = gradient(activation_quantizer("ste", torch.tensor(sample), 2), x, g)
    np.testing.assert_allclose(found, g.numpy() * inside, atol=1e-12)


def ste_ranges(momentum: float, maxima: list[float], training: bool = True) -> list[float]:
    """Return a layer's activation range after each of several batches with these maxima."""
    model = nn.Sequential(nn.Linear(2, 2))
    handle = attach(
        model,
        "ste",
        bits="4/4",
        layers="all",
        calibration=[torch.tensor([[0.5, 1.0]])],
        momentum=momentum,
    )
    quantizer = handle.layers[0].activation_quantizer
    assert quantizer is not None
    model.train(training)
    ranges = []
    for maximum in maxima:
        model(torch.tensor([[0.0, maximum], [maximum / 2, 0.0]]))
        ranges.append(float(quantizer(torch.tensor(1e6))))  # everything above saturates at r
    return ranges


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_ste_range_is_a_running_average_of_the_batches_maxima(momentum: float) -> None:
    maxima = [3.0, 0.2, 5.0, 5.0]
    expected, average = [], 1.0  # the calibration data's maximum
    for maximum in maxima:
        average = momentum * average + (1 - momentum) * maximum
        expected.append(average)
    assert ste_ranges(momentum, maxima) == pytest.approx(expected, rel=1e-5)


def test_ste_range_settles_on_what_all_batches_share() -> None:
    assert ste_ranges(0.9, [2.5] * 150)[-1] == pytest.approx(2.5, rel=1e-5)


def test_ste_range_stays_during_evaluation() -> None:
    assert ste_ranges(0.9, [3.0, 5.0], training=False) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(("percentile", "top"), [(100.0, 1000), (99.0, 990), (50.0, 500)])
def test_ste_percentile_leaves_out_the_largest_inputs(percentile: float, top: int) -> None:
    sample = torch.arange(1, 1001).flip(0).float()
    x_q = activation_quantizer("ste", sample, 8, percentile=percentile)
    assert float(x_q(torch.tensor(1e5, dtype=torch.float64))) == pytest.approx(top)

"""N2UQ (Liu et al., CVPR 2022, arXiv:2111.14826), against the formulas of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench import registry
from qbench.quant.attach import attach
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.references import filter_means
from tests.helpers.tensors import SHAPE, Array, normal


def released(x: Array, start: float, widths: Array, s1: float, s2: float) -> tuple[Array, Array]:
    """Return x_q and the function whose gradient it has, one threshold after another."""
    n = len(widths)
    step, floored = 2 / n, np.maximum(widths, 1e-3)
    v = x * s1
    forward, backward, begin = np.zeros_like(v), np.zeros_like(v), start
    for i in range(n):
        forward = np.where(v > begin + floored[i] / 2, step * (i + 1), forward)
        backward = np.where(v > begin, step / floored[i] * (v - begin) + step * i, backward)
        begin += floored[i]
    return s2 * forward, s2 * np.where(v > begin, 2, backward)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_n2uq_activations_count_the_thresholds_below(bits: int) -> None:
    x, g = normal(300).abs() + 0.1 * normal(300, seed=2), normal(300, seed=1)
    quantizer = activation_quantizer("n2uq", x, bits)
    n = 2**bits - 1
    np.testing.assert_allclose(quantizer.get_parameter("widths").detach().numpy(), 2 / n, rtol=1e-6)
    widths = 2 / n * (0.6 + normal(n, seed=3).abs().numpy() / 2)
    values = {"start": 0.05, "input_scale": 0.9, "output_scale": 1.2}
    with torch.no_grad():
        quantizer.get_parameter("widths").copy_(torch.from_numpy(widths))
        for name, value in values.items():
            quantizer.get_parameter(name).fill_(value)
    forward, _ = released(x.numpy(), 0.05, widths, 0.9, 1.2)
    np.testing.assert_allclose(quantizer(x).detach().numpy(), forward, rtol=1e-9)
    found = gradient(quantizer, x, g)

    def of(x: Array, start: float, widths: Array, s1: float) -> float:
        return float((g.numpy() * released(x, start, widths, s1, 1.2)[1]).sum())

    expected = central_differences(lambda at: of(at, 0.05, widths, 0.9), x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    for name, function, at in (
        ("widths", lambda at: of(x.numpy(), 0.05, at, 0.9), widths),
        ("start", lambda at: of(x.numpy(), float(at), widths, 0.9), np.array(0.05)),
        ("input_scale", lambda at: of(x.numpy(), 0.05, widths, float(at)), np.array(0.9)),
    ):
        grad = quantizer.get_parameter(name).grad
        assert grad is not None
        slopes = central_differences(function, at)
        np.testing.assert_allclose(grad.numpy(), slopes, rtol=1e-4, atol=1e-6)
    grad = quantizer.get_parameter("output_scale").grad
    assert grad is not None
    assert float(grad) == pytest.approx((g.numpy() * forward).sum() / 1.2)


def test_n2uq_widths_have_a_floor_below_which_they_get_no_gradient() -> None:
    x = normal(50).abs()
    quantizer = activation_quantizer("n2uq", x, 2)
    with torch.no_grad():
        quantizer.get_parameter("widths")[1] = -0.2
    gradient(quantizer, x, torch.ones_like(x))
    grad = quantizer.get_parameter("widths").grad
    assert grad is not None
    assert grad[1] == 0
    assert grad[0] != 0


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_n2uq_weights_are_scaled_by_their_mean_size(bits: int) -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    s = (2**bits - 1) / 2 ** (bits - 1) * filter_means(np.abs(w.numpy()))
    n = (2**bits - 1) / 2  # the released code's, whose clip_val is 2
    c = np.clip(w.numpy() / s, -1, 1)
    expected = s * (np.round((c + 1) * n) / n - 1)
    np.testing.assert_allclose(quantized_weight("n2uq", w, bits), expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(gradient(weight_quantizer("n2uq", w, bits), w, g), g.numpy())


def test_n2uq_has_an_rprelu_before_each_quantizer_and_after_each_sum() -> None:
    model = registry.build_model("resnet18", 10, 3)
    handle = attach(model, "n2uq", bits="2/2", calibration=[torch.randn(2, 3, 64, 64)])
    kinds = [type(m).__name__ for m in handle.model.modules()]
    assert kinds.count("RPReLU") == 16 + 8
    assert sum(isinstance(m, nn.ReLU) for m in handle.model.modules()) == 1  # that of the stem
    assert len(handle.layers) == 19  # with the 1×1 convolutions of shortcuts


def test_n2uq_block_adds_the_input_that_no_rprelu_has_seen() -> None:
    model = registry.build_model("resnet18", 10, 3)
    handle = attach(model, "n2uq", bits="2/2", calibration=[torch.randn(2, 3, 64, 64)])
    block = handle.model.get_submodule("layer1.0").eval()
    with torch.no_grad():
        for layer in handle.layers[:2]:
            layer.latent_weight.zero_()
        x = torch.randn(2, 64, 8, 8)
        np.testing.assert_allclose(block(x).numpy(), np.where(x > 0, x, 0.25 * x), atol=1e-6)


def test_n2uq_replaces_the_relus_of_a_chain() -> None:
    handle = attach_to_convnet("n2uq", "2/2")
    kinds = [type(m).__name__ for m in handle.model.modules()]
    assert kinds.count("RPReLU") == 3
    assert "ReLU" not in kinds

"""AdaBin (Tu et al., ECCV 2022, arXiv:2208.08084), against the formulas of the authors' code."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from qbench import registry
from qbench.quant.attach import attach
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    parameter_gradient,
    quantized_weight,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.references import sign
from tests.helpers.tensors import SHAPE, Array, normal

AXES = (1, 2, 3)


def parts(w: Array) -> tuple[Array, Array]:
    """Return β and α of each filter."""
    return w.mean(AXES, keepdims=True), w.std(AXES, keepdims=True)


def test_adabin_weights_lie_one_deviation_from_their_mean() -> None:
    w = normal(*SHAPE) + 0.5
    beta, alpha = parts(w.numpy())
    expected = alpha * sign(w.numpy() - beta) + beta
    np.testing.assert_allclose(quantized_weight("adabin", w, 1), expected, rtol=1e-9)


def test_adabin_weight_gradient_passes_through_the_centre_and_the_distance() -> None:
    w, g = normal(*SHAPE) + 0.5, normal(*SHAPE, seed=1)
    quantizer = weight_quantizer("adabin", w, 1)
    quantizer.get_buffer("temperature").fill_(1.5)
    beta, alpha = parts(w.numpy())
    signs, size = sign(w.numpy() - beta), (w.numpy() - beta) / alpha

    def surrogate(at: Array) -> float:  # the sign has its own slope, and α and β move
        beta, alpha = parts(at)
        moved = signs + np.tanh(1.5 * (at - beta) / alpha) - np.tanh(1.5 * size)
        return float((g.numpy() * (alpha * moved + beta)).sum())

    expected = central_differences(surrogate, w.numpy())
    np.testing.assert_allclose(gradient(quantizer, w, g), expected, rtol=1e-4, atol=1e-7)


def test_adabin_activations_have_a_learned_centre_and_distance() -> None:
    x, g = normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1)
    quantizer = activation_quantizer("adabin", x, 1)
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), sign(x.numpy()))
    alpha, beta = 0.7, 0.25
    set_parameters(quantizer, distance=alpha, centre=beta)
    v = (x.numpy() - beta) / alpha
    signs = sign(v)
    np.testing.assert_allclose(quantizer(x).detach().numpy(), alpha * (signs + beta), rtol=1e-12)
    slope = np.where(np.abs(v) < 1, 2 - 2 * np.abs(v), 0)
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * slope, rtol=1e-9, atol=1e-12)
    found = [parameter_gradient(quantizer, name) for name in ("distance", "centre")]
    expected = [(g.numpy() * part).sum() for part in (signs + beta - slope * v, alpha - slope)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_adabin_has_a_maxout_of_its_own_channels_after_the_stem_and_each_sum() -> None:
    model = registry.build_model("resnet18", 10, 3)
    handle = attach(model, "adabin", bits="1/1", calibration=[torch.randn(2, 3, 64, 64)])
    found = [m for m in handle.model.modules() if type(m).__name__ == "Maxout"]
    widths = [m.get_parameter("positive").numel() for m in found]
    assert widths == [64, *[layer.latent_weight.shape[0] for layer in handle.layers]]
    assert not any(isinstance(m, nn.ReLU) for m in handle.model.modules())
    assert any(isinstance(m, nn.BatchNorm1d) for m in handle.model.modules())
    first = found[0]
    x = torch.randn(2, 64, 3, 3)
    with torch.no_grad():
        np.testing.assert_array_equal(first(x).numpy(), np.where(x > 0, x, x / 4))
        first.get_parameter("positive").fill_(3.0)
        first.get_parameter("negative").fill_(-2.0)
        expected = np.where(x > 0, 3 * x, -2 * x)
        np.testing.assert_allclose(first(x).numpy(), expected, rtol=1e-6)


def test_adabin_weights_that_are_equal_have_a_gradient() -> None:
    w = torch.full((2, 3), 0.4, dtype=torch.float64)
    found = gradient(weight_quantizer("adabin", w, 1), w, torch.ones_like(w))
    assert np.isfinite(found).all()

"""Binarized Neural Networks (Courbariaux et al., NeurIPS 2016, arXiv:1602.02830), Eq. 1 and 4."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_linear,
    latent_weight,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.references import sign
from tests.helpers.tensors import SHAPE, normal


def test_bnn_weights_and_inputs_are_signs() -> None:
    w = normal(*SHAPE)
    np.testing.assert_array_equal(quantized_weight("bnn", w, 1), sign(w.numpy()))
    x = normal(4, 5, seed=1)
    np.testing.assert_array_equal(activation_quantizer("bnn", x, 1)(x).numpy(), sign(x.numpy()))


def test_bnn_input_gradient_passes_inside_the_hard_tanh_only() -> None:
    x = torch.tensor([-1.5, -0.99, -0.2, 0.3, 0.99, 1.01, 7.0], dtype=torch.float64)
    g = normal(7, seed=2)
    found = gradient(activation_quantizer("bnn", x, 1), x, g)
    np.testing.assert_array_equal(found, g.numpy() * (np.abs(x.numpy()) <= 1))


def test_bnn_weights_stay_between_minus_and_plus_one() -> None:
    handle = attach_to_linear("bnn", "1/1")
    with torch.no_grad():
        latent_weight(handle).mul_(50)
    handle._after_optimizer_step()
    assert float(latent_weight(handle).detach().abs().max()) == 1.0


def test_bnn_drawn_inputs_have_the_clipped_input_as_their_mean() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.25, 3.0], dtype=torch.float64)
    quantizer = activation_quantizer("bnn", x, 1, stochastic=True)
    torch.manual_seed(0)
    mean = torch.stack([quantizer(x) for _ in range(20_000)]).mean(0)
    np.testing.assert_allclose(mean.numpy(), np.clip(x.numpy(), -1, 1), atol=0.03)
    np.testing.assert_array_equal(quantizer.eval()(x).numpy(), sign(x.numpy()))


def test_batch_norm_and_sign_is_a_threshold() -> None:
    x = normal(64, 3, seed=3)
    norm = nn.BatchNorm1d(3).double().eval()
    norm.running_mean.copy_(torch.tensor([0.3, -0.2, 0.0]))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.tensor([2.0, 0.5, 1.0]))  # type: ignore[union-attr]
    norm.bias.data.copy_(torch.tensor([0.1, -0.4, 0.2]))
    with torch.no_grad():
        found = activation_quantizer("bnn", x, 1)(norm(x)).numpy()
    mu, sigma = np.array([0.3, -0.2, 0.0]), np.sqrt(np.array([2.0, 0.5, 1.0]) + norm.eps)
    threshold = mu - np.array([0.1, -0.4, 0.2]) * sigma
    np.testing.assert_array_equal(found, np.where(x.numpy() >= threshold, 1.0, -1.0))


def test_bnn_weight_gradient_goes_straight_through_beyond_one_too() -> None:
    w, g = normal(*SHAPE, scale=2), normal(*SHAPE, seed=1)
    np.testing.assert_array_equal(gradient(weight_quantizer("bnn", w, 1), w, g), g.numpy())

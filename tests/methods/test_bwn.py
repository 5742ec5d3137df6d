"""Binary-Weight-Networks (Rastegari et al., ECCV 2016, arXiv:1603.05279, Section 3.1).

Weights follow Eq. 5 and 6. The gradients are that of the paper ("Training"), the exact one and that
of the released code.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import attach_everywhere, quantized_weight, weight_quantizer
from tests.helpers.references import filter_means, sign
from tests.helpers.tensors import normal


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 10), (6, 1, 3, 3)])
def test_bwn_is_the_sign_times_each_filters_mean(shape: tuple[int, ...]) -> None:
    w = normal(*shape)
    expected = filter_means(np.abs(w.numpy())) * sign(w.numpy())
    np.testing.assert_allclose(quantized_weight("bwn", w, 1), expected, rtol=1e-12)


def test_no_other_scale_and_no_other_signs_come_closer_to_the_weight_than_bwns() -> None:
    w = normal(3, 7)
    error = ((w.numpy() - quantized_weight("bwn", w, 1)) ** 2).sum(1)
    for signs in itertools.product((-1.0, 1.0), repeat=7):
        b = np.array(signs)
        scale = (w.numpy() @ b) / 7  # least squares for these signs
        other = ((w.numpy() - scale[:, None] * b) ** 2).sum(1)
        assert (error <= other + 1e-12).all()


def test_bwn_of_a_binary_weight_is_that_weight() -> None:
    once = quantized_weight("bwn", normal(6, 4, 3, 3), 1)
    np.testing.assert_allclose(quantized_weight("bwn", torch.from_numpy(once), 1), once, rtol=1e-12)


def test_bwn_gradient_is_the_papers() -> None:
    w, g = normal(6, 4, 3, 3), normal(6, 4, 3, 3, seed=1)
    alpha, window = filter_means(np.abs(w.numpy())), np.abs(w.numpy()) < 1
    expected = g.numpy() * (1 / 36 + alpha * window)
    np.testing.assert_allclose(gradient(weight_quantizer("bwn", w, 1), w, g), expected, rtol=1e-12)


def test_bwn_exact_gradient_adds_the_slope_of_the_scale() -> None:
    w, g = normal(3, 2, 2, 2), normal(3, 2, 2, 2, seed=1)
    weight, upstream, signs = w.numpy(), g.numpy(), sign(w.numpy())
    through_sign = upstream * filter_means(np.abs(weight)) * (np.abs(weight) < 1)
    through_scale = central_differences(
        lambda v: float((upstream * filter_means(np.abs(v)) * signs).sum()), weight
    )
    found = gradient(weight_quantizer("bwn", w, 1, gradient="exact"), w, g)
    np.testing.assert_allclose(found, through_sign + through_scale, rtol=1e-6, atol=1e-8)


def test_bwn_lua_gradient_is_the_released_codes_for_sgd() -> None:
    w, g = normal(6, 4, 3, 3), normal(6, 4, 3, 3, seed=1)
    m = filter_means(np.abs(w.numpy())) * (np.abs(w.numpy()) < 1) + 1 / 36
    expected = g.numpy() * m * (1 - 1 / 4) * 36
    found = gradient(weight_quantizer("bwn", w, 1, gradient="lua"), w, g)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("moment", ["first epoch", "after a step"])
def test_bwn_centring_subtracts_the_mean_over_input_channels_then_clips(moment: str) -> None:
    convolution = nn.Conv2d(4, 6, 3).double()
    w = normal(6, 4, 3, 3, scale=1.5)
    convolution.weight.data = w.clone()
    handle = attach_everywhere(nn.Sequential(convolution), "bwn", centre=True)
    if moment == "first epoch":
        handle.on_epoch_start(1, 10, steps=1)
    else:
        handle.layers[0].latent_weight.data = w.clone()
        handle._after_optimizer_step()
    centred = np.clip(w.numpy() - w.numpy().mean(axis=1, keepdims=True), -1, 1)
    found = handle.layers[0].latent_weight.detach().numpy()
    np.testing.assert_allclose(found, centred, atol=1e-14)
    assert np.abs(found).max() == 1


def test_bwn_leaves_weights_where_they_are_unless_told_to_centre() -> None:
    convolution = nn.Conv2d(4, 6, 3)
    before = convolution.weight.detach().clone()
    handle = attach_everywhere(nn.Sequential(convolution), "bwn")
    handle.on_epoch_start(1, 10, steps=1)
    handle._after_optimizer_step()
    assert torch.equal(handle.layers[0].latent_weight, before)

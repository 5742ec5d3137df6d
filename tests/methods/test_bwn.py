"""Binary-Weight-Networks (Rastegari et al., ECCV 2016, arXiv:1603.05279, Section 3.1).

Weights follow Eq. 5 and 6. The gradients are that of the released code, which is the default, that
of the paper ("Training") and the exact one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.quant.handle import Handle
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    attach_everywhere,
    latent_weight,
    quantized_weight,
    used_weight,
    weight_quantizer,
)
from tests.helpers.references import filter_means, sign
from tests.helpers.tensors import Array, normal


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


def test_bwn_gradient_of_the_paper_has_a_term_for_the_scale_and_one_for_the_sign() -> None:
    w, g = normal(6, 4, 3, 3), normal(6, 4, 3, 3, seed=1)
    alpha, window = filter_means(np.abs(w.numpy())), np.abs(w.numpy()) < 1
    expected = g.numpy() * (1 / 36 + alpha * window)
    found = gradient(weight_quantizer("bwn", w, 1, gradient="paper"), w, g)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bwn_exact_gradient_adds_the_slope_of_the_scale() -> None:
    w, g = normal(3, 2, 2, 2), normal(3, 2, 2, 2, seed=1)
    weight, upstream, signs = w.numpy(), g.numpy(), sign(w.numpy())
    through_sign = upstream * filter_means(np.abs(weight)) * (np.abs(weight) < 1)
    through_scale = central_differences(
        lambda v: float((upstream * filter_means(np.abs(v)) * signs).sum()), weight
    )
    found = gradient(weight_quantizer("bwn", w, 1, gradient="exact"), w, g)
    np.testing.assert_allclose(found, through_sign + through_scale, rtol=1e-6, atol=1e-8)


def binary_convolution(w: Tensor, groups: int = 1, **options: Any) -> Handle:
    """A convolution of 3 × 3 with the weight w, binarized by BWN."""
    convolution = nn.Conv2d(groups * w.shape[1], len(w), 3, groups=groups, bias=False).double()
    convolution.weight.data = w.clone()
    return attach_everywhere(nn.Sequential(convolution), "bwn", **options)


def optimized_gradient(handle: Handle, g: Tensor, kind: str) -> Array:
    """Return the gradient of the latent weight with which an optimizer makes a step."""
    weight = latent_weight(handle)
    optimizers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD([weight], lr=0.1),
        "adam": lambda: torch.optim.Adam([weight], lr=0.1),
        "adamw": lambda: torch.optim.AdamW([weight], lr=0.1),
    }
    optimizer = optimizers[kind]()
    handle.attach_optimizer(optimizer)
    used_weight(handle).backward(g)
    optimizer.step()
    assert weight.grad is not None
    return weight.grad.numpy()


@pytest.mark.parametrize(("kind", "factor"), [("sgd", 36), ("adam", 1e9), ("adamw", 1e9)])
def test_bwn_trains_with_the_gradient_of_the_released_code(kind: str, factor: float) -> None:
    w, g = normal(6, 4, 3, 3), normal(6, 4, 3, 3, seed=1)
    m = filter_means(np.abs(w.numpy()))  # as util.lua, updateBinaryGradWeight
    m = np.where((w.numpy() <= -1) | (w.numpy() >= 1), 0, m)
    m = (m + 1 / 36) * (1 - 1 / 4) * factor
    found = optimized_gradient(binary_convolution(w), g, kind)
    np.testing.assert_allclose(found, g.numpy() * m, rtol=1e-12)


@pytest.mark.parametrize("form", ["paper", "exact"])
def test_bwn_other_gradients_are_the_same_for_every_optimizer(form: str) -> None:
    w, g = normal(6, 4, 3, 3), normal(6, 4, 3, 3, seed=1)
    expected = gradient(weight_quantizer("bwn", w, 1, gradient=form), w, g)
    for kind in ("sgd", "adam"):
        handle = binary_convolution(w, gradient=form, centre=False)
        np.testing.assert_allclose(optimized_gradient(handle, g, kind), expected, rtol=1e-12)


def test_bwn_step_of_sgd_is_as_long_as_that_of_the_released_code() -> None:
    # In a layer of 256 × 256 × 3 × 3 the paper's gradient is n (1 − 1/I) = 2295 times as short.
    n, inputs = 256 * 9, 256
    w, g = 0.03 * normal(8, inputs, 3, 3), normal(8, inputs, 3, 3, seed=1)
    paper = optimized_gradient(binary_convolution(w, gradient="paper"), g, "sgd")
    released = optimized_gradient(binary_convolution(w), g, "sgd")
    np.testing.assert_allclose(released / paper, n * (1 - 1 / inputs), rtol=1e-9)
    assert n * (1 - 1 / inputs) == 2295


def test_bwn_factor_for_the_optimizer_reaches_weights_that_a_normalization_computes() -> None:
    slopes = []
    for options in ({}, {"gradient": "paper"}):
        convolution = nn.Conv2d(4, 6, 3, bias=False).double()
        convolution.weight.data = 0.1 * normal(6, 4, 3, 3)
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(convolution))
        handle = attach_everywhere(model, "bwn", **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        handle.attach_optimizer(optimizer)
        used_weight(handle).backward(normal(6, 4, 3, 3, seed=1))
        optimizer.step()
        slopes.append([p.grad.numpy() for p in model.parameters() if p.grad is not None])
    assert len(slopes[0]) == 2
    for released, paper in zip(*slopes, strict=True):
        np.testing.assert_allclose(released, paper * 36 * (1 - 1 / 4), rtol=1e-9)


def test_bwn_trains_filters_of_one_input_channel_without_centring_them() -> None:
    w, g = 0.5 * normal(6, 1, 3, 3), normal(6, 1, 3, 3, seed=1)
    handle = binary_convolution(w, groups=6)
    handle.on_epoch_start(1, 10, steps=1)
    clipped = np.clip(w.numpy(), -1, 1)
    np.testing.assert_array_equal(latent_weight(handle).detach().numpy(), clipped)
    m = (filter_means(np.abs(clipped)) * (np.abs(clipped) < 1) + 1 / 9) * 9
    np.testing.assert_allclose(optimized_gradient(handle, g, "sgd"), g.numpy() * m, rtol=1e-12)
    assert (latent_weight(handle) != 0).all()


@pytest.mark.parametrize("moment", ["first epoch", "after a step"])
def test_bwn_centring_subtracts_the_mean_over_input_channels_then_clips(moment: str) -> None:
    w = normal(6, 4, 3, 3, scale=1.5)
    handle = binary_convolution(w)
    if moment == "first epoch":
        handle.on_epoch_start(1, 10, steps=1)
    else:
        handle.layers[0].latent_weight.data = w.clone()
        handle._after_optimizer_step()
    centred = np.clip(w.numpy() - w.numpy().mean(axis=1, keepdims=True), -1, 1)
    found = handle.layers[0].latent_weight.detach().numpy()
    np.testing.assert_allclose(found, centred, atol=1e-14)
    assert np.abs(found).max() == 1


def test_bwn_leaves_weights_where_they_are_if_told_not_to_centre() -> None:
    convolution = nn.Conv2d(4, 6, 3)
    before = convolution.weight.detach().clone()
    handle = attach_everywhere(nn.Sequential(convolution), "bwn", centre=False)
    handle.on_epoch_start(1, 10, steps=1)
    handle._after_optimizer_step()
    assert torch.equal(handle.layers[0].latent_weight, before)

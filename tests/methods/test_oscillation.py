"""Oscillation freezing and dampening (Nagel et al., ICML 2022, arXiv:2203.11086)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.method import BitWidths, Quantizer
from qbench.quant.options import build_method
from tests.helpers.quantizers import (
    attach_to_linear,
    first_weight_quantizer,
    latent_weight,
    start_step,
    used_weight,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, Array, normal


class Tracker:
    """The tracker of the authors' code, for codes of which none are frozen when it starts."""

    def __init__(self, codes: Array, momentum: float) -> None:
        self.momentum, self.previous, self.average = momentum, codes, codes.astype(float)
        self.direction, self.frequency = np.zeros_like(codes), np.zeros(codes.shape)
        self.frozen, self.held = np.zeros(codes.shape, dtype=bool), np.zeros_like(codes)

    def __call__(self, codes: Array, threshold: float) -> Array:
        codes = np.where(self.frozen, self.held, codes)
        turned = np.sign(self.previous - codes)
        opposite = self.direction * turned == -1
        self.frequency = self.momentum * opposite + (1 - self.momentum) * self.frequency
        self.direction = np.where(turned != 0, turned, self.direction)
        self.previous = codes
        often = self.frequency > threshold
        self.held = np.where(often, np.round(self.average), self.held)
        self.frozen |= often
        self.average = self.momentum * codes + (1 - self.momentum) * self.average
        return codes


def test_oscillation_freezes_the_weights_that_the_authors_tracker_freezes() -> None:
    w, m = normal(*SHAPE), 0.1
    quantizer = weight_quantizer("oscillation", w, 3, momentum=m, threshold=0.1)
    assert isinstance(quantizer, Quantizer)
    step = float(quantizer.get_parameter("step").detach())
    quantizer.get_buffer("progress").fill_(0.25)  # f_th is 0.1
    tracker = Tracker(np.clip(np.round(w.numpy() / step), -4, 3), m)
    random = np.random.default_rng(0)
    for _ in range(60):
        moved = w + torch.from_numpy(random.normal(0, 0.15 * step, SHAPE))
        expected = tracker(np.clip(np.round(moved.numpy() / step), -4, 3), 0.1)
        with torch.no_grad():
            np.testing.assert_allclose(quantizer(moved).numpy(), step * expected, rtol=1e-6)
            quantizer.observe(moved)
        np.testing.assert_array_equal(quantizer.get_buffer("frozen").numpy(), tracker.frozen)
    assert 0 < tracker.frozen.mean() < 1


def test_oscillation_passes_no_gradient_to_a_frozen_weight_and_lsqs_to_others() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    plain, frozen = weight_quantizer("lsq", w, 3), weight_quantizer("oscillation", w, 3)
    mask = normal(*SHAPE, seed=2) > 0
    frozen.get_buffer("frozen").copy_(mask)
    found = []
    for quantizer in (plain, frozen):
        leaf = w.clone().requires_grad_()
        quantizer(leaf).backward(g)
        assert leaf.grad is not None
        found.append(leaf.grad)
    np.testing.assert_allclose(found[1].numpy(), found[0].where(~mask, 0).numpy())
    assert frozen.get_parameter("step").grad is not None


def test_oscillation_holds_a_frozen_code_whatever_the_weight_becomes() -> None:
    handle = attach_to_linear("oscillation", "3/32")
    before = used_weight(handle).detach().clone()
    first_weight_quantizer(handle).get_buffer("frozen").fill_(value=True)
    with torch.no_grad():
        latent_weight(handle).neg_()
    np.testing.assert_allclose(used_weight(handle).detach().numpy(), before.numpy())


@pytest.mark.parametrize(
    ("epoch", "step", "share"), [(1, 1, 0), (1, 50, 0), (2, 100, 1 / 3), (4, 100, 1)]
)
def test_oscillation_dampens_after_a_quarter_of_training(
    epoch: int, step: int, share: float
) -> None:
    handle = attach_to_linear("oscillation", "3/32", remedy="dampening", dampening=0.2)
    handle.on_epoch_start(epoch, 4, 100)
    start_step(handle, step, 100)
    w = latent_weight(handle)
    s = float(first_weight_quantizer(handle).get_parameter("step").detach())
    codes = np.clip(np.round(w.detach().numpy() / s), -4, 3)
    distance = s * codes - np.clip(w.detach().numpy(), -4 * s, 3 * s)
    strength = 0.2 - 0.1 * (1 + np.cos(np.pi * share))
    loss = handle.regularization_loss()
    assert float(loss.detach()) == pytest.approx(strength * (distance**2).sum(0).mean(), rel=1e-6)
    if share:
        loss.backward()
        assert w.grad is not None
        expected = -2 * strength * distance / distance.shape[1]
        np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("epoch", "step", "threshold"), [(2, 1, 0.1), (3, 50, 0.055), (4, 100, 0.01)]
)
def test_oscillation_threshold_falls_with_a_cosine(epoch: int, step: int, threshold: float) -> None:
    for frequency in (0.99 * threshold, 1.01 * threshold):
        handle = attach_to_linear("oscillation", "3/32", momentum=1e-6)
        handle.on_epoch_start(epoch, 4, 100)
        start_step(handle, step, 100)
        quantizer = first_weight_quantizer(handle)
        assert isinstance(quantizer, Quantizer)
        quantizer.get_buffer("frequency").fill_(frequency)
        quantizer.observe(latent_weight(handle).detach())
        expected = frequency > threshold
        assert bool((quantizer.get_buffer("frozen") == expected).all())


def test_oscillation_does_not_freeze_layers_of_more_than_four_bits() -> None:
    wide, narrow = (weight_quantizer("oscillation", normal(*SHAPE), k) for k in (5, 4))
    assert not hasattr(wide, "frozen")
    assert hasattr(narrow, "frozen")
    assert isinstance(wide, nn.Module)


@pytest.mark.parametrize(
    ("bits", "remedy", "lr", "decay"),
    [
        ("4/4", "freezing", 0.0033, 5e-5),
        ("3/3", "freezing", 0.01, 2.5e-5),
        ("4/4", "dampening", 0.0033, 2.5e-5),
        ("3/3", "dampening", 0.01, 2.5e-5),
    ],
)
def test_oscillation_recipe_is_that_of_the_authors_commands(
    bits: str, remedy: str, lr: float, decay: float
) -> None:
    method = build_method("oscillation", {"remedy": remedy})
    recipe = method.paper_recipe_for(BitWidths.parse(bits))
    assert recipe is not None
    assert (recipe.lr, recipe.weight_decay) == (lr, decay)

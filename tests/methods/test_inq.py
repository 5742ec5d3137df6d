"""Incremental Network Quantization (Zhou et al., ICLR 2017, arXiv:1702.03044).

Levels follow Eq. 2 to 4, training Eq. 8 and Algorithm 1.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qbench.quant.options import build_method
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    attach_to_linear,
    first_weight_quantizer,
    latent_weight,
    used_weight,
    weight_quantizer,
)
from tests.helpers.tensors import Array, normal


def powers(w: Array, bits: int) -> Array:
    """Return the levels of a weight (Eq. 2 and 3), in ascending order."""
    n1 = math.floor(math.log2(4 * np.abs(w).max() / 3))
    n2 = n1 + 1 - 2 ** (bits - 1) // 2
    positive = [2.0**n for n in range(n2, n1 + 1)]
    return np.array([-p for p in reversed(positive)] + [0.0] + positive)


@pytest.mark.parametrize(("bits", "count"), [(2, 3), (3, 5), (4, 9), (5, 17)])
def test_inq_levels_are_powers_of_two_and_zero(bits: int, count: int) -> None:
    w = 0.3 * normal(64, 64)
    allowed = powers(w.numpy(), bits)
    assert len(allowed) == count
    found = weight_quantizer("inq", w, bits).eval()(w).numpy()
    assert set(np.abs(np.unique(found))) <= set(np.abs(allowed))
    nearest = allowed[np.abs(w.numpy()[..., None] - allowed).argmin(-1)]
    np.testing.assert_array_equal(found, nearest)


def test_inq_freezes_the_largest_weights_first_and_never_lets_them_move() -> None:
    handle = attach_to_linear("inq", "5/32", portions=[0.5, 0.75, 1.0])
    before = latent_weight(handle).detach().clone().numpy()
    allowed = powers(before, 5)
    handle.on_epoch_start(1, 4, steps=1)
    quantizer = first_weight_quantizer(handle)
    frozen = quantizer.get_buffer("frozen").numpy().copy()
    assert frozen.sum() == 20
    assert np.abs(before[frozen]).min() >= np.abs(before[~frozen]).max()
    values = latent_weight(handle).detach().numpy()[frozen].copy()
    assert np.isin(np.abs(values), np.abs(allowed)).all()
    np.testing.assert_array_equal(latent_weight(handle).detach().numpy()[~frozen], before[~frozen])
    optimizer = torch.optim.SGD(handle.parameter_groups(0.1, 0.1), lr=0.1, momentum=0.9)
    for epoch in (1, 2, 3, 4):
        handle.on_epoch_start(epoch, 4, steps=1)
        optimizer.zero_grad()
        handle.model.train()(normal(4, 8)).square().sum().backward()
        grad = latent_weight(handle).grad
        assert grad is not None
        assert not grad.numpy()[frozen].any()
        optimizer.step()
        handle._after_optimizer_step()
        np.testing.assert_array_equal(latent_weight(handle).detach().numpy()[frozen], values)
    now = quantizer.get_buffer("frozen").numpy()
    assert now.sum() == 30
    assert now[frozen].all()
    assert np.isin(np.abs(handle.harden()[0].weight.detach().numpy()), np.abs(allowed)).all()  # type: ignore[index]


def test_inq_refuses_portions_that_do_not_end_with_everything() -> None:
    for portions in ([0.5, 0.9], [0.9, 0.5, 1.0], [0.0, 1.0], []):
        with pytest.raises(Exception, match="portions"):
            build_method("inq", {"portions": portions})


@pytest.mark.parametrize(
    ("largest", "top"), [(0.7499, 0.5), (0.75, 1.0), (1.4999, 1.0), (1.5, 2.0), (0.1, 0.125)]
)
def test_inq_top_power_is_the_one_nearest_to_the_largest_weight(largest: float, top: float) -> None:
    w = torch.linspace(-largest, largest, 2001, dtype=torch.float64).view(1, -1)
    found = np.unique(weight_quantizer("inq", w, 3).eval()(w).numpy())
    assert found.tolist() == [-top, -top / 2, 0, top / 2, top]


def test_inq_takes_weights_on_a_threshold_to_the_larger_power() -> None:
    # The largest weight is 1, so with four bits the levels are 0, 1/8, 1/4, 1/2 and 1.
    thresholds = torch.tensor([[1.0, 0.75, 0.375, 0.1875, 0.0625]], dtype=torch.float64)
    w = torch.cat([thresholds, -thresholds, thresholds * (1 - 1e-9)])
    up, down = [1, 1, 0.5, 0.25, 0.125], [1, 0.5, 0.25, 0.125, 0]
    found = weight_quantizer("inq", w, 4).eval()(w).tolist()
    assert found == [up, [-v for v in up], down]


@pytest.mark.parametrize(
    ("bits", "shares"),
    [
        (5, [0.5, 0.75, 0.875]),
        (4, [0.3, 0.5, 0.8, 0.9, 0.95]),
        (3, [0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95]),
        (2, [0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975]),
    ],
)
def test_inq_freezes_the_papers_shares_each_for_equally_many_epochs(
    bits: int, shares: list[float]
) -> None:
    handle = attach_to_linear("inq", f"{bits}/32")
    quantizer = first_weight_quantizer(handle)
    found = []
    for epoch in range(1, 2 * len(shares) + 1):
        handle.on_epoch_start(epoch, 2 * len(shares), steps=1)
        found.append(int(quantizer.get_buffer("frozen").sum()))
    assert found == [round(40 * share) for share in shares for _ in range(2)]


def test_inq_training_is_plain_gradient_descent_on_what_is_not_frozen() -> None:
    handle = attach_to_linear("inq", "3/32", portions=[0.5, 1.0])
    handle.on_epoch_start(1, 2, steps=1)
    quantizer, g = handle.layers[0].weight_quantizer, normal(5, 8, seed=3)
    assert quantizer is not None
    w = latent_weight(handle).detach()
    free = ~quantizer.get_buffer("frozen").numpy()
    assert free.sum() == 20
    assert torch.equal(used_weight(handle), w)
    np.testing.assert_array_equal(gradient(quantizer, w, g), g.numpy() * free)


def test_inq_levels_stay_those_of_the_pretrained_weight() -> None:
    w = normal(8, 50)
    quantizer = weight_quantizer("inq", w, 3).eval()
    found = np.unique(quantizer(20 * w).numpy())
    np.testing.assert_array_equal(found, powers(w.numpy(), 3))

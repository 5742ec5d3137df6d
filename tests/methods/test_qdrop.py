"""QDrop (Wei et al., ICLR 2022, arXiv:2203.05740)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.quant.attach import attach
from qbench.quant.options import build_method
from tests.helpers.gradients import closed_clamp
from tests.helpers.quantizers import activation_quantizer, weight_quantizer
from tests.helpers.tensors import Array, normal


def mse_observer(x: Array, levels: int) -> tuple[float, float]:
    """Return scale and zero point of `MSEObserver` of the authors, for one row."""
    low, high = float(x.min()), float(x.max())
    one_sided = low >= 0 or high <= 0
    best, found = np.inf, (0.0, 0.0)
    for i in range(1, 101):
        delta = (max(abs(low), high) if one_sided else high - low) / 100 * i / (levels - 1)
        zeros = ([0] if low >= 0 else [levels - 1]) if one_sided else range(levels)
        for zero in zeros:
            q = delta * (np.clip(np.round(x / delta) + zero, 0, levels - 1) - zero)
            score = (np.abs(q - x) ** 2.4).mean()
            if score < best:
                best, found = score, (delta, float(zero))
    return found


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_qdrop_starts_at_the_least_error_of_all_sizes_and_zero_points(bits: int) -> None:
    w = normal(3, 40) + 0.5
    quantizer = weight_quantizer("qdrop", w, bits)
    found = [quantizer.get_buffer(name).flatten().tolist() for name in ("step", "zero_point")]
    expected = [mse_observer(row, 2**bits) for row in w.numpy()]
    np.testing.assert_allclose(np.array(found).T, np.array(expected), rtol=1e-9)
    for x in (normal(300), normal(300).relu()):
        activation = activation_quantizer("qdrop", x, bits)
        pair = [float(activation.get_buffer(name)) for name in ("step", "zero_point")]
        np.testing.assert_allclose(pair, mse_observer(x.numpy(), 2**bits), rtol=1e-9)


def test_qdrop_groups_of_weights_have_grids_of_their_own() -> None:
    w = normal(2, 10)
    quantizer = weight_quantizer("qdrop", w, 2, granularity="per_group(6)")
    step = quantizer.get_buffer("step")
    for row, steps in zip(w, step, strict=True):
        for part, its in zip(row.split(6), steps.split(6), strict=True):
            scale, _ = mse_observer(part.numpy(), 4)
            np.testing.assert_allclose(its.numpy(), scale, rtol=1e-9)


def test_qdrop_zero_point_of_many_levels_is_that_of_the_whole_range() -> None:
    x = normal(300) + 0.5
    quantizer = activation_quantizer("qdrop", x, 8)
    low, high = float(x.min()), float(x.max())
    assert float(quantizer.get_buffer("zero_point")) == round(-low / (high - low) * 255)


def test_qdrop_quantizes_every_value_once_it_has_learned() -> None:
    x = normal(300)
    quantizer = activation_quantizer("qdrop", x, 2)
    assert len(quantizer(x).unique()) <= 4
    quantizer.get_buffer("step").requires_grad_()
    torch.manual_seed(0)
    kept = (quantizer(x) == x).double().mean()
    assert 0.4 < float(kept) < 0.6


def test_qdrop_learns_as_the_authors_code() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    x = torch.randn(24, 6).double()
    start = copy.deepcopy(model)
    options = {
        "iterations": 25, "lr": 0.02, "step_lr": 0.01, "regularization": 0.05, "batch_size": 8,
    }  # fmt: skip
    torch.manual_seed(5)
    handle = attach(
        model, build_method("qdrop", options), bits="2/2", layers="all_but_image", calibration=[x]
    )
    torch.manual_seed(5)
    given, fp = x, x
    for number, layer in enumerate([start[0], start[2]]):
        w, bias = (layer.get_parameter(name).detach() for name in ("weight", "bias"))
        quantizer = weight_quantizer("qdrop", w, 2)
        delta, zero = quantizer.get_buffer("step"), quantizer.get_buffer("zero_point")
        rest = w / delta - (w / delta).floor()
        alpha = quantizer.get_buffer("v").clone()  # whose last bit decides where the fraction is 0
        np.testing.assert_allclose(alpha.numpy(), -(1.2 / (rest + 0.1) - 1).log().numpy())
        alpha.requires_grad_()
        target = fp @ w.t() + bias
        target = target.relu() if number == 0 else target
        scale = torch.tensor(0.0)
        if number == 0:  # the only layer with an activation behind it
            first = activation_quantizer("qdrop", target, 2)
            scale = first.get_buffer("step").clone().requires_grad_()
        adams = [torch.optim.Adam([alpha], lr=0.02)]
        adams += [torch.optim.Adam([scale], lr=0.01)] if number == 0 else []
        cosine = [torch.optim.lr_scheduler.CosineAnnealingLR(a, 25) for a in adams[1:]]

        def weight(up: Tensor, w: Tensor = w, delta: Tensor = delta, zero: Tensor = zero) -> Tensor:
            return (closed_clamp((w / delta).floor() + up + zero, 0, 3) - zero) * delta

        def lsq(v: Tensor, scale: Tensor = scale) -> Tensor:
            factor = (v.numel() * 3) ** -0.5
            s = (scale - scale * factor).detach() + scale * factor
            code = v / s + ((v / s).round() - v / s).detach()
            return closed_clamp(code, 0, 3) * s

        for count in range(1, 26):
            chosen = torch.randint(24, (8,))
            mixed = torch.where(torch.rand_like(given[chosen]) < 0.5, given[chosen], fp[chosen])
            h = closed_clamp(alpha.sigmoid() * 1.2 - 0.1, 0, 1)
            y = mixed @ weight(h).t() + bias
            if number == 0:
                y = y.relu()
                y = torch.where(torch.rand_like(y) < 0.5, lsq(y), y)
            loss = (y - target[chosen]).square().sum(1).mean()
            if count >= 5:
                b = 2 + 18 * (1 - (count - 5) / 20)
                loss = loss + 0.05 * (1 - ((h - 0.5).abs() * 2).pow(b)).sum()
            for adam in adams:
                adam.zero_grad()
            loss.backward()
            for adam in adams:
                adam.step()
            for each in cosine:
                each.step()
        found = handle.layers[number].weight_quantizer
        assert found is not None
        np.testing.assert_allclose(found.get_buffer("v").numpy(), alpha.detach().numpy(), atol=1e-6)
        with torch.no_grad():
            given = given @ weight((alpha >= 0).double()).t() + bias
            given, fp = lsq(given.relu()), target
        if number == 0:
            place = handle.places[0].activation_quantizer
            assert place is not None
            assert float(place.get_buffer("step")) == pytest.approx(float(scale), rel=1e-6)

"""AdaRound: adaptive rounding (Nagel et al., ICML 2020, arXiv:2004.10568), Eq. 21 to 25."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.quant.options import build_method, determining_options
from tests.helpers.quantizers import first_weight_quantizer, weight_quantizer
from tests.helpers.tensors import SHAPE, normal


def test_adaround_starts_from_the_float_weight() -> None:
    w = 0.1 * normal(*SHAPE)
    quantizer = weight_quantizer("adaround", w, 4)
    step, v = quantizer.get_buffer("step"), quantizer.get_buffer("v")
    ratio = (w / step).numpy()
    h = np.clip(1.2 / (1 + np.exp(-v.numpy())) - 0.1, 0, 1)
    np.testing.assert_allclose(np.floor(ratio) + h, ratio, atol=1e-5)
    np.testing.assert_allclose(quantizer.h(v).numpy(), h, atol=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("size", [9, 10])
def test_adaround_step_of_a_group_is_that_of_the_group_alone(size: int) -> None:
    w = normal(*SHAPE)
    found = weight_quantizer("adaround", w, 3, granularity=f"per_group({size})")
    steps = found.get_buffer("step").view(6, 36)
    for row, of_row in zip(w.view(6, 36), steps, strict=True):
        for group, step in zip(row.split(size), of_row.split(size), strict=True):
            alone = weight_quantizer("adaround", group.view(1, -1), 3)
            assert (step == float(alone.get_buffer("step"))).all()


def test_adaround_granularity_is_part_of_a_key_only_if_it_is_given() -> None:
    assert "granularity" not in determining_options(build_method("adaround", {}))
    per_filter = build_method("adaround", {"granularity": "per_channel"})
    assert determining_options(per_filter)["granularity"] == "per_channel"


def test_adaround_rounds_every_weight_up_or_down_and_serves_the_output_better() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(16, 16)
    x = torch.randn(256, 16) @ mixing  # correlated inputs: where nearest rounding is not best
    model = nn.Sequential(nn.Linear(16, 8))
    w = model.get_parameter("0.weight").detach().clone()
    target = model(x).detach()
    options = {"iterations": 600, "lr": 0.01}
    method = build_method("adaround", options)
    handle = attach(model, method, bits="3/32", layers="all", calibration=[x])
    quantizer = first_weight_quantizer(handle)
    step = quantizer.get_buffer("step")
    hard = handle.harden().get_parameter("0.weight").detach()
    codes = (hard / step).numpy()
    np.testing.assert_allclose(codes, codes.round(), atol=1e-4)
    ratio = (w / step).numpy()
    low, high = np.clip(np.floor(ratio), -4, 3), np.clip(np.floor(ratio) + 1, -4, 3)
    assert ((np.abs(codes - low) < 1e-3) | (np.abs(codes - high) < 1e-3)).all()
    nearest = step * (w / step).round().clamp(-4, 3)
    bias = model.get_parameter("0.bias").detach()
    errors = [float((x @ q.t() + bias - target).square().mean()) for q in (hard, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_adaround_step_is_that_of_least_squared_error() -> None:
    w = normal(*SHAPE)
    v = w.numpy()
    top = np.abs(v).max()

    def error(s: float) -> float:
        return float(((s * np.clip(np.round(v / s), -4, 3) - v) ** 2).sum())

    found = float(weight_quantizer("adaround", w, 3).get_buffer("step"))
    fine = min(error(c * top / 3) for c in np.arange(0.21, 1.0, 0.0005))
    assert error(found) <= fine * (1 + 1e-4)


def test_adaround_rounds_to_nearest_until_it_has_learnt() -> None:
    w = normal(*SHAPE)
    quantizer = weight_quantizer("adaround", w, 3)
    ratio = w.numpy() / float(quantizer.get_buffer("step"))
    away = np.abs(np.abs(ratio - np.floor(ratio)) - 0.5) > 1e-6
    found = quantizer(w).numpy() / float(quantizer.get_buffer("step"))
    np.testing.assert_allclose(found[away], np.clip(np.round(ratio), -4, 3)[away], atol=1e-9)


def learned(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the V that AdaRound learns in twelve iterations."""
    torch.manual_seed(5)
    options = {"iterations": 12, "lr": 0.05, "batch_size": 4, "regularization": 0.3}
    method = build_method("adaround", options)
    handle = attach(nn.Sequential(layer), method, bits="3/32", layers="all", calibration=[x])
    return first_weight_quantizer(handle).get_buffer("v")


@pytest.mark.parametrize("kind", ["conv", "linear", "tokens"])
def test_adaround_learns_by_the_loss_of_aimet(kind: str) -> None:
    """The squared error summed over channels and averaged over the rest, β along a half cosine."""
    torch.manual_seed(0)
    if kind == "conv":
        layer: nn.Module = nn.Conv2d(2, 3, 3, bias=False)
        x = torch.randn(8, 2, 6, 5)
    else:
        layer = nn.Linear(5, 3, bias=False)
        x = torch.randn(8, 5) if kind == "linear" else torch.randn(8, 7, 5)
    layer, x = layer.double(), x.double()
    w = layer.get_parameter("weight").detach().clone()

    def outputs(weight: Tensor, images: Tensor) -> Tensor:
        """Outputs with the channels last."""
        if kind != "conv":
            return images @ weight.t()
        patches = nn.functional.unfold(images, 3)
        return (weight.flatten(1) @ patches).transpose(1, 2)

    quantizer = weight_quantizer("adaround", w, 3)
    step, v = quantizer.get_buffer("step"), quantizer.get_buffer("v").clone().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=0.05)
    torch.manual_seed(5)
    for iteration in range(12):
        chosen = torch.randint(8, (4,))
        h = torch.minimum(torch.maximum(1.2 * v.sigmoid() - 0.1, v.new_zeros(())), v.new_ones(()))
        soft = step * ((w / step).floor() + h).clamp(-4, 3)
        error = outputs(soft, x[chosen]) - outputs(w, x[chosen])
        loss = error.square().sum(-1).mean()
        if iteration >= 2:
            beta = 2 + 18 * (1 + np.cos(np.pi * (iteration - 2) / 10)) / 2
            loss = loss + 0.3 * (1 - (2 * h - 1).abs() ** beta).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = learned(layer, x)
    np.testing.assert_allclose(found.numpy(), v.detach().numpy(), atol=1e-6)


def test_adaround_does_not_depend_on_how_many_positions_show_the_same() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 3, 1).double(), torch.randn(8, 4, 1, 1).double()
    once, often = (learned(copy.deepcopy(layer), each) for each in (x, x.expand(8, 4, 6, 6)))
    np.testing.assert_allclose(often.numpy(), once.numpy(), atol=1e-9)


def undecided_share(lam: float) -> float:
    """Return the share of a layer's h that is between 0 and 1 after training with weight λ."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    x = torch.randn(64, 8) @ torch.randn(8, 8)
    options = {"iterations": 300, "lr": 0.03, "regularization": lam}
    method = build_method("adaround", options)
    handle = attach(model, method, bits="3/32", layers="all", calibration=[x])
    quantizer = first_weight_quantizer(handle)
    h = np.clip(1.2 / (1 + np.exp(-quantizer.get_buffer("v").numpy())) - 0.1, 0, 1)
    return float(((h > 0.02) & (h < 0.98)).mean())


def test_adaround_regulariser_leaves_no_weight_between_two_codes() -> None:
    assert undecided_share(0.0) > 0.5
    assert undecided_share(1.0) < 0.05


def adaround_and_all_roundings(
    model: nn.Sequential, bits: str, x: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return the last layer's weight after AdaRound, and every way to round it."""
    w = list(model.parameters())[-1].detach().clone()
    options = {"iterations": 1000, "lr": 0.01, "regularization": 0.001, "batch_size": 256}
    method = build_method("adaround", options)
    handle = attach(model, method, bits=bits, layers="all", calibration=[x])
    quantizer = handle.layers[-1].weight_quantizer
    assert quantizer is not None
    step = quantizer.get_buffer("step")
    floor = (w / step).floor()
    ups = torch.tensor(list(itertools.product((0.0, 1.0), repeat=w.numel())))
    ways = [step * (floor + up.view(w.shape)).clamp(-4, 3) for up in ups]
    return step * (quantizer(w) / step).round(), ways


def mean_squared_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


@torch.no_grad()
def output_errors(ways: list[Tensor], x: Tensor, target: Tensor) -> list[float]:
    """Return how far the output of each weight is from the target."""
    return [mean_squared_error(x @ way.t(), target) for way in ways]


@pytest.mark.parametrize("seed", [2, 3])
def test_adaround_serves_the_float_networks_output_on_inputs_already_quantized(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(256, 5) @ torch.randn(5, 5)
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 1, bias=False))
    with torch.no_grad():
        middle, target = model[0](x), model(x)
    found, ways = adaround_and_all_roundings(model, "3/32", x)
    with torch.no_grad():
        given = model[0](x)  # by the first layer, quantized
    errors = output_errors(ways, given, target)
    assert mean_squared_error(given @ found.t(), target) == pytest.approx(min(errors), rel=1e-3)
    apart = output_errors(ways, middle, target)  # rounding each layer for itself is worse
    assert errors[int(np.argmin(apart))] > 1.2 * min(errors)


@pytest.mark.parametrize("seed", [3, 4])
def test_adaround_serves_the_output_of_inputs_that_are_not_quantized(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(256, 5) @ torch.randn(5, 5)
    model = nn.Sequential(nn.Linear(5, 1, bias=False))
    with torch.no_grad():
        target = model(x)
    found, ways = adaround_and_all_roundings(model, "3/2", x)
    seen: list[Tensor] = []
    hook = model[0].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    errors = output_errors(ways, seen[0], target)
    assert mean_squared_error(seen[0] @ found.t(), target) == pytest.approx(min(errors), rel=1e-3)


def test_adaround_learns_for_a_weight_that_a_parametrization_computes() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 8) @ torch.randn(8, 8)
    found = []
    for iterations in (1, 300):
        torch.manual_seed(1)
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
        method = build_method("adaround", {"iterations": iterations, "lr": 0.03})
        handle = attach(model, method, bits="3/32", layers="all", calibration=[x])
        found.append(first_weight_quantizer(handle).get_buffer("v"))
    assert (found[0] - found[1]).abs().max() > 0.1


class CrossAttention(nn.Module):
    """Attention of five positions to three others, between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.first(x)
        keys = queries[:, :3]
        out: Tensor = self.last(self.attention(queries, keys, keys)[0])
        return out


@pytest.mark.parametrize("bits", ["2/32", "2/2"])
def test_adaround_refuses_a_layer_that_is_called_with_several_shapes(bits: str) -> None:
    x, method = [torch.randn(16, 5, 8)], build_method("adaround", {"iterations": 2})
    with pytest.raises(QbenchError, match=r"'attention.in_proj' is called with inputs of several"):
        attach(CrossAttention(), method, bits=bits, calibration=x)
    others = ["*", "!attention.in_proj"]
    handle = attach(CrossAttention(), method, bits=bits, layers=others, calibration=x)
    assert handle.harden()(x[0]).isfinite().all()

"""BRECQ (Li et al., ICLR 2021, arXiv:2102.05426)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.models.tiny import ResidualBlock
from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from tests.helpers.gradients import closed_clamp
from tests.helpers.quantizers import (
    activation_quantizer,
    quantized_weight,
    used_weight,
    weight_quantizer,
)
from tests.helpers.tensors import Array, normal


def factors(row: Array, levels: int) -> tuple[float, float, float]:
    """Return step, zero point and error of `init_quantization_scale` of the authors."""
    found = (np.inf, 0.0, 0.0)
    for i in range(80):
        low, high = (min(row.min(), 0) * (1 - i / 100), max(row.max(), 0) * (1 - i / 100))
        delta = (high - low) / (levels - 1)
        zero = np.round(-low / delta)
        q = delta * (np.clip(np.round(row / delta) + zero, 0, levels - 1) - zero)
        found = min(found, (float((np.abs(q - row) ** 2.4).sum()), delta, zero))
    return found[1], found[2], found[0]


@pytest.mark.parametrize("bits", [2, 4])
def test_brecq_starts_at_the_range_of_least_error_of_each_filter(bits: int) -> None:
    w = normal(4, 60) + 0.2
    quantizer = weight_quantizer("brecq", w, bits)
    steps, zeros = (quantizer.get_buffer(n).flatten().numpy() for n in ("step", "zero_point"))
    for row, step, zero in zip(w.numpy(), steps, zeros, strict=True):
        _, its_zero, least = factors(row, 2**bits)
        assert zero == its_zero
        q = step * (np.clip(np.round(row / step) + zero, 0, 2**bits - 1) - zero)
        assert (np.abs(q - row) ** 2.4).sum() <= least * (1 + 1e-9)


def test_brecq_starts_from_the_float_weight_and_rounds_to_nearest() -> None:
    w = normal(4, 30)
    quantizer = weight_quantizer("brecq", w, 4)
    step, zero = quantizer.get_buffer("step").numpy(), quantizer.get_buffer("zero_point").numpy()
    low, high = -zero * step, (15 - zero) * step
    v = quantizer.get_buffer("v").requires_grad_()
    np.testing.assert_allclose(quantizer(w).detach().numpy(), np.clip(w.numpy(), low, high))
    v.requires_grad_(False)
    near = step * np.clip(np.floor(w.numpy() / step + 0.5), -zero, 15 - zero)
    np.testing.assert_allclose(quantizer(w).numpy(), near)


def test_brecq_gradient_of_a_step_is_the_authors() -> None:
    x = normal(200)
    quantizer = activation_quantizer("brecq", x, 3)
    zero = float(quantizer.get_buffer("zero_point"))
    step = quantizer.get_buffer("step").requires_grad_()
    g = normal(200, seed=1)
    (quantizer(x) * g).sum().backward()
    v = x.numpy() / step.detach().numpy()
    code = np.round(v)
    inside = (code >= -zero) & (code <= 7 - zero)
    slope = np.where(inside, code - v, np.clip(code, -zero, 7 - zero))
    assert step.grad is not None
    np.testing.assert_allclose(float(step.grad), (g.numpy() * slope).sum(), rtol=1e-9)


class Authors:
    """The quantizers and the loop of the authors for a chain of linear layers and ReLUs.

    Written from `block_recon.py`, `adaptive_rounding.py` and `quant_layer.py`.
    """

    def __init__(self, layers: list[nn.Linear], bits: int) -> None:
        self.weights = [layer.weight.detach().clone() for layer in layers]
        self.biases = [layer.bias.detach().clone() for layer in layers]
        self.levels = 2**bits
        quantizers = [weight_quantizer("brecq", w, bits) for w in self.weights]
        self.deltas = [q.get_buffer("step") for q in quantizers]
        self.zeros = [q.get_buffer("zero_point") for q in quantizers]
        self.alphas = []
        for w, delta in zip(self.weights, self.deltas, strict=True):
            rest = w / delta - (w / delta).floor()
            self.alphas.append((-(1.2 / (rest + 0.1) - 1).log()).requires_grad_())

    def weight(self, i: int, soft: bool) -> Tensor:
        h = closed_clamp(self.alphas[i].sigmoid() * 1.2 - 0.1, 0, 1)
        up = h if soft else (self.alphas[i] >= 0).double()
        code = (self.weights[i] / self.deltas[i]).floor() + up + self.zeros[i]
        return (closed_clamp(code, 0, self.levels - 1) - self.zeros[i]) * self.deltas[i]

    def regularization(self, count: int, iters: int) -> Tensor | float:
        start = 0.2 * iters
        if count < start:
            return 0
        b = 2 + 18 * max(0.0, 1 - (count - start) / (iters - start))
        return sum(
            (1 - ((closed_clamp(a.sigmoid() * 1.2 - 0.1, 0, 1) - 0.5).abs() * 2).pow(b)).sum()
            for a in self.alphas
        )


class Residual(nn.Module):
    """Two linear layers and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.second(self.relu(self.first(x)))
        return y


def test_brecq_learns_to_round_as_the_authors_code() -> None:
    torch.manual_seed(0)
    block, x = Residual().double(), torch.randn(24, 5, 6).double()
    theirs = Authors([block.first, block.second], 2)
    with torch.no_grad():
        target = block(x)
    options = {"iterations": 30, "lr": 0.02, "regularization": 0.05, "batch_size": 8}
    torch.manual_seed(5)
    handle = attach(
        nn.Sequential(block), build_method("brecq", options), bits="2/32", layers="all",
        calibration=[x],
    )  # fmt: skip
    torch.manual_seed(5)
    optimizer = torch.optim.Adam(theirs.alphas, lr=0.02)
    for count in range(1, 31):
        chosen = torch.randperm(24)[:8]
        a, b = (theirs.weight(i, True) for i in (0, 1))
        y = x[chosen] + (x[chosen] @ a.t() + theirs.biases[0]).relu() @ b.t() + theirs.biases[1]
        loss = (y - target[chosen]).square().sum(-1).mean()
        loss = loss + 0.05 * theirs.regularization(count, 30)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for i, layer in enumerate(handle.layers):
        assert layer.weight_quantizer is not None
        v = layer.weight_quantizer.get_buffer("v")
        assert not v.requires_grad
        np.testing.assert_allclose(v.numpy(), theirs.alphas[i].detach().numpy(), atol=1e-7)
        found = layer.module.weight
        assert isinstance(found, Tensor)
        expected = theirs.weight(i, False).detach()
        np.testing.assert_allclose(found.detach().numpy(), expected.numpy(), atol=1e-9)


def test_brecq_learns_the_steps_of_activations_as_the_authors_code() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).double()
    x = torch.randn(24, 6).double()
    float_model = copy.deepcopy(model)
    options = {"iterations": 1, "lr": 1e-9, "step_iterations": 20, "step_lr": 0.01, "batch_size": 8}
    start = attach(
        copy.deepcopy(model), build_method("brecq", {**options, "step_iterations": 0}),
        bits="3/3", layers=["0", "2"], calibration=[x],
    )  # fmt: skip
    torch.manual_seed(5)
    handle = attach(
        model, build_method("brecq", options), bits="3/3", layers=["0", "2"], calibration=[x]
    )
    torch.manual_seed(5)
    for _ in range(2):  # the draws for the weights
        torch.randperm(24)
    names = [place.name for place in handle.places]
    assert names == ["0", "1"], "the input of the first layer, and behind the ReLU"
    first = [learned_steps(start, place) for place in (0, 1)]
    s = [torch.tensor(float(step)).double().requires_grad_() for step, _ in first]
    optimizer = torch.optim.Adam(s, lr=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    w, bias = used_weight(start).detach(), float_model[0].get_parameter("bias").detach()
    with torch.no_grad():
        target = float_model[0](x).relu()

    def quantize(v: Tensor, i: int) -> Tensor:
        zero, ratio = first[i][1], v / s[i]
        code = ratio + (ratio.round() - ratio).detach()
        return (closed_clamp(code + zero, 0, 7) - zero) * s[i]

    for _ in range(20):
        chosen = torch.randperm(24)[:8]
        y = quantize((quantize(x[chosen], 0) @ w.t() + bias).relu(), 1)
        loss = (y - target[chosen]).abs().pow(2.4).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
    for i in (0, 1):
        found, _ = learned_steps(handle, i)
        assert found == pytest.approx(float(s[i].detach()), rel=1e-6)
        assert found != pytest.approx(float(first[i][0]), rel=1e-3)


def learned_steps(handle: Handle, place: int) -> tuple[float, float]:
    quantizer = handle.places[place].activation_quantizer
    assert quantizer is not None
    return tuple(float(quantizer.get_buffer(n)) for n in ("step", "zero_point"))  # type: ignore[return-value]


def test_brecq_serves_the_output_of_a_block_better_than_rounding_to_nearest() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(ResidualBlock(4, 4, 1)), torch.randn(64, 4, 6, 6)
    model(x)  # for the statistics of its normalizations
    model.eval()
    w = model[0].body[0].weight.detach().clone()  # type: ignore[union-attr, index]
    with torch.no_grad():
        target = model(x)
    errors = []
    for iterations, lr in ((1, 1e-9), (300, 0.01)):
        options = {"iterations": iterations, "lr": lr}
        method = build_method("brecq", options)
        handle = attach(copy.deepcopy(model), method, bits="2/32", layers="all", calibration=[x])
        with torch.no_grad():
            errors.append(float((handle.harden()(x) - target).square().mean()))
    assert errors[1] < 0.8 * errors[0]
    nearest = quantized_weight("brecq", w.double(), 2)
    assert len(np.unique(nearest[0].round(9))) <= 4


@pytest.mark.parametrize("name", ["brecq", "qdrop"])
def test_reconstruction_needs_calibration_data(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} learns from calibration data"):
        attach(nn.Sequential(nn.Linear(4, 4)), name, bits="2/32", layers="all")

"""RepQ-ViT (Li et al., ICCV 2023, arXiv:2212.08254)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.method import BitWidth, Layer, Place
from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.hooks import bypassed
from qbench.quant.options import build_method
from tests.helpers.quantizers import activation_quantizer, output_of, weight_quantizer
from tests.helpers.tensors import Array, normal
from tests.helpers.transformers import tiny_swin, tiny_vit

SHARES = (0.999, 0.9999, 0.99999)


def uniform(x: Array, levels: int) -> tuple[float, float]:
    """Return delta and zero point of `UniformQuantizer` of the authors."""
    best, found = np.inf, (0.0, 0.0)
    for share in SHARES:
        high, low = np.quantile(x, share), np.quantile(x, 1 - share)
        delta = (high - low) / (levels - 1)
        zero = np.round(-low / delta)
        q = (np.clip(np.round(x / delta) + zero, 0, levels - 1) - zero) * delta
        if (score := ((q - x) ** 2).mean()) < best:
            best, found = score, (float(delta), float(zero))
    return found


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rep_q_vit_ranges_are_the_percentiles_of_the_authors(bits: int) -> None:
    w, x = normal(3, 3000) + 0.3, normal(5000).pow(3) + 2
    quantizer = weight_quantizer("rep_q_vit", w, bits)
    found = [quantizer.get_buffer(name).flatten().tolist() for name in ("step", "zero_point")]
    expected = [uniform(row, 2**bits) for row in w.numpy()]
    np.testing.assert_allclose(np.array(found).T, np.array(expected), rtol=1e-9)
    activation = activation_quantizer("rep_q_vit", x, bits)
    delta, zero = uniform(x.numpy(), 2**bits)
    q = (np.clip(np.round(x.numpy() / delta) + zero, 0, 2**bits - 1) - zero) * delta
    np.testing.assert_allclose(output_of(activation, x), q, rtol=1e-9, atol=1e-12)


def test_rep_q_vit_keeps_a_range_of_one_value() -> None:
    for value in (0.0, -0.7, 3.0):
        w = torch.full((2, 5), value).double()
        np.testing.assert_allclose(weight_quantizer("rep_q_vit", w, 3)(w).numpy(), w.numpy())


def log_sqrt2(x: Array, delta: float, levels: int) -> Array:
    """Quantize as `LogSqrt2Quantizer` of the authors, but with the last code for 0."""
    with np.errstate(divide="ignore"):
        code = np.round(-np.log2(x / delta) * 2)
    zero = code >= levels - 1
    code = np.clip(code, 0, levels - 1)
    odd = (code % 2) * (np.sqrt(2) - 1) + 1
    return np.asarray(np.where(zero, 0, 2 ** (-np.ceil(code / 2)) * odd * delta))


@pytest.mark.parametrize("bits", [2, 4])
def test_rep_q_vit_rounds_a_softmax_to_powers_of_the_root_of_two(bits: int) -> None:
    full, width = BitWidth(32), BitWidth(bits)
    place = Place("attention.softmax", nn.Identity(), full, width, kind="attention")
    x = (5 * normal(40, 60)).softmax(-1)
    x[0, 0] = 0
    quantizer = build_method("rep_q_vit", {}).activation_quantizer(place, x)
    assert quantizer is not None
    v, levels = x.numpy(), 2**bits
    deltas = [np.quantile(v, share) for share in SHARES]
    tried = [log_sqrt2(v, delta, levels) for delta in deltas]
    best = min(tried, key=lambda q: float(((q - v) ** 2).mean()))
    found = output_of(quantizer, x)
    np.testing.assert_allclose(found, best, rtol=1e-9)
    assert len(np.unique(found.round(12))) == levels
    assert not found[0, 0].any()


def attached(model: nn.Module, x: Tensor, bits: str, **options: Any) -> Handle:
    return attach(
        model.eval(), build_method("rep_q_vit", options), bits=bits, layers="all", calibration=[x]
    )


@pytest.mark.parametrize(("make", "size"), [(tiny_vit, 8), (tiny_swin, 16)])
@pytest.mark.parametrize("bits", ["4/4", "32/4"])
def test_rep_q_vit_changes_nothing_at_full_precision(make: Any, size: int, bits: str) -> None:
    model, x = make(), torch.randn(4, 3, size, size)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.copy_(torch.linspace(0.1, 4, module.weight.numel()))
        before = model.eval()(x)
    norms = {
        name: p.clone() for name, p in model.named_parameters() if "norm1" in name or "ln_1" in name
    }
    handle = attached(model, x, bits)
    with torch.no_grad(), bypassed([*handle.layers, *handle.places]):
        torch.testing.assert_close(handle.model(x), before, atol=2e-5, rtol=1e-4)
    parameters = dict(handle.model.named_parameters())
    assert norms
    assert all(not torch.equal(parameters[name], old) for name, old in norms.items())


def test_rep_q_vit_shares_a_range_by_the_formulas_of_the_authors() -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(6), nn.Linear(6, 4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0, 9.0]))
        norm.bias.normal_()
    model = nn.Sequential(norm, linear).double()
    x = torch.randn(40, 3, 6).double()
    before = copy.deepcopy(model)
    handle = attached(model, x, "4/4")
    with torch.no_grad():
        y = before[0](x).flatten(0, 1).numpy()
    pairs = [uniform(channel, 16) for channel in y.T]
    s, z = (np.array(each) for each in zip(*pairs, strict=True))
    target_s, target_z = s.mean(), np.round(z.mean())
    r = s / target_s
    b = -z * s / r - -target_z * target_s
    gamma, beta = (p.detach().numpy() for p in before[0].parameters())
    np.testing.assert_allclose(norm.weight.detach().numpy(), gamma / r)
    np.testing.assert_allclose(norm.bias.detach().numpy(), beta / r - b)
    w, bias = (p.detach().numpy() for p in before[1].parameters())
    layer: Layer = handle.layers[0]
    np.testing.assert_allclose(layer.latent_weight.detach().numpy(), w * r)
    assert linear.bias is not None
    np.testing.assert_allclose(linear.bias.detach().numpy(), bias + (w * r) @ b)
    assert layer.activation_quantizer is not None
    assert layer.weight_quantizer is not None
    assert float(layer.activation_quantizer.get_buffer("step")) == pytest.approx(target_s)
    assert float(layer.activation_quantizer.get_buffer("zero_point")) == target_z
    rows = [uniform(row, 16) for row in w * r]
    found = layer.weight_quantizer.get_buffer("step").flatten().numpy()
    np.testing.assert_allclose(found, [delta for delta, _ in rows])


def test_rep_q_vit_leaves_a_normalization_alone_that_others_read() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            out: Tensor = self.layer(y) + y
            return out

    torch.manual_seed(0)
    model, x = Both(), torch.randn(20, 6)
    attached(model, x, "4/4")
    assert torch.equal(model.norm.weight, torch.ones(6))


def test_rep_q_vit_serves_uneven_channels_better_than_a_range_for_all() -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(16), nn.Linear(16, 8)
    with torch.no_grad():
        norm.weight.copy_(torch.logspace(-1, 1, 16))
    model, x = nn.Sequential(norm, linear), torch.randn(256, 16)
    with torch.no_grad():
        target = model(x)
        model_with, without = copy.deepcopy(model), copy.deepcopy(model)
        with_norm = attached(model_with, x, "8/4").model(x)
        alone = nn.Sequential(without[0], nn.Identity(), without[1])
        alone[1].register_forward_hook(lambda m, a, y: y + 0)
        handle = attach(
            without[1], build_method("rep_q_vit", {}), bits="8/4", layers="all",
            calibration=[without[0](x)],
        )  # fmt: skip
        for_all = handle.model(without[0](x))
    errors = [float((y - target).square().mean()) for y in (with_norm, for_all)]
    assert errors[0] < 0.7 * errors[1]

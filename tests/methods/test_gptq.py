"""GPTQ (Frantar et al., ICLR 2023, arXiv:2210.17323)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.quant.attach import attach
from qbench.quant.options import build_method
from tests.helpers.quantizers import quantized_weight, used_weight
from tests.helpers.tensors import Array, normal


def affine(row: Array, bits: int) -> tuple[float, float]:
    """Return scale and zero point of `quant.py` of the authors, asymmetric and per row."""
    low, high = min(row.min(), 0), max(row.max(), 0)
    scale = (high - low) / (2**bits - 1)
    return float(scale), float(np.round(-low / scale))


def fasterquant(w: Array, x: Array, images: int, bits: int, act_order: bool = False) -> Array:
    """Round as `gptq.py` of the authors does, in blocks of four columns."""
    w, block = w.copy(), 4
    grids = [affine(row, bits) for row in w]
    scale, zero = (np.array(each) for each in zip(*grids, strict=True))
    h = 2 / images * x @ x.T
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(len(h))
    w, h = w[:, order], h[order][:, order]
    h += 0.01 * np.diag(h).mean() * np.eye(len(h))
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    q = np.zeros_like(w)
    for start in range(0, len(h), block):
        stop = min(start + block, len(h))
        errors = np.zeros((len(w), stop - start))
        for i in range(start, stop):
            code = np.clip(np.round(w[:, i] / scale) + zero, 0, 2**bits - 1)
            q[:, i] = scale * (code - zero)
            errors[:, i - start] = (w[:, i] - q[:, i]) / upper[i, i]
            w[:, i:stop] -= np.outer(errors[:, i - start], upper[i, i:stop])
        w[:, stop:] -= errors @ upper[start:stop, stop:]
    return q[:, np.argsort(order)]


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_gptq_rounds_as_the_authors_code(kind: str, bits: int, act_order: bool) -> None:
    torch.manual_seed(0)
    if kind == "conv":
        layer: nn.Module = nn.Conv2d(3, 5, 3, padding=1).double()
        x = torch.randn(9, 3, 6, 7).cumsum(1).double()
        columns = nn.Unfold(3, padding=1)(x).permute(1, 0, 2).flatten(1).numpy()
    else:
        layer, x = nn.Linear(12, 6).double(), torch.randn(8, 7, 12).cumsum(-1).double()
        columns = x.reshape(-1, 12).t().numpy()
    w = layer.get_parameter("weight").detach().flatten(1).numpy().copy()
    method = build_method("gptq", {"act_order": act_order})
    handle = attach(nn.Sequential(layer), method, bits=f"{bits}/32", layers="all", calibration=[x])
    found = used_weight(handle).detach().flatten(1).numpy()
    expected = fasterquant(w, columns, len(x), bits, act_order)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    nearest = quantized_weight("gptq", torch.from_numpy(w), bits)
    errors = [float(np.square((v - w) @ columns).sum()) for v in (found, nearest)]
    assert errors[0] < 0.8 * errors[1]


def test_gptq_mse_has_the_least_error_of_the_80_factors_of_the_authors() -> None:
    w = normal(4, 60) + 0.3
    found = quantized_weight("gptq", w, 3, mse=True)
    for row, got in zip(w.numpy(), found, strict=True):
        errors = []
        for i in range(80):
            scale, zero = affine(row * (1 - i / 100), 3)
            q = scale * (np.clip(np.round(row / scale) + zero, 0, 7) - zero)
            errors.append((np.abs(q - row) ** 2.4).sum())
        assert (np.abs(got - row) ** 2.4).sum() <= min(errors) * (1 + 1e-9)


def test_gptq_learns_from_inputs_that_the_layers_before_have_quantized() -> None:
    torch.manual_seed(0)
    x, first, second = torch.randn(64, 6).double(), nn.Linear(6, 6), nn.Linear(6, 3)
    model = nn.Sequential(first, second).double()
    w = second.weight.detach().clone()
    attach(model, "gptq", bits="2/32", layers="all", calibration=[x])
    with torch.no_grad():
        seen = first(x)
    expected = fasterquant(w.numpy(), seen.t().numpy(), len(seen), 2)
    np.testing.assert_allclose(second.weight.detach().numpy(), expected, atol=1e-9)

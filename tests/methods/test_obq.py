"""OBQ (Frantar et al., NeurIPS 2022, arXiv:2208.11580)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.quant.attach import attach
from qbench.quant.options import build_method
from tests.helpers.quantizers import first_weight_quantizer, quantized_weight, used_weight
from tests.helpers.tensors import Array, normal


def fitted(layer: nn.Module, x: Tensor, bits: str, **options: Any) -> Array:
    """Return the weight of a layer as OBQ rounds it."""
    handle = attach(
        nn.Sequential(layer), build_method("obq", options), bits=bits, layers="all", calibration=[x]
    )
    found: Array = used_weight(handle).detach().numpy()
    return found


def patches_of(layer: nn.Module, x: Tensor) -> Array:
    """Return what each output reads, (columns, outputs)."""
    if isinstance(layer, nn.Linear):
        rows: Array = x.reshape(-1, x.shape[-1]).t().numpy()
        return rows
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer.padding, tuple)
    unfold = nn.Unfold(layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    columns: Array = unfold(x).permute(1, 0, 2).flatten(1).numpy()
    return columns


def trueobs(w: Array, h: Array, steps: Array, bits: int) -> Array:
    """Round each row as `trueobs.py` of the authors does, with dense inverse matrices."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    rounded = np.zeros_like(w)
    for row in range(len(w)):
        v, inverse, step = w[row].copy(), np.linalg.inv(h), steps[row]
        left = np.ones(len(v), dtype=bool)
        for _ in v:
            q = step * np.clip(np.round(v / step), low, high)
            error = np.where(left, (v - q) ** 2, 0)
            scores = np.where(left, error / np.where(left, np.diag(inverse), 1), np.inf)
            j = int(scores.argmin())
            if (error > step**2 / 4).any():
                j = int(error.argmax())
            rounded[row, j] = q[j]
            v = v - inverse[j] * (v[j] - q[j]) / inverse[j, j]
            left[j] = False
            inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return rounded


def layer_and_input(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if kind == "conv":
        layer: nn.Module = nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=1)
        return layer.double(), torch.randn(9, 3, 8, 7).cumsum(1).double()
    return nn.Linear(12, 6).double(), torch.randn(8, 7, 12).cumsum(-1).double()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_obq_rounds_as_the_authors_code(kind: str, bits: int) -> None:
    layer, x = layer_and_input(kind)
    w = layer.get_parameter("weight").detach().flatten(1).numpy().copy()
    columns = patches_of(layer, x)
    h = 2 / len(x) * columns @ columns.T
    handle = attach(nn.Sequential(layer), "obq", bits=f"{bits}/32", layers="all", calibration=[x])
    steps = first_weight_quantizer(handle).get_buffer("step").flatten().numpy()
    found = used_weight(handle).detach().flatten(1).numpy()
    np.testing.assert_allclose(found, trueobs(w, h, steps, bits), atol=1e-9)
    nearest = quantized_weight("obq", torch.from_numpy(w), bits)
    errors = [float(np.square((v - w) @ columns).sum()) for v in (found, nearest)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("bits", [2, 4])
def test_obq_step_loses_least_of_the_80_factors_of_the_authors(bits: int) -> None:
    w = normal(4, 60)
    found = quantized_weight("obq", w, bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for row, got in zip(w.numpy(), found, strict=True):
        errors = []
        for i in range(80):
            step = (1 - i / 100) * 2 * np.abs(row).max() / (high - low)
            q = step * np.clip(np.round(row / step), low, high)
            errors.append((np.abs(q - row) ** 2.4).sum())
        assert (np.abs(got - row) ** 2.4).sum() <= min(errors) * (1 + 1e-9)


def test_obq_groups_of_channels_have_matrices_of_their_own() -> None:
    torch.manual_seed(0)
    whole = nn.Conv2d(4, 6, 3, groups=2, padding=1).double()
    x = torch.randn(8, 4, 6, 6).double()
    weight = whole.weight.detach().clone()
    found = fitted(whole, x, "3/32")
    for group in (0, 1):
        alone = nn.Conv2d(2, 3, 3, padding=1).double()
        with torch.no_grad():
            alone.weight.copy_(weight[3 * group :][:3])
        own = fitted(alone, x[:, 2 * group :][:, :2], "3/32")
        np.testing.assert_allclose(found[3 * group :][:3], own, atol=1e-9)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_obq_reads_the_patches_of_other_convolutions(padding: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(2, 3, 3, padding=1, padding_mode=padding).double()
    x = torch.randn(8, 2, 9).double()
    wide = nn.Conv2d(2, 3, (1, 3), padding=(0, 1), padding_mode=padding).double()
    with torch.no_grad():
        wide.weight.copy_(layer.weight[:, :, None])
    as_image = fitted(wide, x[:, :, None], "2/32")
    np.testing.assert_allclose(fitted(layer, x, "2/32"), as_image[:, :, 0], atol=1e-9)


def test_obq_weights_of_dead_inputs_become_zero() -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 6)
    x[:, 2] = 0
    assert not fitted(nn.Linear(6, 4), x, "3/32")[:, 2].any()


def test_obq_wide_filters_are_rounded_in_order() -> None:
    layer, x = layer_and_input("linear")
    other, _ = layer_and_input("linear")
    found = fitted(layer, x, "2/32", greedy_columns=11)
    assert not np.array_equal(found, fitted(other, x, "2/32", greedy_columns=12))


def test_obq_refuses_a_transposed_convolution_by_name() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(2, 2, 3))
    with pytest.raises(ValueError, match="'0' is a"):
        attach(model, "obq", bits="2/32", layers="all", calibration=[torch.randn(2, 2, 4, 4)])


def test_obq_learns_from_inputs_at_full_precision() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    found = []
    for bits in ("2/32", "2/2"):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3))
        handle = attach(model, "obq", bits=bits, layers="all", calibration=[x])
        quantizer = handle.layers[1].weight_quantizer
        assert quantizer is not None
        found.append(quantizer.get_buffer("codes"))
    assert torch.equal(*found)

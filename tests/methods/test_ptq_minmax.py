"""Post-training quantization to the whole range (Krishnamoorthi, 2018, arXiv:1806.08342)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.quantizers import activation_quantizer, quantized_weight
from tests.helpers.references import uniform_symmetric
from tests.helpers.tensors import SHAPE, normal


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_min_max_covers_each_filters_whole_range(bits: int) -> None:
    w = normal(*SHAPE)
    n = 2 ** (bits - 1) - 1
    r = np.abs(w.numpy()).max(axis=(1, 2, 3), keepdims=True)
    found = quantized_weight("ptq_minmax", w, bits)
    np.testing.assert_allclose(found, uniform_symmetric(w.numpy(), r, n), atol=1e-12)
    assert np.abs(found - w.numpy()).max() <= (r / n / 2).max() + 1e-12
    whole = quantized_weight("ptq_minmax", w, bits, scope="layer")
    np.testing.assert_allclose(whole, uniform_symmetric(w.numpy(), r.max(), n), atol=1e-12)


@pytest.mark.parametrize("name", ["ptq_minmax", "ptq_mse", "ptq_percentile"])
@pytest.mark.parametrize("size", [12, 10])
def test_groups_of_weights_are_quantized_by_themselves(name: str, size: int) -> None:
    w = normal(*SHAPE)
    found = quantized_weight(name, w, 4, scope=f"per_group({size})").reshape(6, 36)
    for row, of_row in zip(w.view(6, 36), torch.from_numpy(found), strict=True):
        for group, got in zip(row.split(size), of_row.split(size), strict=True):
            alone = quantized_weight(name, group.view(1, -1), 4)[0]
            np.testing.assert_allclose(got, alone, rtol=1e-12)


def test_min_max_inputs_are_affine_with_zero_a_level() -> None:
    x = normal(300) + 0.5
    found = activation_quantizer("ptq_minmax", x, 3)(x).numpy()
    v = x.numpy()
    s = (v.max() - v.min()) / 7
    z = np.round(-v.min() / s)
    np.testing.assert_allclose(found, s * (np.clip(np.round(v / s) + z, 0, 7) - z), atol=1e-12)
    assert float(activation_quantizer("ptq_minmax", x, 3)(torch.zeros(1).double())) == 0


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_min_max_of_its_own_levels_changes_nothing(bits: int) -> None:
    once = quantized_weight("ptq_minmax", normal(*SHAPE), bits)
    assert max(len(np.unique(row)) for row in once) <= 2**bits - 1
    again = quantized_weight("ptq_minmax", torch.from_numpy(once), bits)
    np.testing.assert_allclose(again, once, atol=1e-12)


def test_min_max_unsigned_inputs_move_by_half_a_step_at_most_and_use_every_level() -> None:
    x = torch.linspace(0, 3, 1001, dtype=torch.float64)
    found = activation_quantizer("ptq_minmax", x, 3)(x).numpy()
    np.testing.assert_allclose(np.unique(found.round(9)), 3 / 7 * np.arange(8), atol=1e-9)
    assert np.abs(found - x.numpy()).max() <= 3 / 14 + 1e-9

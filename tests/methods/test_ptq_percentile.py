"""Post-training quantization to a percentile (McKinstry et al., 2018, arXiv:1809.04191)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.quantizers import activation_quantizer, quantized_weight
from tests.helpers.tensors import normal


@pytest.mark.parametrize("percentile", [90.0, 99.0, 100.0])
def test_a_percentile_leaves_out_that_share_of_the_weights(percentile: float) -> None:
    w = normal(2, 1000)
    found = np.abs(quantized_weight("ptq_percentile", w, 8, percentile=percentile))
    sizes = np.sort(np.abs(w.numpy()), axis=1)
    kept = int(np.ceil(1000 * percentile / 100))
    np.testing.assert_allclose(found.max(axis=1), sizes[:, kept - 1], rtol=1e-12)
    if percentile == 100:
        np.testing.assert_array_equal(found, np.abs(quantized_weight("ptq_minmax", w, 8)))


def test_a_larger_percentile_covers_a_larger_range() -> None:
    x = normal(1000).abs()
    tops = [
        float(
            activation_quantizer("ptq_percentile", x, 4, percentile=p)(torch.tensor([1e9]).double())
        )
        for p in (50.0, 90.0, 99.0, 100.0)
    ]
    assert tops == sorted(tops)
    assert tops[-1] == pytest.approx(float(x.max()))


def test_a_percentile_clips_both_ends_of_signed_inputs() -> None:
    x = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    x[0], x[-1] = -40, 25
    found = activation_quantizer("ptq_percentile", x, 8, percentile=99.0)(x).numpy()
    reach = np.sort(np.abs(x.numpy()))[989]  # 990 of 1000 sizes lie within
    s = 2 * reach / 255
    assert np.abs(found).max() <= reach + s
    inside = np.abs(x.numpy()) < reach
    assert np.abs(found - x.numpy())[inside].max() <= s * (1 + 1e-9)
    spread = activation_quantizer("ptq_minmax", x, 8)(x).numpy()
    assert np.abs(found - x.numpy())[inside].max() < 0.1 * np.abs(spread - x.numpy())[inside].max()

"""Post-training quantization to the range of least error (as in BRECQ, arXiv:2102.05426)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.quantizers import activation_quantizer, quantized_weight
from tests.helpers.references import uniform_symmetric
from tests.helpers.tensors import normal


@pytest.mark.parametrize("power", [2.0, 2.4])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_mse_range_loses_least_of_those_tried(bits: int, power: float) -> None:
    w = normal(3, 500)
    n = 2 ** (bits - 1) - 1
    found = quantized_weight("ptq_mse", w, bits, power=power)
    for row, got in zip(w.numpy(), found, strict=True):
        top = np.abs(row).max()
        tried = [uniform_symmetric(row, (1 - 0.01 * i) * top, n) for i in range(80)]
        errors = [(np.abs(q - row) ** power).sum() for q in tried]
        np.testing.assert_allclose(got, tried[int(np.argmin(errors))], atol=1e-12)


def test_the_mse_range_of_inputs_loses_no_more_than_the_whole() -> None:
    x = normal(2000).abs()
    errors = [
        float((activation_quantizer(name, x, 2)(x) - x).abs().pow(2.4).sum())
        for name in ("ptq_mse", "ptq_minmax")
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("power", [2.0, 2.4])
@pytest.mark.parametrize("shift", [0.0, 0.7, 10.0])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_mse_range_of_inputs_loses_least_of_those_tried(
    bits: int, shift: float, power: float
) -> None:
    x = normal(600) + shift if shift else normal(600).abs()
    v, n = x.numpy(), 2**bits - 1
    tried = []
    for i in range(80):
        low = min((1 - 0.01 * i) * v.min(), 0)
        s = ((1 - 0.01 * i) * v.max() - low) / n
        z = np.round(-low / s)
        tried.append(s * (np.clip(np.round(v / s) + z, 0, n) - z))
    least = min((np.abs(q - v) ** power).sum() for q in tried)
    found = activation_quantizer("ptq_mse", x, bits, power=power)(x).numpy()
    assert (np.abs(found - v) ** power).sum() == pytest.approx(least, rel=1e-9)

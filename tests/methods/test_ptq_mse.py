"""Post-training quantization to the range of least error (as in BRECQ, arXiv:2102.05426)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.helpers.quantizers import activation_quantizer, quantized_weight
from tests.helpers.references import uniform_symmetric
from tests.helpers.tensors import Array, normal


def finest(v: Array, quantize: Callable[[float], Array], power: float) -> float:
    """Return the least error of the 80 factors of BRECQ, and of those around the best of them."""
    tried, step = [1 - 0.01 * i for i in range(80)], 0.01
    for _ in range(3):
        best = min(tried, key=lambda c: float((np.abs(quantize(c) - v) ** power).sum()))
        step /= 10
        tried = [min(best + i * step, 1.0) for i in range(-9, 10)]
    return float((np.abs(quantize(best) - v) ** power).sum())


@pytest.mark.parametrize("power", [2.0, 2.4])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_mse_range_loses_least_of_those_tried(bits: int, power: float) -> None:
    w = normal(3, 500)
    n = 2 ** (bits - 1) - 1
    found = quantized_weight("ptq_mse", w, bits, power=power)
    for row, got in zip(w.numpy(), found, strict=True):

        def quantize(c: float, row: Array = row) -> Array:
            return uniform_symmetric(row, np.array(c * np.abs(row).max()), n)

        least = finest(row, quantize, power)
        assert (np.abs(got - row) ** power).sum() == pytest.approx(least, rel=1e-6)


def test_the_mse_range_is_fine_enough_for_8_bits() -> None:
    w = normal(16, 27)
    found = quantized_weight("ptq_mse", w, 8, power=2.0)
    grid, fine = [], []
    for row in w.numpy():

        def error(c: float, row: Array = row) -> float:
            top = np.array(c * np.abs(row).max())
            return float(((uniform_symmetric(row, top, 127) - row) ** 2).sum())

        grid.append(min(error(1 - 0.01 * i) for i in range(80)))
        fine.append(min(error(c) for c in np.arange(0.8, 1.0, 0.0005)))
    errors = ((found - w.numpy()) ** 2).sum(1)
    assert (errors <= np.array(grid) * (1 + 1e-9)).all(), "no row loses"
    assert (errors / fine).mean() < 1.05 < (np.array(grid) / fine).mean()


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

    def quantize(c: float) -> Array:
        low = min(c * v.min(), 0)
        s = (c * v.max() - low) / n
        z = np.round(-low / s)
        return np.asarray(s * (np.clip(np.round(v / s) + z, 0, n) - z))

    found = activation_quantizer("ptq_mse", x, bits, power=power)(x).numpy()
    least = finest(v, quantize, power)
    assert (np.abs(found - v) ** power).sum() == pytest.approx(least, rel=1e-6)

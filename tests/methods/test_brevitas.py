"""Brevitas' quantizers (Franco et al., doi:10.5281/zenodo.3333552).

The library is compared with formulas in NumPy. The tests are skipped where it is not installed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers.gradients import gradient
from tests.helpers.libraries import needs_brevitas
from tests.helpers.quantizers import build_activation_quantizer, build_weight_quantizer, output_of
from tests.helpers.references import over_weights
from tests.helpers.tensors import normal, normal32


@needs_brevitas
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_brevitas_weights_have_a_scale_of_the_maximum(bits: int, scope: str) -> None:
    w = normal(5, 4, 3, 3)
    n = 2 ** (bits - 1) - 1
    s = over_weights(np.max, np.abs(w.numpy()), scope) / n
    expected = s * np.rint(w.numpy() / s).clip(-n, n)
    found = output_of(build_weight_quantizer("brevitas", w, bits, scope=scope), w)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@needs_brevitas
@pytest.mark.parametrize("scope", ["layer", "filter"])
def test_brevitas_binary_weights_are_the_mean_size(scope: str) -> None:
    w = normal(5, 4, 3, 3)
    alpha = over_weights(np.mean, np.abs(w.numpy()), scope)
    quantizer, sign = build_weight_quantizer("brevitas", w, 1, scope=scope), np.sign(w.numpy())
    np.testing.assert_allclose(output_of(quantizer, w), alpha * sign, rtol=1e-9)
    g = normal(5, 4, 3, 3, seed=1)
    expected = alpha * g.numpy() + sign * over_weights(np.mean, g.numpy() * sign, scope)
    np.testing.assert_allclose(gradient(quantizer, w, g), expected, rtol=1e-9)


@needs_brevitas
@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("bits", [2, 4])
def test_brevitas_weights_gradient_goes_through_the_scale_too(bits: int, scope: str) -> None:
    w = normal(5, 4, 3, 3)
    g = normal(5, 4, 3, 3, seed=1)
    values, n = w.numpy(), 2 ** (bits - 1) - 1
    largest = over_weights(np.max, np.abs(values), scope)
    s = largest / n
    through_scale = over_weights(np.sum, g.numpy() * (np.rint(values / s) - values / s), scope)
    expected = g.numpy() + (np.abs(values) == largest) * np.sign(values) / n * through_scale
    found = gradient(build_weight_quantizer("brevitas", w, bits, scope=scope), w, g)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@needs_brevitas
@pytest.mark.parametrize("size", [12, 10])
def test_brevitas_groups_of_weights_are_quantized_by_themselves(size: int) -> None:
    w, g = normal32(5, 4, 3, 3), normal32(5, 4, 3, 3, seed=1)
    quantizer = build_weight_quantizer("brevitas", w, 4, scope=f"per_group({size})")
    found, slopes = output_of(quantizer, w).reshape(5, 36), gradient(quantizer, w, g)
    slopes = slopes.reshape(5, 36)
    for i in range(5):
        for start in range(0, 36, size):
            part = (slice(i, i + 1), slice(start, start + size))
            rows = w.view(5, 36)[part]
            alone = build_weight_quantizer("brevitas", rows, 4, scope="layer")
            np.testing.assert_allclose(found[part], output_of(alone, rows), rtol=1e-6)
            of_rows = gradient(alone, rows, g.view(5, 36)[part])
            np.testing.assert_allclose(slopes[part], of_rows, rtol=1e-5, atol=1e-6)


def brevitas_range(x: Tensor) -> float:
    """Return the 99.999th percentile of |x|, by rank."""
    size = np.sort(np.abs(x.numpy()).ravel())
    return float(size[int(np.floor(0.99999 * size.size + 0.5)) - 1])


@needs_brevitas
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_brevitas_inputs_have_a_learned_range(bits: int, signed: bool) -> None:
    sample = normal(4, 50_000)
    sample = sample if signed else sample.relu()
    quantizer = build_activation_quantizer("brevitas", sample, bits)
    v = quantizer.get_parameter("tensor_quant.scaling_impl.value")
    assert v.item() == pytest.approx(brevitas_range(sample), rel=1e-6)
    assert v.item() < sample.abs().max().item()
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    steps = 2 ** (bits - 1) if signed else 2**bits - 1

    # a range that half the values exceed, as it may become when it is learned
    v.data.fill_(-0.5)  # its sign does not matter
    x, g = 0.7 * sample[0], normal(50_000, seed=1)
    s = 0.5 / steps
    codes = np.rint(x.numpy() / s)
    np.testing.assert_allclose(output_of(quantizer, x), s * codes.clip(low, high), atol=1e-7)
    kept = (codes >= low) & (codes <= high)
    assert 0.2 < kept.mean() < 0.9
    np.testing.assert_allclose(gradient(quantizer, x, g), np.where(kept, g.numpy(), 0), rtol=1e-6)
    slope = np.where(kept, codes - x.numpy() / s, codes.clip(low, high))
    assert v.grad is not None
    expected = -(g.numpy() * slope).sum() / steps  # ∂s/∂v = sign(v)/steps
    assert v.grad.item() == pytest.approx(expected, rel=1e-4)


@needs_brevitas
def test_brevitas_one_bit_inputs_are_two_levels() -> None:
    x, g = normal32(5000), normal32(5000, seed=1)
    v = brevitas_range(x)
    signed = build_activation_quantizer("brevitas", x, 1)
    np.testing.assert_allclose(output_of(signed, x), v * np.where(x >= 0, 1, -1), rtol=1e-6)
    np.testing.assert_allclose(gradient(signed, 2 * x, g), v * g * (2 * x.abs() <= v), rtol=1e-5)
    positive = build_activation_quantizer("brevitas", x.relu(), 1)
    top = brevitas_range(x.relu())
    expected = top * np.rint(x.relu().numpy() / np.float32(top))
    np.testing.assert_allclose(output_of(positive, x.relu()), expected, rtol=1e-6)


@needs_brevitas
def test_brevitas_inputs_change_no_state_when_they_are_quantized() -> None:
    quantizer = build_activation_quantizer("brevitas", normal32(1000).relu(), 4)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    first = output_of(quantizer, normal32(100))
    output_of(quantizer, 100 * normal32(100))
    assert np.array_equal(output_of(quantizer.eval(), normal32(100)), first)
    assert before
    assert all(torch.equal(quantizer.state_dict()[name], before[name]) for name in before)

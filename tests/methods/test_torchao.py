"""torchao's fake quantization (Or et al., 2025, arXiv:2507.16099).

The library is compared with formulas in NumPy. The tests are skipped where it is not installed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.method import Quantizer
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from tests.helpers.gradients import gradient
from tests.helpers.libraries import needs_torchao
from tests.helpers.quantizers import build_activation_quantizer, build_weight_quantizer, output_of
from tests.helpers.references import over_weights
from tests.helpers.tensors import Array, normal32


def affine_codes(w: Array, bits: int, scope: str) -> tuple[Array, Array]:
    """Return codes before clipping, and the scale, in float32 as torchao computes them."""
    largest = over_weights(np.max, np.abs(w), scope)
    s = (largest / np.float32(2 ** (bits - 1) - 0.5)).astype(np.float32)
    return np.rint(w * (np.float32(1) / s)), s


@needs_torchao
@pytest.mark.parametrize("scope", ["filter", "layer"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_torchao_weights_have_a_scale_of_the_maximum_and_half_a_step(bits: int, scope: str) -> None:
    w = normal32(5, 4, 3, 3)
    codes, s = affine_codes(w.numpy(), bits, scope)
    codes = codes.clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    found = output_of(build_weight_quantizer("torchao", w, bits, scope=scope), w)
    np.testing.assert_allclose(found, codes * s, rtol=1e-6)


@needs_torchao
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_torchao_weights_levels_on_a_grid(bits: int) -> None:
    grid = torch.linspace(-1, 1, 4001).view(1, -1)
    s = 1 / (2 ** (bits - 1) - 0.5)
    expected = s * np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    found = np.unique(output_of(build_weight_quantizer("torchao", grid, bits), grid))
    # −1 lies halfway between the last two levels, and rounds to either
    assert len(found) in (len(expected) - 1, len(expected))
    np.testing.assert_allclose(found, expected[-len(found) :], rtol=1e-6, atol=1e-7)


@needs_torchao
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_torchao_weights_gradient_passes_where_the_code_is_not_clipped(bits: int) -> None:
    w, g = normal32(6, 3, 3, 3), normal32(6, 3, 3, 3, seed=1)
    codes, _ = affine_codes(w.numpy(), bits, "filter")
    kept = (codes >= -(2 ** (bits - 1))) & (codes <= 2 ** (bits - 1) - 1)
    quantizer = build_weight_quantizer("torchao", w, bits)
    found = gradient(quantizer, w, g)
    np.testing.assert_array_equal(found, np.where(kept, g.numpy(), 0))
    assert kept.mean() > 0.9
    # the library's own, where torch's clamp does not decide
    library = quantizer.get_submodule("fake_quantizer")
    inner = (codes > -(2 ** (bits - 1))) & (codes < 2 ** (bits - 1) - 1)
    its = gradient(library, w.flatten(1), g.flatten(1)).reshape(w.shape)
    np.testing.assert_allclose(its[inner], found[inner], rtol=1e-6)
    assert not its[~kept].any()


@needs_torchao
@pytest.mark.parametrize("size", [12, 10])
def test_torchao_groups_of_weights_are_quantized_by_themselves(size: int) -> None:
    w, g = normal32(5, 4, 3, 3), normal32(5, 4, 3, 3, seed=1)
    quantizer = build_weight_quantizer("torchao", w, 4, scope=f"per_group({size})")
    found, slopes = output_of(quantizer, w).reshape(5, 36), gradient(quantizer, w, g)
    slopes = slopes.reshape(5, 36)
    for i in range(5):
        for start in range(0, 36, size):
            part = (slice(i, i + 1), slice(start, start + size))
            rows = w.view(5, 36)[part]
            alone = build_weight_quantizer("torchao", rows, 4, scope="layer")
            np.testing.assert_allclose(found[part], output_of(alone, rows), rtol=1e-6)
            of_rows = gradient(alone, rows, g.view(5, 36)[part])
            np.testing.assert_allclose(slopes[part], of_rows, rtol=1e-5, atol=1e-6)


@needs_torchao
def test_torchao_one_bit_weights_would_all_be_zero() -> None:
    from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

    quantizer = IntxFakeQuantizer(IntxFakeQuantizeConfig(vars(torch)["int1"], "per_channel"))
    assert not quantizer(normal32(6, 50)).any()
    method = build_method("torchao", {})
    reason = method.supports(BitWidths.parse("1/32"), "classification")
    assert reason == "its weights have 2 to 8 bits"


@needs_torchao
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_torchao_inputs_are_affine_over_a_running_range(bits: int, signed: bool) -> None:
    x, more, g = normal32(8, 3, 5, 5), normal32(8, 3, 5, 5, seed=1), normal32(8, 3, 5, 5, seed=2)
    if not signed:
        x, more = x.relu(), more.relu()
    quantizer = build_activation_quantizer("torchao", x, bits, momentum=0.75)
    assert isinstance(quantizer, Quantizer)
    quantizer.observe(3 * more)
    low = 0.75 * x.numpy().min() + 0.25 * 3 * more.numpy().min()
    high = 0.75 * x.numpy().max() + 0.25 * 3 * more.numpy().max()
    n = 2**bits - 1
    s = np.float32((high - low) / n)
    z = np.clip(-np.rint(low / s), 0, n)
    codes = np.rint(x.numpy() * (np.float32(1) / s)) + z
    expected = (codes.clip(0, n) - z) * s
    np.testing.assert_allclose(output_of(quantizer, x), expected, rtol=1e-5, atol=1e-6)
    kept = (codes >= 0) & (codes <= n)
    np.testing.assert_array_equal(gradient(quantizer, x, g), np.where(kept, g.numpy(), 0))
    assert len(np.unique(output_of(quantizer.eval(), 30 * normal32(1000)))) <= 2**bits


@needs_torchao
@pytest.mark.parametrize(("inputs", "scope"), [(1, "filter"), (9, "per_group(8)")])
def test_torchao_refuses_a_scale_for_one_weight(inputs: int, scope: str) -> None:
    model = nn.Sequential(nn.Linear(inputs, 4))
    with pytest.raises(ValueError, match=r"one weight alone.*'0': use per_tensor"):
        attach(model, "torchao", bits="4/32", layers="all", scope=scope)

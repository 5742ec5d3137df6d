"""APoT: additive powers of two (Li, Dong, Wang, ICLR 2020, arXiv:1909.13144).

Levels follow Eq. 5 and the released code, normalized weights Eq. 6 and 10.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from qbench.method import BitWidths
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from qbench.train.optimizer import build_optimizer
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    parameter_gradient,
    parameter_value,
    quantized_weight,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, Array, normal

GRIDS = {
    2: [0, 1 / 4, 1 / 2, 1],
    3: [i / 10 for i in (0, 1, 2, 3, 4, 6, 8, 10)],
    4: [
        0, 1 / 48, 1 / 24, 1 / 16, 1 / 12, 1 / 8, 1 / 6, 3 / 16, 1 / 4, 1 / 3, 3 / 8, 1 / 2, 2 / 3,
        11 / 16, 3 / 4, 1,
    ],
}  # fmt: skip


@pytest.mark.parametrize("bits", GRIDS)
def test_apot_inputs_go_to_the_nearest_sum_of_powers_of_two(bits: int) -> None:
    x = torch.linspace(-1, 8, 2003, dtype=torch.float64)
    quantizer = set_parameters(activation_quantizer("apot", x, bits), alpha=4.0)
    grid = 4 * np.array(GRIDS[bits])
    found = quantizer(x).detach().numpy()
    np.testing.assert_allclose(np.unique(found), grid, atol=1e-6)
    distance = np.abs(np.clip(x.numpy(), 0, 4)[:, None] - grid)
    np.testing.assert_allclose(np.abs(found - np.clip(x.numpy(), 0, 4)), distance.min(1), atol=1e-6)


@pytest.mark.parametrize(
    ("bits", "sets", "largest"),
    [
        (5, ((0, 64, 16, 2), (0, 32, 8, 1), (0, 4)), 100),  # of 1/128
        (6, ((0, 256, 32, 4), (0, 128, 16, 2), (0, 64, 8, 1)), 448),  # of 1/512
    ],
)
def test_apot_finer_levels_are_sums_of_the_released_codes_powers(
    bits: int, sets: tuple[tuple[int, ...], ...], largest: int
) -> None:
    x = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    found = np.unique(
        set_parameters(activation_quantizer("apot", x, bits), alpha=1.0)(x).detach().numpy()
    )
    sums = np.unique([sum(parts) for parts in itertools.product(*sets)])
    assert len(sums) == 2**bits
    np.testing.assert_allclose(found, sums / largest, atol=1e-6)


@pytest.mark.parametrize(("bits", "magnitudes"), [(2, [0, 1]), (3, GRIDS[2]), (4, GRIDS[3])])
def test_apot_weights_are_normalised_and_projected(bits: int, magnitudes: list[float]) -> None:
    w = 0.2 * normal(*SHAPE) + 0.1
    v = w.numpy()
    unit = (v - v.mean()) / v.std(ddof=1)
    grid = np.array(magnitudes)
    near = np.abs(np.clip(np.abs(unit) / 2, 0, 1)[..., None] - grid).argmin(-1)
    quantizer = set_parameters(weight_quantizer("apot", w, bits), alpha=2.0)
    expected = 2 * np.sign(unit) * grid[near]
    np.testing.assert_allclose(quantizer(w).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3])
def test_apot_clip_gets_the_rcf_gradient_and_two_bit_weights_an_unclipped_one(bits: int) -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    quantizer = weight_quantizer("apot", w, bits, normalization_gradient=False)
    set_parameters(quantizer, alpha=1.1)
    found = gradient(quantizer, w, g)
    q = quantizer(w).detach().numpy()
    v = w.numpy()
    unit = (v - v.mean()) / v.std(ddof=1)
    outside = np.abs(unit) > 1.1
    by_alpha = np.where(outside, np.sign(unit), (q - unit) / 1.1)
    assert parameter_gradient(quantizer, "alpha") == pytest.approx(
        (g.numpy() * by_alpha).sum(), rel=1e-5
    )
    passed = g.numpy() if bits == 2 else g.numpy() * ~outside
    np.testing.assert_allclose(found, passed / v.std(ddof=1), rtol=1e-6)


@pytest.mark.parametrize(("bits", "levels"), [(2, 3), (3, 7), (4, 15), (5, 31)])
def test_apot_weights_have_a_sign_and_one_zero(bits: int, levels: int) -> None:
    w = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    quantizer = set_parameters(weight_quantizer("apot", w, bits), alpha=1.5)
    found = np.unique(quantizer(w).detach().numpy())
    assert len(found) == levels
    np.testing.assert_allclose(found, -found[::-1], atol=1e-12)
    assert found[-1] == pytest.approx(1.5)


@pytest.mark.parametrize("bits", [2, 3])
def test_powers_of_two_alone_are_zero_and_one_over_them(bits: int) -> None:
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    found = (
        set_parameters(activation_quantizer("apot", x, bits, additive=False), alpha=1.0)(x)
        .detach()
        .numpy()
    )
    powers = [2.0**-i for i in range(2**bits - 1)]
    np.testing.assert_allclose(np.unique(found), sorted([0.0, *powers]), atol=1e-7)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_apot_sees_a_weights_shape_and_neither_its_scale_nor_its_mean(bits: int) -> None:
    w = normal(*SHAPE)
    found = quantized_weight("apot", 0.02 * w - 5, bits)
    np.testing.assert_allclose(found, quantized_weight("apot", w, bits), rtol=1e-9)


@pytest.mark.parametrize("bits", [2, 4])
def test_apot_weight_gradient_goes_through_the_mean_and_the_deviation(bits: int) -> None:
    w, g = normal(4, 9, scale=0.3) + 0.1, normal(4, 9, seed=1)
    quantizer = set_parameters(weight_quantizer("apot", w, bits), alpha=1.1)

    def loss(w: Array) -> float:
        unit = (w - w.mean()) / w.std(ddof=1)
        clipped = unit if bits == 2 else np.clip(unit, -1.1, 1.1)
        return float((g.numpy() * clipped).sum())

    slopes = central_differences(loss, w.numpy())
    np.testing.assert_allclose(gradient(quantizer, w, g), slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_apot_input_clip_gets_the_rcf_gradient(bits: int) -> None:
    x, g = normal(400, scale=2), normal(400, seed=1)
    quantizer = set_parameters(activation_quantizer("apot", x, bits), alpha=1.5)
    found = gradient(quantizer, x, g)
    v, grid = x.numpy(), 1.5 * np.array(GRIDS[bits])
    inside = (v > 0) & (v < 1.5)
    np.testing.assert_allclose(found, g.numpy() * inside, rtol=1e-12)
    near = grid[np.abs(v[:, None] - grid).argmin(1)]
    by_alpha = np.where(inside, (near - v) / 1.5, v >= 1.5)
    assert parameter_gradient(quantizer, "alpha") == pytest.approx(
        (g.numpy() * by_alpha).sum(), rel=1e-5
    )


def test_apot_clips_start_at_three_and_six() -> None:
    assert parameter_value(weight_quantizer("apot", normal(9), 4), "alpha") == 3
    assert parameter_value(activation_quantizer("apot", normal(9), 4), "alpha") == 6


def test_apot_8_bit_weights_are_evenly_spaced() -> None:
    w = normal(*SHAPE)
    step = float(w.abs().max()) / 127
    expected = np.round(w.numpy() / step) * step
    np.testing.assert_allclose(quantized_weight("apot", w, 8), expected, rtol=1e-12)
    g = normal(*SHAPE, seed=1)
    found = gradient(weight_quantizer("apot", w, 8), w, g)
    np.testing.assert_array_equal(found, g.numpy())


def test_apot_quantizes_the_weights_of_the_ends_with_8_bits() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    handle = attach(
        network,
        "apot",
        bits="3/3",
        layers="first_last_8bit_weights",
        calibration=[torch.rand(4, 6)],
    )
    found = [(str(layer.weight_bits), str(layer.activation_bits)) for layer in handle.layers]
    assert found == [("8", "32"), ("3", "3"), ("8", "32")]
    ends = (handle.layers[0].weight_quantizer, handle.layers[2].weight_quantizer)
    assert all(end is not None and not list(end.parameters()) for end in ends), "no α there"
    handle.harden()


def test_apot_decays_alpha_as_the_network_with_the_papers_recipe() -> None:
    method = build_method("apot", {})
    recipe = method.paper_recipe_for(BitWidths.parse("2/2"))
    assert recipe is not None
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    handle = attach(network, method, bits="2/2", layers="all", calibration=[torch.rand(4, 6)])
    decays = [group["weight_decay"] for group in build_optimizer(handle, recipe).param_groups]
    assert decays == [2e-5, 2e-5]

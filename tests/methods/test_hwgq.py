"""Half-wave Gaussian quantization (Cai et al., CVPR 2017, arXiv:1702.00953).

Levels follow Eq. 8 and 9. The backward functions are the three of the paper.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from qbench.quant.attach import attach
from qbench.quant.options import build_method
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import activation_quantizer, quantized_weight, weight_quantizer
from tests.helpers.references import scaled_signs
from tests.helpers.tensors import SHAPE, gaussian_quantiles, normal


@pytest.mark.parametrize(("bits", "step"), [(1, 0.799), (2, 0.538), (3, 0.3217), (4, 0.185)])
def test_hwgq_levels_have_no_dead_zone(bits: int, step: float) -> None:
    x = torch.linspace(-1, 5, 4001, dtype=torch.float64)
    found = activation_quantizer("hwgq", x, bits)(x).numpy()
    levels = step * np.arange(2**bits)
    np.testing.assert_allclose(np.unique(found), levels, rtol=1e-6)
    positive = x.numpy() > 0
    assert (found[~positive] == 0).all()
    assert found[positive].min() == pytest.approx(step)
    nearest = levels[1:][np.abs(x.numpy()[positive, None] - levels[1:]).argmin(-1)]
    far = np.abs(x.numpy()[positive] / step % 1 - 0.5) > 1e-3  # away from thresholds
    np.testing.assert_allclose(found[positive][far], nearest[far], rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_hwgq_step_loses_least_of_a_gaussian(bits: int) -> None:
    x = gaussian_quantiles(200_000)
    x = x[x > 0]
    step = float(activation_quantizer("hwgq", x, bits)(torch.tensor([1e-6]).double()))

    def error(s: float) -> float:
        codes = np.clip(np.round(x.numpy() / s + 0.0), 1, 2**bits - 1)
        return float(((codes * s - x.numpy()) ** 2).mean())

    steps = np.linspace(0.9 * step, 1.1 * step, 81)
    best = steps[np.argmin([error(s) for s in steps])]
    assert step == pytest.approx(best, rel=0.01)


def test_hwgq_lloyd_levels_are_the_means_of_their_cells() -> None:
    x = gaussian_quantiles(2_000_000)
    x = x[x > 0]
    found = activation_quantizer("hwgq", x, 2, levels="lloyd")(x).numpy()
    levels = np.unique(found)
    assert len(levels) == 3
    means = [x.numpy()[found == level].mean() for level in levels]
    np.testing.assert_allclose(levels, means, atol=2e-4)


@pytest.mark.parametrize(
    ("backward", "slopes"),
    [
        ("clipped", [0, 1, 1, 0, 0]),
        ("vanilla", [0, 1, 1, 1, 1]),
        ("log_tailed", [0, 1, 1, 1 / (2 - 0.614), 1 / (5 - 0.614)]),
    ],
)
def test_hwgq_gradient_is_that_of_the_named_function(backward: str, slopes: list[float]) -> None:
    x = torch.tensor([-0.5, 0.01, 1.6, 2.0, 5.0], dtype=torch.float64)
    found = gradient(activation_quantizer("hwgq", x, 2, backward=backward), x, torch.ones_like(x))
    np.testing.assert_allclose(found, slopes, rtol=1e-6)


def test_hwgq_weights_are_bwns_with_the_gradient_handed_on() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    np.testing.assert_allclose(quantized_weight("hwgq", w, 1), scaled_signs(w.numpy()), rtol=1e-14)
    np.testing.assert_array_equal(gradient(weight_quantizer("hwgq", w, 1), w, g), g.numpy())


def test_on_a_threshold_hwgq_goes_down() -> None:
    q = np.array([0, 0.538, 1.076, 1.614], dtype=np.float32)
    ties = np.array([0, (q[1] + q[2]) / 2, (q[2] + q[3]) / 2], dtype=np.float32)
    quantizer = activation_quantizer("hwgq", normal(9).abs(), 2).float()
    np.testing.assert_array_equal(quantizer(torch.from_numpy(ties)).numpy(), q[:-1])
    above = torch.from_numpy(np.nextafter(ties, np.float32(9)))
    np.testing.assert_array_equal(quantizer(above).numpy(), q[1:])


@pytest.mark.parametrize(("bits", "known"), [(1, [0.7979]), (2, [0.3177, 1.0, 1.894])])
def test_hwgq_lloyd_levels_are_lloyd_and_maxs_of_a_gaussian(bits: int, known: list[float]) -> None:
    x = torch.linspace(1e-6, 4, 4001, dtype=torch.float64)
    found = np.unique(activation_quantizer("hwgq", x, bits, levels="lloyd")(x).numpy())
    np.testing.assert_allclose(found, known, atol=1e-3)


def test_two_lloyd_levels_are_the_released_codes() -> None:
    module = importlib.import_module("qbench_methods.hwgq")
    np.testing.assert_allclose(module.half_gaussian_levels(2), [0.453, 1.51], atol=1e-3)


@pytest.mark.parametrize(("bits", "step"), [(1, 0.799), (2, 0.538), (3, 0.3217), (4, 0.185)])
def test_hwgq_with_a_dead_zone_rounds(bits: int, step: float) -> None:
    x = torch.linspace(-1, 4, 5001, dtype=torch.float64)
    found = activation_quantizer("hwgq", x, bits, dead_zone=True)(x).numpy()
    units = x.numpy() / step
    far = np.abs(units % 1 - 0.5) > 1e-3  # away from thresholds
    expected = step * np.clip(np.round(units), 0, 2**bits - 1)
    np.testing.assert_allclose(found[far], expected[far], rtol=1e-6)


@pytest.mark.parametrize("plain", [False, True])
def test_hwgq_plain_norm_gives_zero_mean_and_unit_variance(plain: bool) -> None:
    norm = nn.BatchNorm2d(3)
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, -1.0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Conv2d(3, 2, 3))
    x = normal(8, 2, 9, 9).float()
    method = build_method("hwgq", {"plain_norm": plain})
    attach(model, method, bits="1/2", layers="all", calibration=[x])
    y = norm.train()(normal(8, 3, 9, 9).float() * 5 + 2).detach()
    assert float(y.mean()) == pytest.approx(0.0 if plain else -1.0, abs=1e-3)
    assert float(y.std()) == pytest.approx(1.0 if plain else 3.0, rel=1e-2)
    assert [p.requires_grad for p in norm.parameters()] == [not plain] * 2


def test_hwgq_plain_norm_is_that_of_linear_layers_too() -> None:
    norm = nn.BatchNorm1d(6)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), norm, nn.ReLU(), nn.Linear(6, 2))
    method = build_method("hwgq", {"plain_norm": True})
    attach(model, method, bits="1/2", layers=["3"], calibration=[normal(8, 4).float()])
    assert not any(p.requires_grad for p in norm.parameters())

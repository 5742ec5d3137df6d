"""Methods since, and post-training ones, against their formulas written again in plain numpy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.attachment import Handle, attach
from tests.test_methods_math import (
    Array,
    central_differences,
    for_input,
    for_weight,
    gaussian,
    gradient,
    normal,
    per_filter,
    plus_minus,
    quantized,
)

SHAPE = (6, 4, 3, 3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are small: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def parameter(quantizer: nn.Module, name: str) -> float:
    return float(quantizer.get_parameter(name).detach())


def slope(quantizer: nn.Module, name: str) -> float:
    grad = quantizer.get_parameter(name).grad
    assert grad is not None
    return float(grad)


def set_to(quantizer: nn.Module, **values: float) -> nn.Module:
    with torch.no_grad():
        for name, value in values.items():
            quantizer.get_parameter(name).fill_(value)
    return quantizer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def network_with_statistics() -> nn.Sequential:
    """The same after a training pass, from which its normalisations have statistics."""
    model = network()
    model(torch.randn(16, 3, 8, 8))
    return model


def attached(method: str, bits: str, model: nn.Module | None = None, **options: object) -> Handle:
    batches = [torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    built = registry.build_method(method, options)
    return attach(model or network(), built, bits=bits, calibration=batches)


# PACT ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pacts_inputs_are_evenly_spaced_up_to_alpha(bits: int) -> None:
    quantizer = set_to(for_input("pact", normal(9).abs(), bits), alpha=1.7)
    x = torch.linspace(-1, 3, 801, dtype=torch.float64)
    n = 2**bits - 1
    expected = np.round(np.clip(x.numpy(), 0, 1.7) * n / 1.7) * 1.7 / n
    np.testing.assert_allclose(quantizer(x).detach().numpy(), expected, atol=1e-6)


def test_pacts_alpha_learns_from_what_is_clipped_alone() -> None:
    quantizer = set_to(for_input("pact", normal(9).abs(), 2), alpha=1.5)
    x = torch.tensor([-0.3, 0.2, 0.9, 1.49, 1.51, 4.0], dtype=torch.float64)
    g = normal(6, seed=1)
    found = gradient(quantizer, x, g)
    np.testing.assert_array_equal(found, g.numpy() * [0, 1, 1, 1, 0, 0])
    assert slope(quantizer, "alpha") == pytest.approx(float(g[4:].sum()))


def test_an_input_on_pacts_alpha_teaches_alpha() -> None:
    quantizer = set_to(for_input("pact", normal(9).abs(), 2), alpha=1.5)
    assert gradient(quantizer, torch.tensor([1.5]).double(), torch.ones(1).double()) == 0
    assert slope(quantizer, "alpha") == 1


def test_pacts_gradients_are_the_slopes_of_its_formula() -> None:
    x, g = normal(80, scale=2), normal(80, seed=1)
    start = np.array([1.25])
    quantizer = set_to(for_input("pact", x, 3), alpha=start[0])
    found = gradient(quantizer, x, g)

    def loss(x: Array, alpha: Array) -> float:
        return float((g.numpy() * 0.5 * (np.abs(x) - np.abs(x - alpha) + alpha)).sum())

    by_x = central_differences(lambda v: loss(v, start), x.numpy())
    np.testing.assert_allclose(found, by_x, rtol=1e-6, atol=1e-8)
    by_alpha = central_differences(lambda a: loss(x.numpy(), a), start)
    assert slope(quantizer, "alpha") == pytest.approx(by_alpha[0], rel=1e-6)


def test_a_large_alpha_makes_pact_a_relu_to_within_half_a_step() -> None:
    x = normal(500, scale=3)
    quantizer = set_to(for_input("pact", x, 8), alpha=50.0)
    error = np.abs(quantizer(x).detach().numpy() - np.maximum(x.numpy(), 0))
    assert error.max() <= 25 / 255 * (1 + 1e-9)
    assert error.max() > 24 / 255


def test_pacts_decay_adds_lambda_alpha_to_alphas_gradient() -> None:
    handle = attached("pact", "32/2", decay=0.3)
    alpha = handle.quantizers[0].get_parameter("alpha")
    started = float(alpha.detach())
    groups = [g for g in handle.parameter_groups(0.1, 0.0) if g["params"][0] is alpha]
    alpha.grad = torch.tensor(0.5)
    torch.optim.SGD(groups, lr=0.1).step()
    assert float(alpha.detach()) == pytest.approx(started - 0.1 * (0.5 + 0.3 * started))


def test_pacts_alpha_starts_at_the_largest_input_or_where_it_is_told_and_decays() -> None:
    sample = normal(50).abs()
    assert parameter(for_input("pact", sample, 2), "alpha") == pytest.approx(float(sample.max()))
    assert parameter(for_input("pact", sample, 2, initial=10.0), "alpha") == 10
    handle = attached("pact", "2/2", decay=0.3)
    alphas = [m.input_quantizer.get_parameter("alpha") for m in handle.layers if m.input_quantizer]
    (group,) = [g for g in handle.parameter_groups(0.1, 0.01) if g["params"][0] is alphas[0]]
    assert group["weight_decay"] == 0.3


def test_pacts_weights_are_dorefas() -> None:
    w = normal(*SHAPE)
    for bits in (1, 3):
        np.testing.assert_array_equal(quantized("pact", w, bits), quantized("dorefa", w, bits))


@pytest.mark.parametrize(
    ("bits", "c1", "c2"), [(2, 3.12, -2.064), (3, 7.509, -6.892), (4, 12.68, -12.8)]
)
def test_sawbs_scale_is_close_to_the_best(bits: int, c1: float, c2: float) -> None:
    w = normal(100, 200)
    v = w.numpy()
    alpha = c1 * np.sqrt((v**2).mean()) + c2 * np.abs(v).mean()
    n = 2**bits - 1

    def at(a: float) -> Array:
        result: Array = a * (2 * np.round((np.clip(v, -a, a) / (2 * a) + 0.5) * n) / n - 1)
        return result

    found = quantized("pact", w, bits, weights="sawb")
    np.testing.assert_allclose(found, at(alpha), atol=1e-9)
    best = min(((at(a) - v) ** 2).mean() for a in np.linspace(0.5, 4, 351))
    assert ((found - v) ** 2).mean() <= 1.015 * best


@pytest.mark.parametrize(
    ("bits", "c1", "c2"),
    [
        (2, 3.12, -2.064),
        (3, 7.509, -6.892),
        (4, 12.68, -12.8),
        (5, 17.74, -18.64),
        (8, 31.76, -35.04),
    ],
)
def test_sawbs_largest_level_has_the_published_coefficients(
    bits: int, c1: float, c2: float
) -> None:
    w = normal(100, 200)
    found = quantized("pact", w, bits, weights="sawb")
    alpha = c1 * np.sqrt((w.numpy() ** 2).mean()) + c2 * np.abs(w.numpy()).mean()
    assert np.abs(w.numpy()).max() > alpha
    assert found.max() == pytest.approx(alpha, rel=1e-12)
    assert found.min() == pytest.approx(-alpha, rel=1e-12)


def test_sawbs_two_bit_levels_are_alpha_and_a_third_of_it() -> None:
    found = np.unique(quantized("pact", normal(50, 50), 2, weights="sawb").round(12))
    np.testing.assert_allclose(found / found[-1], [-1, -1 / 3, 1 / 3, 1], atol=1e-9)


@pytest.mark.parametrize("shape", ["gaussian", "laplace", "uniform"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_sawb_is_near_the_least_squared_error_whatever_the_distribution(
    bits: int, shape: str
) -> None:
    p = (np.arange(5000) + 0.5) / 5000
    w = {
        "gaussian": gaussian(5000).numpy(),
        "laplace": -np.sign(p - 0.5) * np.log(1 - 2 * np.abs(p - 0.5)),
        "uniform": 2 * p - 1,
    }[shape]
    n = 2**bits - 1
    errors = []
    for a in np.abs(w).mean() * np.linspace(1, 7, 301):
        codes = np.round((np.clip(w / a, -1, 1) + 1) / 2 * n)
        errors.append(((a * (2 * codes / n - 1) - w) ** 2).mean())
    found = quantized("pact", torch.from_numpy(w)[None], bits, weights="sawb")[0]
    assert ((found - w) ** 2).mean() <= 1.016 * min(errors)


def test_sawbs_gradient_is_clipped_with_the_weight() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    quantizer = for_weight("pact", w, 2, weights="sawb")
    inside = np.abs(w.numpy()) < float(quantizer(w).max())
    assert 0 < inside.sum() < w.numel()
    np.testing.assert_allclose(gradient(quantizer, w, g), g.numpy() * inside, rtol=1e-12)


# QIL ----------------------------------------------------------------------------------------------


def qil(x: Array, c: float, d: float, gamma: float = 1.0) -> Array:
    """The transformer, not rounded."""
    u = np.clip(0.5 / d * np.abs(x) - 0.5 * c / d + 0.5, 0, 1)
    result: Array = np.sign(x) * np.where(u > 0, u**gamma, 0)
    return result


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_qils_weights_are_pruned_stretched_and_clipped(bits: int) -> None:
    w = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    quantizer = set_to(for_weight("qil", w, bits), centre=0.5, half_width=0.3, gamma=1.3)
    n = 2 ** (bits - 1) - 1
    expected = np.round(n * qil(w.numpy(), 0.5, 0.3, 1.3)) / n
    found = quantizer(w).detach().numpy()
    assert (np.abs(found - expected) > 1e-6).mean() < 0.005  # but on a threshold
    assert not found[np.abs(w.numpy()) < 0.2].any()
    assert (np.abs(found[np.abs(w.numpy()) > 0.8]) == 1).all()


def test_qils_interval_gets_the_true_derivative_of_its_transformer() -> None:
    w, g = normal(30), normal(30, seed=1)
    start = np.array([0.9, 0.6, 1.2])
    quantizer = for_weight("qil", w, 3)
    set_to(quantizer, centre=start[0], half_width=start[1], gamma=start[2])
    found = gradient(quantizer, w, g)
    slopes = [slope(quantizer, name) for name in ("centre", "half_width", "gamma")]
    expected = central_differences(lambda p: float((g.numpy() * qil(w.numpy(), *p)).sum()), start)
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-6)
    by_w = central_differences(lambda v: float((g.numpy() * qil(v, *start)).sum()), w.numpy())
    np.testing.assert_allclose(found, by_w, rtol=1e-4, atol=1e-6)
    assert not found[np.abs(w.numpy()) < 0.29].any()


def test_qils_inputs_are_unsigned_and_half_way_at_the_centre() -> None:
    quantizer = set_to(for_input("qil", normal(9).abs(), 8), centre=1.0, half_width=0.5)
    x = torch.tensor([-3.0, 0.2, 0.5, 1.0, 1.5, 9.0], dtype=torch.float64)
    found = quantizer(x).detach().numpy()
    np.testing.assert_allclose(found, [0, 0, 0, 0.5, 1, 1], atol=1 / 255)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_qil_steps_where_its_transformer_crosses_a_half_code(bits: int) -> None:
    w = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    quantizer = set_to(for_weight("qil", w, bits), centre=0.5, half_width=0.25)
    found = quantizer(w).detach().numpy()
    q = 2 ** (bits - 1) - 1
    np.testing.assert_allclose(np.unique(found), np.arange(-q, q + 1) / q, atol=1e-12)
    positive = w.numpy()[1:][(np.diff(found) > 0) & (w.numpy()[1:] > 0)]
    halves = (np.arange(q) + 0.5) / q
    np.testing.assert_allclose(positive, 0.5 + 0.25 * (2 * halves - 1), atol=1e-3)
    np.testing.assert_array_equal(found, -found[::-1])


def test_qils_input_interval_gets_the_true_derivative_and_pruned_inputs_none() -> None:
    x, g = normal(60, scale=2), normal(60, seed=1)
    start = np.array([1.1, 0.7])
    quantizer = for_input("qil", x.abs(), 2)
    set_to(quantizer, centre=start[0], half_width=start[1])

    def loss(x: Array, p: Array) -> float:
        a, b = 0.5 / p[1], -0.5 * p[0] / p[1] + 0.5
        return float((g.numpy() * np.clip(a * x + b, 0, 1)).sum())

    found = gradient(quantizer, x, g)
    by_x = central_differences(lambda v: loss(v, start), x.numpy())
    np.testing.assert_allclose(found, by_x, rtol=1e-5, atol=1e-7)
    slopes = [slope(quantizer, name) for name in ("centre", "half_width")]
    expected = central_differences(lambda p: loss(x.numpy(), p), start)
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-7)
    inside = np.abs(x.numpy() - 1.1) < 0.7
    np.testing.assert_array_equal(found != 0, inside)


def test_qils_intervals_learn_a_hundred_times_slower_than_the_network() -> None:
    handle = attached("qil", "2/2")
    network_group, *others = handle.parameter_groups(0.4, 1e-4)
    assert network_group["weight_decay"] == 1e-4
    assert [g["lr"] for g in others] == [pytest.approx(0.004)]
    assert others[0]["weight_decay"] == 0
    own = {id(p) for q in handle.quantizers for p in q.parameters() if p.requires_grad}
    assert {id(p) for p in others[0]["params"]} == own


# DSQ ----------------------------------------------------------------------------------------------


def dsq(
    x: Array, low: float, high: float, alpha: float, n: int, cells: Array | None = None
) -> Array:
    """Q_S, piecewise tanh; the cells of x, or those given."""
    delta = (high - low) / n
    i = np.clip(np.floor((x - low) / delta), 0, n - 1) if cells is None else cells
    middle = low + (i + 0.5) * delta
    kappa = np.log(2 / alpha - 1) / delta
    phi = np.tanh(kappa * (x - middle)) / (1 - alpha)
    result: Array = np.where(
        x < low, low, np.where(x > high, high, low + delta * (i + (phi + 1) / 2))
    )
    return result


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_dsq_computes_the_uniform_quantizer(bits: int) -> None:
    w = normal(500)
    quantizer = set_to(for_weight("dsq", w, bits), low=-1.2, high=1.5)
    n = 2**bits - 1
    codes = np.round((np.clip(w.numpy(), -1.2, 1.5) + 1.2) / 2.7 * n)
    np.testing.assert_allclose(quantizer(w).detach().numpy(), -1.2 + 2.7 / n * codes, atol=1e-6)


def test_dsqs_gradients_are_those_of_its_soft_staircase() -> None:
    w, g = normal(40), normal(40, seed=1)
    start = np.array([-1.1, 1.3, 0.25])
    quantizer = set_to(for_weight("dsq", w, 2), low=start[0], high=start[1], alpha=start[2])
    found = gradient(quantizer, w, g)
    cells = np.clip(np.floor((w.numpy() - start[0]) / ((start[1] - start[0]) / 3)), 0, 2)

    def loss(w: Array, p: Array) -> float:
        return float((g.numpy() * dsq(w, p[0], p[1], p[2], 3, cells)).sum())

    by_w = central_differences(lambda v: loss(v, start), w.numpy())
    np.testing.assert_allclose(found, by_w, rtol=1e-4, atol=1e-5)
    expected = central_differences(lambda p: loss(w.numpy(), p), start)
    slopes = [slope(quantizer, name) for name in ("low", "high", "alpha")]
    np.testing.assert_allclose(slopes, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_dsqs_slope_over_a_cell_adds_up_to_one_step(bits: int, alpha: float) -> None:
    delta = 2.8 / (2**bits - 1)
    quantizer = set_to(for_weight("dsq", normal(9), bits), low=-1.0, high=1.8, alpha=alpha)
    for cell in range(2**bits - 1):
        points = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000  # of the midpoint rule
        x = -1 + delta * (cell + points)
        rise = gradient(quantizer, x, torch.ones_like(x)).mean() * delta
        assert rise == pytest.approx(delta, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.02, 0.2, 0.5])
def test_dsq_is_steepest_in_the_middle_of_a_cell(alpha: float) -> None:
    delta = 2 / 3
    kappa = np.log(2 / alpha - 1) / delta
    steepest = delta / 2 * kappa / np.tanh(0.5 * kappa * delta)
    quantizer = set_to(for_weight("dsq", normal(9), 2), low=-1.0, high=1.0, alpha=alpha)
    x = torch.linspace(-0.33, 0.33, 1001, dtype=torch.float64)  # the middle cell
    found = gradient(quantizer, x, torch.ones_like(x))
    assert found.argmax() == 500
    assert found.max() == pytest.approx(steepest, rel=1e-5)
    assert (np.diff(found[:501]) > 0).all()
    np.testing.assert_allclose(found, found[::-1], rtol=1e-4)


def test_dsq_is_the_identity_to_gradients_as_alpha_goes_to_one() -> None:
    x, g = torch.linspace(-0.99, 0.99, 200, dtype=torch.float64), normal(200, seed=1)
    quantizer = set_to(for_weight("dsq", x, 2), low=-1.0, high=1.0, alpha=0.999)
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy(), rtol=1e-3)


def test_what_dsq_clips_teaches_the_bound_that_clips_it_and_nothing_else() -> None:
    x = torch.tensor([-3.0, -1.5, 2.0, 4.0, 9.0], dtype=torch.float64)
    g = normal(5, seed=1)
    quantizer = set_to(for_weight("dsq", x, 2), low=-1.0, high=1.0)
    assert not gradient(quantizer, x, g).any()
    assert slope(quantizer, "low") == pytest.approx(float(g[:2].sum()))
    assert slope(quantizer, "high") == pytest.approx(float(g[2:].sum()))
    assert slope(quantizer, "alpha") == 0


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dsqs_levels_reach_from_one_bound_to_the_other_in_order(bits: int) -> None:
    x = torch.linspace(-3, 3, 2001, dtype=torch.float64)
    found = set_to(for_input("dsq", x, bits), low=-0.5, high=1.5)(x).detach().numpy()
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(
        np.unique(found.round(9)), np.linspace(-0.5, 1.5, 2**bits), atol=1e-6
    )


def test_dsqs_alpha_stays_in_its_bounds() -> None:
    handle = attached("dsq", "2/2")
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    for value, kept in ((0.9, 0.5), (-1.0, 1e-3)):
        set_to(quantizer, alpha=value)
        handle.after_step()
        assert parameter(quantizer, "alpha") == pytest.approx(kept)


# LSQ, LSQ+ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_lsqs_step_starts_at_twice_the_mean_over_the_root_of_the_top(bits: int) -> None:
    w, x = normal(*SHAPE), normal(7, 5).abs()
    top = 2 ** (bits - 1) - 1
    expected = 2 * np.abs(w.numpy()).mean() / np.sqrt(top)
    assert parameter(for_weight("lsq", w, bits), "step") == pytest.approx(expected)
    expected = 2 * np.abs(x.numpy()).mean() / np.sqrt(2**bits - 1)
    assert parameter(for_input("lsq", x, bits), "step") == pytest.approx(expected)


def test_lsqs_codes_have_one_more_below_zero_than_above() -> None:
    w = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    quantizer = set_to(for_weight("lsq", w, 2), step=0.5)
    np.testing.assert_allclose(np.unique(quantizer(w).detach().numpy()), [-1, -0.5, 0, 0.5])
    symmetric = set_to(for_weight("lsq", w, 2, weight_range="symmetric"), step=0.5)
    np.testing.assert_allclose(np.unique(symmetric(w).detach().numpy()), [-0.5, 0, 0.5])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lsqs_codes_fill_the_range_of_their_width(bits: int) -> None:
    half = 2 ** (bits - 1)
    v = torch.linspace(-1.5 * half, 2.5 * half, 4001, dtype=torch.float64)
    weights = set_to(for_weight("lsq", v, bits), step=0.5)
    found = np.unique(weights(v / 2).detach().numpy())
    np.testing.assert_array_equal(found, 0.5 * np.arange(-half, half))
    inputs = set_to(for_input("lsq", v.abs(), bits), step=0.25)
    found = np.unique(inputs(v / 4).detach().numpy())
    np.testing.assert_array_equal(found, 0.25 * np.arange(2 * half))


@pytest.mark.parametrize("factor", [1e-4, 0.3, 7.0])
@pytest.mark.parametrize("bits", [2, 4])
def test_lsqs_start_scales_with_the_weight_and_so_does_what_it_gives(
    bits: int, factor: float
) -> None:
    w = normal(*SHAPE)
    found = quantized("lsq", factor * w, bits)
    np.testing.assert_allclose(found, factor * quantized("lsq", w, bits), rtol=1e-5)


def test_lsqs_step_gets_the_piecewise_gradient_scaled() -> None:
    w, g, s = normal(*SHAPE), normal(*SHAPE, seed=1), 0.37
    quantizer = set_to(for_weight("lsq", w, 3), step=s)
    found = gradient(quantizer, w, g)
    ratio = w.numpy() / np.float32(s)
    inside = (ratio > -4) & (ratio < 3)
    by_s = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, -4, 3))
    expected = (g.numpy() * by_s).sum() / np.sqrt(w.numel() * 3)
    assert slope(quantizer, "step") == pytest.approx(expected)
    np.testing.assert_allclose(found, g.numpy() * inside, rtol=1e-12)


def test_an_input_below_zero_teaches_lsq_nothing() -> None:
    x, g = normal(40, 5), normal(40, 5, seed=1)
    quantizer = set_to(for_input("lsq", x.abs(), 2), step=0.25)
    found = gradient(quantizer, x, g)
    ratio = x.numpy() / 0.25
    inside = (ratio > 0) & (ratio < 3)
    np.testing.assert_array_equal(found, g.numpy() * inside)
    by_s = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, 0, 3))
    expected = (g.numpy() * by_s).sum() / np.sqrt(5 * 3)
    assert slope(quantizer, "step") == pytest.approx(expected, rel=1e-6)


def test_lsqs_step_gets_no_gradient_where_nothing_is_rounded() -> None:
    w = 0.5 * torch.tensor([-3.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    quantizer = set_to(for_weight("lsq", w, 3), step=0.5)
    gradient(quantizer, w, torch.ones_like(w))
    assert slope(quantizer, "step") == pytest.approx(0, abs=1e-12)


def test_lsqs_activations_count_features_of_a_sample_or_of_the_batch() -> None:
    x = normal(20, 30).abs() + 100  # all above
    for count, expected in (("features", 30), ("numel", 600)):
        quantizer = set_to(for_input("lsq", x[:5], 2, activation_count=count), step=1.0)
        gradient(quantizer, x, torch.ones_like(x))
        assert slope(quantizer, "step") == pytest.approx(600 * 3 / np.sqrt(expected * 3))


@pytest.mark.parametrize("shift", [0.3, -0.3])
def test_lsq_pluss_weights_start_from_three_deviations(shift: float) -> None:
    w = normal(*SHAPE) + shift
    mean, std = w.numpy().mean(), w.numpy().std(ddof=1)
    expected = max(abs(mean - 3 * std), abs(mean + 3 * std)) / 4
    assert parameter(for_weight("lsq_plus", w, 3), "step") == pytest.approx(expected)


def shifted(x: Array, s: float, beta: float, n: int) -> Array:
    result: Array = np.round(np.clip((x - beta) / s, 0, n)) * s + beta
    return result


def test_lsq_pluss_start_loses_less_than_the_range() -> None:
    x = normal(400, 3).abs() - 0.2
    v = x.numpy()
    quantizer = for_input("lsq_plus", x, 2)
    found = quantizer(x).detach().numpy()
    step, offset = parameter(quantizer, "step"), parameter(quantizer, "offset")
    np.testing.assert_allclose(found, shifted(v, step, offset, 3), atol=1e-6)
    error = ((found - v) ** 2).mean()
    assert error < ((shifted(v, (v.max() - v.min()) / 3, v.min(), 3) - v) ** 2).mean()
    grid = [
        ((shifted(v, s, b, 3) - v) ** 2).mean()
        for s in np.linspace(0.7, 1.3, 13) * step
        for b in np.linspace(-0.3, 0.3, 13) * step + offset
    ]
    assert error <= 1.01 * min(grid)


def test_lsq_pluss_offset_learns_from_what_is_clipped_alone() -> None:
    x, g = normal(60, 4), normal(60, 4, seed=1)
    quantizer = set_to(for_input("lsq_plus", x, 2), step=0.4, offset=-0.5)
    gradient(quantizer, x, g)
    ratio = (x.numpy() + 0.5) / np.float32(0.4)
    inside = (ratio > 0) & (ratio < 3)
    scale = 1 / np.sqrt(4 * 3)
    expected = (g.numpy() * ~inside).sum() * scale
    assert slope(quantizer, "offset") == pytest.approx(expected, rel=1e-6)
    by_s = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, 0, 3))
    assert slope(quantizer, "step") == pytest.approx((g.numpy() * by_s).sum() * scale, rel=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_lsq_plus_without_an_offset_is_lsq(bits: int) -> None:
    x, g = normal(30, 6), normal(30, 6, seed=1)
    plus = set_to(for_input("lsq_plus", x, bits), step=0.25, offset=0.0)
    plain = set_to(for_input("lsq", x.abs(), bits), step=0.25)
    assert torch.equal(plus(x), plain(x))
    np.testing.assert_array_equal(gradient(plus, x, g), gradient(plain, x, g))
    assert slope(plus, "step") == pytest.approx(slope(plain, "step"), rel=1e-6)


def test_lsq_plus_shifts_with_its_input_and_its_offset() -> None:
    x = normal(30, 6)
    quantizer = set_to(for_input("lsq_plus", x, 3), step=0.25, offset=-0.5)
    here = quantizer(x).detach().numpy()
    set_to(quantizer, offset=1.5)
    np.testing.assert_allclose(quantizer(x + 2).detach().numpy(), here + 2, atol=1e-12)


def test_lsq_plus_passes_an_inputs_gradient_inside_the_range_only() -> None:
    x, g = normal(300), normal(300, seed=1)
    quantizer = set_to(for_input("lsq_plus", x[:, None], 2), step=0.5, offset=-0.75)
    inside = (x.numpy() > -0.75) & (x.numpy() < 0.75)
    np.testing.assert_array_equal(gradient(quantizer, x, g), g.numpy() * inside)


def test_lsq_pluss_start_is_exact_for_inputs_that_are_levels_already() -> None:
    x = 0.37 * torch.arange(8, dtype=torch.float64).repeat(5)[:, None] - 0.81
    quantizer = for_input("lsq_plus", x, 3)
    np.testing.assert_allclose(quantizer(x).detach().numpy(), x.numpy(), atol=1e-6)
    assert parameter(quantizer, "step") == pytest.approx(0.37)
    assert parameter(quantizer, "offset") == pytest.approx(-0.81)


def test_lsq_pluss_weights_are_lsqs_without_an_offset() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    plus = set_to(for_weight("lsq_plus", w, 3), step=0.25)
    assert [name for name, _ in plus.named_parameters()] == ["step"]
    codes = np.clip(np.round(w.numpy() / 0.25), -4, 3)
    np.testing.assert_array_equal(plus(w).detach().numpy(), 0.25 * codes)
    found = gradient(plus, w, g)
    ratio = w.numpy() / 0.25
    inside = (ratio > -4) & (ratio < 3)
    np.testing.assert_array_equal(found, g.numpy() * inside)
    by_s = np.where(inside, np.round(ratio) - ratio, np.clip(ratio, -4, 3))
    expected = (g.numpy() * by_s).sum() / np.sqrt(w.numel() * 3)
    assert slope(plus, "step") == pytest.approx(expected, rel=1e-6)


# APoT ---------------------------------------------------------------------------------------------

GRIDS = {
    2: [0, 1 / 4, 1 / 2, 1],
    3: [i / 10 for i in (0, 1, 2, 3, 4, 6, 8, 10)],
    4: [
        0, 1 / 48, 1 / 24, 1 / 16, 1 / 12, 1 / 8, 1 / 6, 3 / 16, 1 / 4, 1 / 3, 3 / 8, 1 / 2, 2 / 3,
        11 / 16, 3 / 4, 1,
    ],
}  # fmt: skip


@pytest.mark.parametrize("bits", GRIDS)
def test_apots_inputs_go_to_the_nearest_sum_of_powers_of_two(bits: int) -> None:
    x = torch.linspace(-1, 8, 2003, dtype=torch.float64)
    quantizer = set_to(for_input("apot", x, bits), alpha=4.0)
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
def test_apots_finer_levels_are_sums_of_the_released_codes_powers(
    bits: int, sets: tuple[tuple[int, ...], ...], largest: int
) -> None:
    x = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    found = np.unique(set_to(for_input("apot", x, bits), alpha=1.0)(x).detach().numpy())
    sums = np.unique([sum(parts) for parts in itertools.product(*sets)])
    assert len(sums) == 2**bits
    np.testing.assert_allclose(found, sums / largest, atol=1e-6)


@pytest.mark.parametrize(("bits", "magnitudes"), [(2, [0, 1]), (3, GRIDS[2]), (4, GRIDS[3])])
def test_apots_weights_are_normalised_and_projected(bits: int, magnitudes: list[float]) -> None:
    w = 0.2 * normal(*SHAPE) + 0.1
    v = w.numpy()
    unit = (v - v.mean()) / v.std(ddof=1)
    grid = np.array(magnitudes)
    near = np.abs(np.clip(np.abs(unit) / 2, 0, 1)[..., None] - grid).argmin(-1)
    quantizer = set_to(for_weight("apot", w, bits), alpha=2.0)
    expected = 2 * np.sign(unit) * grid[near]
    np.testing.assert_allclose(quantizer(w).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3])
def test_apots_clip_gets_the_rcf_gradient_and_two_bit_weights_an_unclipped_one(bits: int) -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    quantizer = for_weight("apot", w, bits, normalization_gradient=False)
    set_to(quantizer, alpha=1.1)
    found = gradient(quantizer, w, g)
    q = quantizer(w).detach().numpy()
    v = w.numpy()
    unit = (v - v.mean()) / v.std(ddof=1)
    outside = np.abs(unit) > 1.1
    by_alpha = np.where(outside, np.sign(unit), (q - unit) / 1.1)
    assert slope(quantizer, "alpha") == pytest.approx((g.numpy() * by_alpha).sum(), rel=1e-5)
    passed = g.numpy() if bits == 2 else g.numpy() * ~outside
    np.testing.assert_allclose(found, passed / v.std(ddof=1), rtol=1e-6)


@pytest.mark.parametrize(("bits", "levels"), [(2, 3), (3, 7), (4, 15), (5, 31)])
def test_apots_weights_have_a_sign_and_one_zero(bits: int, levels: int) -> None:
    w = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    quantizer = set_to(for_weight("apot", w, bits), alpha=1.5)
    found = np.unique(quantizer(w).detach().numpy())
    assert len(found) == levels
    np.testing.assert_allclose(found, -found[::-1], atol=1e-12)
    assert found[-1] == pytest.approx(1.5)


@pytest.mark.parametrize("bits", [2, 3])
def test_powers_of_two_alone_are_zero_and_one_over_them(bits: int) -> None:
    x = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    found = set_to(for_input("apot", x, bits, additive=False), alpha=1.0)(x).detach().numpy()
    powers = [2.0**-i for i in range(2**bits - 1)]
    np.testing.assert_allclose(np.unique(found), sorted([0.0, *powers]), atol=1e-7)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_apot_sees_a_weights_shape_and_neither_its_scale_nor_its_mean(bits: int) -> None:
    w = normal(*SHAPE)
    found = quantized("apot", 0.02 * w - 5, bits)
    np.testing.assert_allclose(found, quantized("apot", w, bits), rtol=1e-9)


@pytest.mark.parametrize("bits", [2, 4])
def test_apots_weight_gradient_goes_through_the_mean_and_the_deviation(bits: int) -> None:
    w, g = normal(4, 9, scale=0.3) + 0.1, normal(4, 9, seed=1)
    quantizer = set_to(for_weight("apot", w, bits), alpha=1.1)

    def loss(w: Array) -> float:
        unit = (w - w.mean()) / w.std(ddof=1)
        clipped = unit if bits == 2 else np.clip(unit, -1.1, 1.1)
        return float((g.numpy() * clipped).sum())

    slopes = central_differences(loss, w.numpy())
    np.testing.assert_allclose(gradient(quantizer, w, g), slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4])
def test_apots_input_clip_gets_the_rcf_gradient(bits: int) -> None:
    x, g = normal(400, scale=2), normal(400, seed=1)
    quantizer = set_to(for_input("apot", x, bits), alpha=1.5)
    found = gradient(quantizer, x, g)
    v, grid = x.numpy(), 1.5 * np.array(GRIDS[bits])
    inside = (v > 0) & (v < 1.5)
    np.testing.assert_allclose(found, g.numpy() * inside, rtol=1e-12)
    near = grid[np.abs(v[:, None] - grid).argmin(1)]
    by_alpha = np.where(inside, (near - v) / 1.5, v >= 1.5)
    assert slope(quantizer, "alpha") == pytest.approx((g.numpy() * by_alpha).sum(), rel=1e-5)


def test_apots_clips_start_at_three_and_six() -> None:
    assert parameter(for_weight("apot", normal(9), 4), "alpha") == 3
    assert parameter(for_input("apot", normal(9), 4), "alpha") == 6


# EWGS ---------------------------------------------------------------------------------------------


def test_ewgss_intervals_start_from_three_deviations() -> None:
    w, x = normal(*SHAPE), normal(200, seed=1).abs()
    weights, inputs = for_weight("ewgs", w, 2), for_input("ewgs", x, 2)
    assert parameter(weights, "high") == pytest.approx(3 * w.numpy().std(ddof=1))
    assert parameter(weights, "low") == pytest.approx(-3 * w.numpy().std(ddof=1))
    expected = 3 * x.numpy().std(ddof=1) / np.sqrt(1 - 2 / np.pi)
    assert parameter(inputs, "high") == pytest.approx(expected)
    assert parameter(inputs, "low") == pytest.approx(float(x.min()))


@pytest.mark.parametrize(("bits", "levels"), [(1, [-1, 1]), (2, [-1, -1 / 3, 1 / 3, 1])])
def test_ewgss_weights_are_evenly_spaced_between_minus_and_plus_one(
    bits: int, levels: list[float]
) -> None:
    w = normal(*SHAPE)
    quantizer = set_to(for_weight("ewgs", w, bits), low=-0.5, high=0.8)
    found = quantizer(w).detach().numpy()
    np.testing.assert_allclose(np.unique(found), levels, rtol=1e-6)
    n = 2**bits - 1
    unit = np.clip((w.numpy() + 0.5) / 1.3, 0, 1)
    np.testing.assert_allclose(found, 2 * (np.round(n * unit) / n - 0.5), atol=1e-6)


@pytest.mark.parametrize("delta", [0.0, 0.2, 1.0])
def test_ewgs_scales_each_gradient_with_the_rounding_error(delta: float) -> None:
    x, g = normal(300).abs(), normal(300, seed=1)
    quantizer = set_to(for_input("ewgs", x, 2, delta=delta), low=0.0, high=2.0)
    found = gradient(quantizer, x, g)
    unit = x.numpy() / 2
    error = unit - np.round(3 * unit) / 3
    expected = g.numpy() * (1 + delta * np.sign(g.numpy()) * error) / 2 * (unit < 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    inside = unit < 1
    assert (np.sign(found[inside]) == np.sign(g.numpy()[inside])).all()


def test_ewgss_output_scale_starts_where_outputs_keep_their_mean_size() -> None:
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    handle = attached("ewgs", "2/2", network_with_statistics())
    sizes = []
    for model in (network_with_statistics().eval(), handle.model.eval()):
        seen: list[Tensor] = []
        hook = model.get_submodule("3").register_forward_hook(lambda m, a, y, s=seen: s.append(y))
        with torch.no_grad():
            model(x)
        hook.remove()
        sizes.append(float(seen[0].abs().mean()))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


def test_ewgss_later_layers_too_start_where_outputs_keep_their_mean_size() -> None:
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    handle = attached("ewgs", "2/2", network_with_statistics())
    model = handle.model.eval()
    given: list[Tensor] = []
    returned: list[Tensor] = []
    layer = handle.layers[1]
    before = layer.module.register_forward_pre_hook(lambda m, a: given.append(a[0]), prepend=True)
    after = layer.module.register_forward_hook(lambda m, a, y: returned.append(y))
    with torch.no_grad():
        model(x)
        plain = nn.functional.conv2d(given[0], layer.latent_weight, stride=2, padding=1)
    before.remove()
    after.remove()
    # Exact where both convolutions see one input, close where one sees the float network's.
    assert float(returned[0].abs().mean()) == pytest.approx(float(plain.abs().mean()), rel=0.1)


def test_ewgss_output_scale_is_a_size() -> None:
    w = normal(*SHAPE)
    quantizer = for_weight("ewgs", w, 2)
    once = quantizer(w).detach().numpy()
    set_to(quantizer, output_scale=-0.5)
    np.testing.assert_allclose(quantizer(w).detach().numpy(), 0.5 * once, rtol=1e-12)


@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["weight", "input"])
def test_ewgss_bounds_get_the_slope_of_the_clip_under_the_scaled_gradient(
    kind: str, delta: float
) -> None:
    x, g = normal(80), normal(80, seed=1)
    start = np.array([-0.75, 1.25])
    if kind == "weight":
        quantizer = for_weight("ewgs", x, 2, delta=delta)
        set_to(quantizer, output_scale=0.5)
    else:
        quantizer = for_input("ewgs", x, 2, delta=delta)
    set_to(quantizer, low=start[0], high=start[1])
    found = gradient(quantizer, x, g)
    # 2 (x_q − ½) o has slope 2 o = 1.
    upstream = g.numpy()

    def unit(x: Array, p: Array) -> Array:
        clipped: Array = np.clip((x - p[0]) / (p[1] - p[0]), 0, 1)
        return clipped

    z = unit(x.numpy(), start)
    scaled = upstream * (1 + delta * np.sign(upstream) * (z - np.round(3 * z) / 3))
    by_x = central_differences(lambda v: float((scaled * unit(v, start)).sum()), x.numpy())
    np.testing.assert_allclose(found, by_x, rtol=1e-5, atol=1e-7)
    expected = central_differences(lambda p: float((scaled * unit(x.numpy(), p)).sum()), start)
    slopes = [slope(quantizer, name) for name in ("low", "high")]
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ewgs_changes_no_gradient_by_more_than_half_a_step_times_delta(bits: int) -> None:
    x = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    quantizer = set_to(for_input("ewgs", x, bits, delta=0.8), low=0.0, high=1.0)
    factors = gradient(quantizer, x, torch.ones_like(x))
    most = 0.8 / (2 * (2**bits - 1))
    assert np.abs(factors - 1).max() <= most + 1e-9
    assert np.abs(factors - 1).max() > 0.9 * most


def test_ewgss_delta_is_a_thousandth_unless_told() -> None:
    x, g = normal(50).abs(), normal(50, seed=1)
    found = gradient(for_input("ewgs", x, 2), x, g)
    told = gradient(for_input("ewgs", x, 2, delta=1e-3), x, g)
    np.testing.assert_array_equal(found, told)
    assert (found != gradient(for_input("ewgs", x, 2, delta=0.0), x, g)).any()


# Bi-Real, ReActNet --------------------------------------------------------------------------------


def test_bireals_sign_has_the_slope_of_a_triangle() -> None:
    x = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    found = gradient(for_input("bireal", x, 1), x, torch.ones_like(x))
    v = x.numpy()
    inside = np.abs(v) < 1
    np.testing.assert_allclose(found, np.where(inside, 2 - 2 * np.abs(v), 0), atol=1e-12)
    assert np.trapezoid(found, v) == pytest.approx(2, rel=0.01)
    np.testing.assert_array_equal(for_input("bireal", x, 1)(x).numpy(), plus_minus(v))


@pytest.mark.parametrize("form", ["paper", "code"])
def test_bireals_weight_gradient_knows_the_magnitude_or_not(form: str) -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    size = per_filter(np.abs(w.numpy()))
    np.testing.assert_allclose(quantized("bireal", w, 1), size * plus_minus(w.numpy()), rtol=1e-14)
    found = gradient(for_weight("bireal", w, 1, gradient=form), w, g)
    window = np.abs(w.numpy()) < 1
    np.testing.assert_allclose(found, g.numpy() * window * (size if form == "paper" else 1))


def test_bireals_shortcut_carries_the_input_past_a_convolution_of_zeros() -> None:
    handle = attached("bireal", "1/1")
    block = handle.model.get_submodule("3")
    layer = handle.layers[0]
    assert layer.name.startswith("3.")
    with torch.no_grad():
        layer.latent_weight.zero_()
        x = torch.randn(2, 8, 4, 4)
        assert torch.allclose(block.eval()(x), x, atol=1e-6)
    assert not any(isinstance(m, nn.ReLU) for m in handle.model.modules())


@pytest.mark.parametrize("name", ["bireal", "react_net"])
def test_without_weights_a_binary_block_is_its_input_and_the_norm_of_zero(name: str) -> None:
    handle = attached(name, "1/1")
    block = handle.model.get_submodule("3").eval()
    norm = next(m for m in block.modules() if isinstance(m, nn.BatchNorm2d))
    mean, bias = torch.linspace(-1, 1, 8), torch.linspace(0, 3, 8)
    x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        handle.layers[0].latent_weight.zero_()
        assert norm.running_mean is not None
        norm.running_mean.copy_(mean)
        norm.bias.copy_(bias)
        found = block(x).numpy()
    expected = x.numpy() + (bias - mean / np.sqrt(1 + norm.eps)).numpy()[:, None, None]
    if name == "react_net":  # PReLU, both shifts 0
        expected = np.where(expected > 0, expected, 0.25 * expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bireal_gives_torchvisions_blocks_two_shortcuts_and_a_float_one() -> None:
    model = registry.build_model("resnet18", 10, 3)
    x = torch.randn(2, 3, 64, 64)
    handle = attach(model, "bireal", bits="1/1", calibration=[x])
    names = [layer.name for layer in handle.layers]
    assert len(names) == 16  # no 1×1 among them
    assert all(layer.latent_weight.shape[2:] == (3, 3) for layer in handle.layers)
    assert handle.model.eval()(x).shape == (2, 10)

    x = torch.randn(2, 64, 8, 8)
    down = model.get_submodule("layer2")
    (one,) = [w for w in down.parameters() if w.shape[2:] == (1, 1)]
    with torch.no_grad():
        for layer in handle.layers:
            layer.latent_weight.zero_()
        same, halved = model.get_submodule("layer1")(x), down(x)
        pooled = nn.functional.conv2d(nn.functional.avg_pool2d(x, 2), one)
    np.testing.assert_allclose(same.numpy(), x.numpy(), atol=1e-5)
    np.testing.assert_allclose(halved.numpy(), pooled.numpy() / np.sqrt(1 + 1e-5), atol=1e-5)


def test_react_nets_sign_has_a_learned_threshold_for_each_channel() -> None:
    x = normal(5, 3, 4, 4)
    quantizer = for_input("react_net", x, 1)
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), plus_minus(x.numpy()))
    shift = np.array([0.5, -0.2, 0.0]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        quantizer.get_parameter("shift").copy_(torch.from_numpy(shift))
    shift = quantizer.get_parameter("shift").detach().numpy()
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), plus_minus(x.numpy() + shift))
    g = normal(5, 3, 4, 4, seed=1)
    found = gradient(quantizer, x, g)
    moved = np.abs(x.numpy() + shift)
    expected = g.numpy() * np.where(moved < 1, 2 - 2 * moved, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    grad = quantizer.get_parameter("shift").grad
    assert grad is not None
    np.testing.assert_allclose(grad.numpy().ravel(), expected.sum((0, 2, 3)), rtol=1e-9)


def test_react_net_has_an_rprelu_of_its_own_channels_after_every_binary_convolution() -> None:
    handle = attached("react_net", "1/1")
    found = [m for m in handle.model.modules() if type(m).__name__ == "RPReLU"]
    widths = [layer.latent_weight.shape[0] for layer in handle.layers]
    assert [m.get_parameter("before").numel() for m in found] == widths == [8, 16]
    first = found[0]
    b1, b2 = normal(8, seed=1).float(), normal(8, seed=2).float()
    slopes = torch.linspace(0.1, 0.8, 8)
    x = normal(2, 8, 3, 3).float()
    with torch.no_grad():
        first.get_parameter("before").copy_(b1.view(1, 8, 1, 1))
        first.get_parameter("after").copy_(b2.view(1, 8, 1, 1))
        first.get_parameter("prelu.weight").copy_(slopes)
        y = first(x).numpy()
    for c in range(8):
        moved = x.numpy()[:, c] + float(b1[c])
        expected = np.where(moved > 0, moved, float(slopes[c]) * moved) + float(b2[c])
        np.testing.assert_allclose(y[:, c], expected, atol=1e-6)


def test_react_nets_rprelu_starts_as_a_prelu_and_shifts_both_ways() -> None:
    handle = attached("react_net", "1/1")
    (first, *_) = [m for m in handle.model.modules() if type(m).__name__ == "RPReLU"]
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        assert torch.equal(first(x), nn.functional.prelu(x, torch.full((8,), 0.25)))
        first.get_parameter("before").fill_(0.3)
        first.get_parameter("after").fill_(-0.1)
        expected = np.where(x.numpy() + 0.3 > 0, x.numpy() + 0.3, 0.25 * (x.numpy() + 0.3)) - 0.1
        np.testing.assert_allclose(first(x).numpy(), expected, atol=1e-6)


def test_react_nets_weights_are_bireals_with_the_released_codes_gradient() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    expected = per_filter(np.abs(w.numpy())) * plus_minus(w.numpy())
    np.testing.assert_allclose(quantized("react_net", w, 1), expected, rtol=1e-14)
    found = gradient(for_weight("react_net", w, 1), w, g)
    np.testing.assert_allclose(found, g.numpy() * (np.abs(w.numpy()) < 1))


# Post-training ------------------------------------------------------------------------------------


def symmetric(w: Array, r: Array, n: int) -> Array:
    s = r / n
    result: Array = s * np.clip(np.round(w / s), -n, n)
    return result


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_min_max_covers_each_filters_whole_range(bits: int) -> None:
    w = normal(*SHAPE)
    n = 2 ** (bits - 1) - 1
    r = np.abs(w.numpy()).max(axis=(1, 2, 3), keepdims=True)
    found = quantized("ptq_minmax", w, bits)
    np.testing.assert_allclose(found, symmetric(w.numpy(), r, n), atol=1e-12)
    assert np.abs(found - w.numpy()).max() <= (r / n / 2).max() + 1e-12
    whole = quantized("ptq_minmax", w, bits, scope="layer")
    np.testing.assert_allclose(whole, symmetric(w.numpy(), r.max(), n), atol=1e-12)


def test_min_maxs_inputs_are_affine_with_zero_a_level() -> None:
    x = normal(300) + 0.5
    found = for_input("ptq_minmax", x, 3)(x).numpy()
    v = x.numpy()
    s = (v.max() - v.min()) / 7
    z = np.round(-v.min() / s)
    np.testing.assert_allclose(found, s * (np.clip(np.round(v / s) + z, 0, 7) - z), atol=1e-12)
    assert float(for_input("ptq_minmax", x, 3)(torch.zeros(1).double())) == 0


@pytest.mark.parametrize("name", ["ptq_minmax", "ptq_percentile", "ptq_mse", "adaround"])
def test_post_training_quantizers_learn_nothing_from_training(name: str) -> None:
    assert not registry.method_class(name).trains
    w, x = normal(*SHAPE), normal(50, 4).abs()
    for quantizer, values in ((for_weight(name, w, 3), w), (for_input(name, x, 3), x)):
        assert not list(quantizer.parameters())
        once = quantizer(values)
        assert quantizer(10 * values).abs().max() <= 4 / 3 * once.abs().max()  # the range stays
        assert torch.equal(quantizer(values), once)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
@pytest.mark.parametrize("name", ["ptq_minmax", "ptq_percentile", "ptq_mse"])
def test_post_training_ranges_scale_with_the_weight_and_keep_zero(name: str, factor: float) -> None:
    w = normal(*SHAPE)
    w[:, 1] = 0
    found = quantized(name, w, 3)
    assert not found[:, 1].any()
    np.testing.assert_allclose(quantized(name, factor * w, 3), factor * found, rtol=1e-9)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_min_max_of_its_own_levels_changes_nothing(bits: int) -> None:
    once = quantized("ptq_minmax", normal(*SHAPE), bits)
    assert max(len(np.unique(row)) for row in once) <= 2**bits - 1
    again = quantized("ptq_minmax", torch.from_numpy(once), bits)
    np.testing.assert_allclose(again, once, atol=1e-12)


def test_min_maxs_unsigned_inputs_move_by_half_a_step_at_most_and_use_every_level() -> None:
    x = torch.linspace(0, 3, 1001, dtype=torch.float64)
    found = for_input("ptq_minmax", x, 3)(x).numpy()
    np.testing.assert_allclose(np.unique(found.round(9)), 3 / 7 * np.arange(8), atol=1e-9)
    assert np.abs(found - x.numpy()).max() <= 3 / 14 + 1e-9


@pytest.mark.parametrize("percentile", [90.0, 99.0, 100.0])
def test_a_percentile_leaves_out_that_share_of_the_weights(percentile: float) -> None:
    w = normal(2, 1000)
    found = np.abs(quantized("ptq_percentile", w, 8, percentile=percentile))
    sizes = np.sort(np.abs(w.numpy()), axis=1)
    kept = int(np.ceil(1000 * percentile / 100))
    np.testing.assert_allclose(found.max(axis=1), sizes[:, kept - 1], rtol=1e-12)
    if percentile == 100:
        np.testing.assert_array_equal(found, np.abs(quantized("ptq_minmax", w, 8)))


def test_a_larger_percentile_covers_a_larger_range() -> None:
    x = normal(1000).abs()
    tops = [
        float(for_input("ptq_percentile", x, 4, percentile=p)(torch.tensor([1e9]).double()))
        for p in (50.0, 90.0, 99.0, 100.0)
    ]
    assert tops == sorted(tops)
    assert tops[-1] == pytest.approx(float(x.max()))


def test_a_percentile_clips_both_ends_of_signed_inputs() -> None:
    x = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    x[0], x[-1] = -40, 25
    found = for_input("ptq_percentile", x, 8, percentile=99.0)(x).numpy()
    reach = np.sort(np.abs(x.numpy()))[989]  # 990 of 1000 sizes lie within
    s = 2 * reach / 255
    assert np.abs(found).max() <= reach + s
    inside = np.abs(x.numpy()) < reach
    assert np.abs(found - x.numpy())[inside].max() <= s * (1 + 1e-9)
    spread = for_input("ptq_minmax", x, 8)(x).numpy()
    assert np.abs(found - x.numpy())[inside].max() < 0.1 * np.abs(spread - x.numpy())[inside].max()


@pytest.mark.parametrize("power", [2.0, 2.4])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_mse_range_loses_least_of_those_tried(bits: int, power: float) -> None:
    w = normal(3, 500)
    n = 2 ** (bits - 1) - 1
    found = quantized("ptq_mse", w, bits, power=power)
    for row, got in zip(w.numpy(), found, strict=True):
        top = np.abs(row).max()
        tried = [symmetric(row, (1 - 0.01 * i) * top, n) for i in range(80)]
        errors = [(np.abs(q - row) ** power).sum() for q in tried]
        np.testing.assert_allclose(got, tried[int(np.argmin(errors))], atol=1e-12)


def test_the_mse_range_of_inputs_loses_no_more_than_the_whole() -> None:
    x = normal(2000).abs()
    errors = [
        float((for_input(name, x, 2)(x) - x).abs().pow(2.4).sum())
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
    found = for_input("ptq_mse", x, bits, power=power)(x).numpy()
    assert (np.abs(found - v) ** power).sum() == pytest.approx(least, rel=1e-9)


# AdaRound -----------------------------------------------------------------------------------------


def test_adaround_starts_from_the_float_weight() -> None:
    w = 0.1 * normal(*SHAPE)
    quantizer = for_weight("adaround", w, 4)
    step, v = quantizer.get_buffer("step"), quantizer.get_buffer("v")
    ratio = (w / step).numpy()
    h = np.clip(1.2 / (1 + np.exp(-v.numpy())) - 0.1, 0, 1)
    np.testing.assert_allclose(np.floor(ratio) + h, ratio, atol=1e-5)
    np.testing.assert_allclose(quantizer.h(v).numpy(), h, atol=1e-12)  # type: ignore[operator]


def test_adaround_rounds_every_weight_up_or_down_and_serves_the_output_better() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(16, 16)
    x = torch.randn(256, 16) @ mixing  # correlated inputs: where nearest rounding is not best
    model = nn.Sequential(nn.Linear(16, 8))
    w = model.get_parameter("0.weight").detach().clone()
    target = model(x).detach()
    options = {"iterations": 600, "lr": 0.01}
    method = registry.build_method("adaround", options)
    handle = attach(model, method, bits="3/32", layers="all", calibration=[x])
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    step = quantizer.get_buffer("step")
    hard = handle.harden().get_parameter("0.weight").detach()
    codes = (hard / step).numpy()
    np.testing.assert_allclose(codes, codes.round(), atol=1e-4)
    ratio = (w / step).numpy()
    low, high = np.clip(np.floor(ratio), -4, 3), np.clip(np.floor(ratio) + 1, -4, 3)
    assert ((np.abs(codes - low) < 1e-3) | (np.abs(codes - high) < 1e-3)).all()
    nearest = step * (w / step).round().clamp(-4, 3)
    bias = model.get_parameter("0.bias").detach()
    errors = [float((x @ q.t() + bias - target).square().mean()) for q in (hard, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_adarounds_step_is_that_of_least_squared_error() -> None:
    w = normal(*SHAPE)
    v = w.numpy()
    top = np.abs(v).max()

    def error(s: float) -> float:
        return float(((s * np.clip(np.round(v / s), -4, 3) - v) ** 2).sum())

    found = float(for_weight("adaround", w, 3).get_buffer("step"))
    assert error(found) == pytest.approx(min(error((1 - 0.01 * i) * top / 3) for i in range(80)))


def test_adaround_rounds_to_nearest_until_it_has_learnt() -> None:
    w = normal(*SHAPE)
    quantizer = for_weight("adaround", w, 3)
    ratio = w.numpy() / float(quantizer.get_buffer("step"))
    away = np.abs(np.abs(ratio - np.floor(ratio)) - 0.5) > 1e-6
    found = quantizer(w).numpy() / float(quantizer.get_buffer("step"))
    np.testing.assert_allclose(found[away], np.clip(np.round(ratio), -4, 3)[away], atol=1e-9)


def between(lam: float) -> float:
    """The share of a layer's h that stays between 0 and 1 under a regulariser."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8))
    x = torch.randn(64, 8) @ torch.randn(8, 8)
    options = {"iterations": 300, "lr": 0.03, "regularization": lam}
    method = registry.build_method("adaround", options)
    handle = attach(model, method, bits="3/32", layers="all", calibration=[x])
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    h = np.clip(1.2 / (1 + np.exp(-quantizer.get_buffer("v").numpy())) - 0.1, 0, 1)
    return float(((h > 0.02) & (h < 0.98)).mean())


def test_adarounds_regulariser_leaves_no_weight_between_two_codes() -> None:
    assert between(0.0) > 0.5
    assert between(1.0) < 0.05


def chosen(model: nn.Sequential, bits: str, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The last layer's weight after AdaRound, and every way to round it."""
    w = list(model.parameters())[-1].detach().clone()
    options = {"iterations": 1000, "lr": 0.01, "regularization": 0.001, "batch_size": 256}
    method = registry.build_method("adaround", options)
    handle = attach(model, method, bits=bits, layers="all", calibration=[x])
    quantizer = handle.layers[-1].weight_quantizer
    assert quantizer is not None
    step = quantizer.get_buffer("step")
    floor = (w / step).floor()
    ups = torch.tensor(list(itertools.product((0.0, 1.0), repeat=w.numel())))
    ways = [step * (floor + up.view(w.shape)).clamp(-4, 3) for up in ups]
    return step * (quantizer(w) / step).round(), ways


def squared(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


@torch.no_grad()
def of_all(ways: list[Tensor], x: Tensor, target: Tensor) -> list[float]:
    return [squared(x @ way.t(), target) for way in ways]


@pytest.mark.parametrize("seed", [2, 3])
def test_adaround_serves_the_float_networks_output_on_inputs_already_quantized(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(256, 5) @ torch.randn(5, 5)
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 1, bias=False))
    with torch.no_grad():
        middle, target = model[0](x), model(x)
    found, ways = chosen(model, "3/32", x)
    with torch.no_grad():
        given = model[0](x)  # by the first layer, quantized
    errors = of_all(ways, given, target)
    assert squared(given @ found.t(), target) == pytest.approx(min(errors), rel=1e-3)
    apart = of_all(ways, middle, target)  # rounding each layer for itself is worse
    assert errors[int(np.argmin(apart))] > 1.2 * min(errors)


@pytest.mark.parametrize("seed", [3, 4])
def test_adaround_serves_the_output_of_inputs_that_are_not_quantized(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(256, 5) @ torch.randn(5, 5)
    model = nn.Sequential(nn.Linear(5, 1, bias=False))
    with torch.no_grad():
        target = model(x)
    found, ways = chosen(model, "3/2", x)
    seen: list[Tensor] = []
    hook = model[0].register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    errors = of_all(ways, seen[0], target)
    assert squared(seen[0] @ found.t(), target) == pytest.approx(min(errors), rel=1e-3)

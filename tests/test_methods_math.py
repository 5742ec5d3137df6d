"""Every method against its paper's formulas, written again in plain numpy and float64 torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.attachment import Handle, attach
from qbench.bits import Width
from qbench.method import Layer, Quantizer

Array = np.ndarray[Any, Any]
FLOAT = Width(32)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=random, dtype=torch.float64)


def gaussian(count: int) -> Tensor:
    """Quantiles of N(0, 1): its distribution without the noise of a draw."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


def for_weight(name: str, weight: Tensor, bits: str | int, **options: Any) -> nn.Module:
    """The quantizer that a method builds for a weight, in float64 and in training."""
    layer = Layer("layer", nn.Identity(), Width.parse(str(bits)), FLOAT)
    quantizer = registry.build_method(name, options).weight_quantizer(layer, weight)
    assert quantizer is not None
    return quantizer.double().train()


def for_input(name: str, sample: Tensor, bits: int, **options: Any) -> nn.Module:
    """The quantizer that a method builds for an input, in float64 and in training."""
    layer = Layer("layer", nn.Identity(), FLOAT, Width(bits))
    quantizer = registry.build_method(name, options).input_quantizer(layer, sample)
    assert quantizer is not None
    return quantizer.double().train()


def quantized(name: str, weight: Tensor, bits: str | int, **options: Any) -> Array:
    result: Array = for_weight(name, weight, bits, **options)(weight).detach().numpy()
    return result


def gradient(quantizer: nn.Module, x: Tensor, g: Tensor) -> Array:
    """∂C/∂x where ∂C/∂y = g."""
    leaf = x.clone().requires_grad_()
    quantizer(leaf).backward(g)
    assert leaf.grad is not None
    return leaf.grad.numpy()


def central_differences(function: Callable[[Array], float], at: Array) -> Array:
    slopes = np.empty_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-6
        slopes[index] = (function(at + step) - function(at - step)) / 2e-6
    return slopes


def per_filter(values: Array) -> Array:
    """Mean of each filter, to broadcast against the weight."""
    mean: Array = values.mean(axis=tuple(range(1, values.ndim)), keepdims=True)
    return mean


def plus_minus(values: Array) -> Array:
    return np.where(values >= 0, 1.0, -1.0)


def handle_of(model: nn.Module, name: str, bits: str = "1/32", **options: Any) -> Handle:
    return attach(model, name, bits=bits, layers="all", **options)


# Of several methods -------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e-6, 0.3, 7.0, 1e6])
@pytest.mark.parametrize(
    ("name", "bits", "options"),
    [
        ("ste", 1, {}),
        ("ste", 2, {}),
        ("ste", 4, {"scope": "layer"}),
        ("bwn", 1, {}),
        ("twn", 2, {}),
        ("twn", 2, {"scope": "filter"}),
        ("dorefa", 1, {}),
    ],
)
def test_a_scaled_weight_is_quantized_to_the_scaled_levels(
    name: str, bits: int, options: dict[str, Any], factor: float
) -> None:
    w = normal(6, 4, 3, 3)
    np.testing.assert_allclose(
        quantized(name, factor * w, bits, **options),
        factor * quantized(name, w, bits, **options),
        rtol=1e-12,
    )


@pytest.mark.parametrize(
    ("name", "bits", "options"),
    [
        ("ste", 1, {}),
        ("ste", 2, {}),
        ("ste", 8, {}),
        ("binary_connect", 1, {}),
        ("binary_connect", 1, {"stochastic": True}),
        ("twn", 2, {}),
        ("twn", 2, {"scope": "filter"}),
        ("dorefa", 1, {}),
        ("lq_nets", 1, {}),
        ("lq_nets", 3, {}),
    ],
)
def test_a_weights_gradient_goes_straight_through(
    name: str, bits: int, options: dict[str, Any]
) -> None:
    w, g = normal(5, 3, 3, 3, scale=2), normal(5, 3, 3, 3, seed=1)
    found = gradient(for_weight(name, w, bits, **options), w, g)
    np.testing.assert_allclose(found, g.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", ["ste", "binary_connect", "bwn", "dorefa"])
def test_the_sign_of_zero_is_plus(name: str) -> None:
    w = torch.tensor([[0.0, -0.0, 3.0, -1.0]], dtype=torch.float64)
    assert np.sign(quantized(name, w, 1)).tolist() == [[1, 1, 1, -1]]


# STE ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_ste_rounds_weights_to_multiples_of_the_largest_over_n(bits: int, scope: str) -> None:
    w = normal(6, 4, 3, 3)
    n = 2 ** (bits - 1) - 1
    largest = np.abs(w.numpy()).max(axis=(1, 2, 3) if scope == "filter" else None, keepdims=True)
    step = largest / n
    expected = step * np.clip(np.round(w.numpy() / step), -n, n)
    np.testing.assert_allclose(quantized("ste", w, bits, scope=scope), expected, atol=1e-14)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ste_moves_no_weight_by_more_than_half_a_step_and_keeps_zero_and_the_largest(
    bits: int,
) -> None:
    w = normal(3, 50)
    w[:, 7] = 0
    w_q = quantized("ste", w, bits)
    step = np.abs(w.numpy()).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(w_q - w.numpy()) <= step / 2 * (1 + 1e-12)).all()
    assert (w_q[:, 7] == 0).all()
    top = np.abs(w.numpy()).argmax(1)
    rows = np.arange(3)
    np.testing.assert_allclose(w_q[rows, top], w.numpy()[rows, top])


@pytest.mark.parametrize("scope", ["layer", "filter"])
def test_ste_at_one_bit_is_the_sign_times_the_mean(scope: str) -> None:
    w = normal(6, 4, 3, 3)
    size = np.abs(w.numpy())
    mean = per_filter(size) if scope == "filter" else size.mean()
    np.testing.assert_allclose(
        quantized("ste", w, 1, scope=scope), mean * plus_minus(w.numpy()), rtol=1e-12
    )


@pytest.mark.parametrize("bits", [1, 4])
def test_ste_leaves_an_all_zero_filter_alive(bits: int) -> None:
    w = torch.zeros(2, 9)
    w[1] = 0.5
    layer = Layer("layer", nn.Identity(), Width(bits), FLOAT)
    quantizer = registry.build_method("ste", {}).weight_quantizer(layer, w)
    assert quantizer is not None
    assert quantizer(w)[0].tolist() == [0] * 9
    g = normal(2, 9, scale=1e-4).float()
    np.testing.assert_allclose(gradient(quantizer, w, g), g.numpy(), rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ste_rounds_inputs_to_evenly_spaced_levels_from_zero_to_the_range(bits: int) -> None:
    x_q = for_input("ste", torch.tensor([0.0, 1.0, 3.0]), bits)
    x = torch.linspace(0, 4, 1001, dtype=torch.float64)
    levels = 3.0 * np.arange(2**bits) / (2**bits - 1)
    nearest = levels[np.abs(x.numpy()[:, None] - levels).argmin(1)]
    away = np.abs(x.numpy()[:, None] - (levels[1:] + levels[:-1]) / 2).min(1) > 1e-9
    np.testing.assert_allclose(x_q(x).numpy()[away], nearest[away], atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_ste_quantizes_an_input_with_negative_values_symmetrically(bits: int) -> None:
    x_q = for_input("ste", torch.tensor([-1.0, 2.0]), bits)
    n = 2 ** (bits - 1) - 1
    found = x_q(torch.linspace(-5, 5, 2001, dtype=torch.float64)).unique()
    np.testing.assert_allclose(found.numpy(), 2.0 * np.arange(-n, n + 1) / n, atol=1e-6)


def test_ste_binarises_an_input_with_negative_values_to_two_levels() -> None:
    x_q = for_input("ste", torch.tensor([-1.0, 2.0]), 1)
    assert len(x_q(torch.linspace(-5, 5, 2001, dtype=torch.float64)).unique()) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ste_keeps_a_dead_input_at_zero(dtype: torch.dtype) -> None:
    layer = Layer("layer", nn.Identity(), FLOAT, Width(4))
    quantizer = registry.build_method("ste", {}).input_quantizer(layer, torch.zeros(9))
    assert quantizer is not None
    assert quantizer(torch.zeros(9, dtype=dtype)).tolist() == [0] * 9


@pytest.mark.parametrize(("sample", "low"), [([0.0, 2.0], 0.0), ([-2.0, 1.0], -2.0)])
def test_ste_passes_an_inputs_gradient_inside_the_range_only(
    sample: list[float], low: float
) -> None:
    x = torch.linspace(-3, 3, 200, dtype=torch.float64)
    g = normal(200, seed=1)
    inside = (x.numpy() > low) & (x.numpy() < 2)
    found = gradient(for_input("ste", torch.tensor(sample), 2), x, g)
    np.testing.assert_allclose(found, g.numpy() * inside, atol=1e-12)


def ste_ranges(momentum: float, maxima: list[float], training: bool = True) -> list[float]:
    """A linear layer's input range after each of several batches of these maxima."""
    model = nn.Sequential(nn.Linear(2, 2))
    handle = attach(
        model,
        "ste",
        bits="4/4",
        layers="all",
        calibration=[torch.tensor([[0.5, 1.0]])],
        momentum=momentum,
    )
    quantizer = handle.layers[0].input_quantizer
    assert quantizer is not None
    model.train(training)
    ranges = []
    for maximum in maxima:
        model(torch.tensor([[0.0, maximum], [maximum / 2, 0.0]]))
        ranges.append(float(quantizer(torch.tensor(1e6))))  # everything above saturates at r
    return ranges


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_stes_range_is_a_running_average_of_the_batches_maxima(momentum: float) -> None:
    maxima = [3.0, 0.2, 5.0, 5.0]
    expected, average = [], 1.0  # the calibration data's maximum
    for maximum in maxima:
        average = momentum * average + (1 - momentum) * maximum
        expected.append(average)
    assert ste_ranges(momentum, maxima) == pytest.approx(expected, rel=1e-5)


def test_stes_range_settles_on_what_all_batches_share() -> None:
    assert ste_ranges(0.9, [2.5] * 150)[-1] == pytest.approx(2.5, rel=1e-5)


def test_stes_range_stays_during_evaluation() -> None:
    assert ste_ranges(0.9, [3.0, 5.0], training=False) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(("percentile", "top"), [(100.0, 1000), (99.0, 990), (50.0, 500)])
def test_stes_percentile_leaves_out_the_largest_inputs(percentile: float, top: int) -> None:
    sample = torch.arange(1, 1001).flip(0).float()
    x_q = for_input("ste", sample, 8, percentile=percentile)
    assert float(x_q(torch.tensor(1e5, dtype=torch.float64))) == pytest.approx(top)


# BinaryConnect ------------------------------------------------------------------------------


def test_binary_connects_weights_are_plus_and_minus_one() -> None:
    w = normal(6, 4, 3, 3, scale=0.1)
    np.testing.assert_array_equal(quantized("binary_connect", w, 1), plus_minus(w.numpy()))


def test_binary_connects_drawn_weights_have_the_clipped_weight_as_their_mean() -> None:
    torch.manual_seed(0)
    w = torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)
    draws = for_weight("binary_connect", w, 1, stochastic=True)(w.expand(40_000, 13))
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    # Five standard deviations of a mean of as many signs.
    np.testing.assert_allclose(draws.mean(0).numpy(), w.clamp(-1, 1).numpy(), atol=0.025)


def test_binary_connect_draws_nothing_where_the_weight_is_at_its_bounds() -> None:
    w = torch.tensor([-1.0, 1.0]).expand(1000, 2)
    drawn = for_weight("binary_connect", w, 1, stochastic=True)(w)
    assert torch.equal(drawn, w)


def test_binary_connects_drawn_weights_are_evaluated_as_signs() -> None:
    w = normal(50, 50)
    quantizer = for_weight("binary_connect", w, 1, stochastic=True).eval()
    np.testing.assert_array_equal(quantizer(w).numpy(), plus_minus(w.numpy()))


def test_binary_connect_clips_quantized_weights_after_the_step_and_no_others() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)).double()
    for parameter in model.parameters():
        parameter.data = normal(*parameter.shape, scale=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    handle = attach(model, "binary_connect", bits="1/32")
    handle.after_step()
    handle.detach()
    after = dict(model.named_parameters())
    clipped = before.pop("1.weight").clamp(-1, 1)
    assert float(clipped.detach().abs().max()) == 1
    assert torch.equal(after["1.weight"], clipped)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_binary_connects_inputs_are_signs_with_a_gradient_between_minus_and_plus_one() -> None:
    x, g = normal(300, scale=1.5), normal(300, seed=1)
    quantizer = for_input("binary_connect", x, 1)
    np.testing.assert_array_equal(quantizer(x).numpy(), plus_minus(x.numpy()))
    window = np.abs(x.numpy()) <= 1
    assert 0 < window.sum() < 300
    np.testing.assert_array_equal(gradient(quantizer, x, g), g.numpy() * window)


@pytest.mark.parametrize(("bits", "kind"), [("1/1", nn.Hardtanh), ("1/32", nn.ReLU)])
def test_binary_connect_lets_negative_values_reach_binary_inputs(
    bits: str, kind: type[nn.Module]
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.ReLU()), nn.Linear(4, 2))
    handle = handle_of(model, "binary_connect", bits, calibration=[torch.randn(4, 3)])
    found = [type(m) for m in handle.model.modules() if isinstance(m, nn.ReLU | nn.Hardtanh)]
    assert found == [kind, kind]


# BWN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 10), (6, 1, 3, 3)])
def test_bwn_is_the_sign_times_each_filters_mean(shape: tuple[int, ...]) -> None:
    w = normal(*shape)
    expected = per_filter(np.abs(w.numpy())) * plus_minus(w.numpy())
    np.testing.assert_allclose(quantized("bwn", w, 1), expected, rtol=1e-12)


def test_no_other_scale_and_no_other_signs_come_closer_to_the_weight_than_bwns() -> None:
    w = normal(3, 7)
    error = ((w.numpy() - quantized("bwn", w, 1)) ** 2).sum(1)
    for signs in itertools.product((-1.0, 1.0), repeat=7):
        b = np.array(signs)
        scale = (w.numpy() @ b) / 7  # least squares for these signs
        other = ((w.numpy() - scale[:, None] * b) ** 2).sum(1)
        assert (error <= other + 1e-12).all()


def test_bwn_of_a_binary_weight_is_that_weight() -> None:
    once = quantized("bwn", normal(6, 4, 3, 3), 1)
    np.testing.assert_allclose(quantized("bwn", torch.from_numpy(once), 1), once, rtol=1e-12)


def test_bwns_gradient_is_the_papers() -> None:
    w, g = normal(6, 4, 3, 3), normal(6, 4, 3, 3, seed=1)
    alpha, window = per_filter(np.abs(w.numpy())), np.abs(w.numpy()) < 1
    expected = g.numpy() * (1 / 36 + alpha * window)
    np.testing.assert_allclose(gradient(for_weight("bwn", w, 1), w, g), expected, rtol=1e-12)


def test_bwns_exact_gradient_adds_the_slope_of_the_scale() -> None:
    w, g = normal(3, 2, 2, 2), normal(3, 2, 2, 2, seed=1)
    weight, upstream, signs = w.numpy(), g.numpy(), plus_minus(w.numpy())
    through_sign = upstream * per_filter(np.abs(weight)) * (np.abs(weight) < 1)
    through_scale = central_differences(
        lambda v: float((upstream * per_filter(np.abs(v)) * signs).sum()), weight
    )
    found = gradient(for_weight("bwn", w, 1, gradient="exact"), w, g)
    np.testing.assert_allclose(found, through_sign + through_scale, rtol=1e-6, atol=1e-8)


def test_bwns_lua_gradient_is_the_released_codes_for_sgd() -> None:
    w, g = normal(6, 4, 3, 3), normal(6, 4, 3, 3, seed=1)
    m = per_filter(np.abs(w.numpy())) * (np.abs(w.numpy()) < 1) + 1 / 36
    expected = g.numpy() * m * (1 - 1 / 4) * 36
    found = gradient(for_weight("bwn", w, 1, gradient="lua"), w, g)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("moment", ["first epoch", "after a step"])
def test_bwns_centring_subtracts_the_mean_over_input_channels_then_clips(moment: str) -> None:
    convolution = nn.Conv2d(4, 6, 3).double()
    w = normal(6, 4, 3, 3, scale=1.5)
    convolution.weight.data = w.clone()
    handle = handle_of(nn.Sequential(convolution), "bwn", centre=True)
    if moment == "first epoch":
        handle.on_epoch_start(1, 10)
    else:
        handle.layers[0].latent_weight.data = w.clone()
        handle.after_step()
    centred = np.clip(w.numpy() - w.numpy().mean(axis=1, keepdims=True), -1, 1)
    found = handle.layers[0].latent_weight.detach().numpy()
    np.testing.assert_allclose(found, centred, atol=1e-14)
    assert np.abs(found).max() == 1


def test_bwn_leaves_weights_where_they_are_unless_told_to_centre() -> None:
    convolution = nn.Conv2d(4, 6, 3)
    before = convolution.weight.detach().clone()
    handle = handle_of(nn.Sequential(convolution), "bwn")
    handle.on_epoch_start(1, 10)
    handle.after_step()
    assert torch.equal(handle.layers[0].latent_weight, before)


# TWN ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["layer", "filter"])
@pytest.mark.parametrize("factor", [0.7, 0.4])
def test_twn_keeps_weights_above_the_threshold_at_their_mean_size(
    factor: float, scope: str
) -> None:
    w = normal(6, 4, 3, 3)
    groups = w.numpy().reshape(6 if scope == "filter" else 1, -1)
    expected = np.zeros_like(groups)
    for row, out in zip(groups, expected, strict=True):
        delta = factor * np.abs(row).mean()
        out[row > delta], out[row < -delta] = 1, -1
        out *= np.abs(row)[np.abs(row) > delta].mean()
    found = quantized("twn", w, 2, threshold=factor, scope=scope)
    np.testing.assert_allclose(found, expected.reshape(w.shape), rtol=1e-12)


def test_a_weight_on_twns_threshold_becomes_zero() -> None:
    # The mean size is 2, so with a factor of one half the threshold is 1.
    w = torch.tensor([[1.0, -1.0, 3.0, -3.0]], dtype=torch.float64)
    assert quantized("twn", w, 2, threshold=0.5).tolist() == [[0, 0, 3, -3]]


def test_twns_scale_is_the_least_squares_one_for_its_codes() -> None:
    w = normal(1, 500)
    w_q = quantized("twn", w, 2)
    codes = np.sign(w_q)
    scale = (w.numpy() * codes).sum() / (codes**2).sum()
    np.testing.assert_allclose(w_q, scale * codes, rtol=1e-12)


def test_twn_makes_the_expected_share_of_a_gaussian_zero() -> None:
    w_q = quantized("twn", gaussian(100_000)[None], 2)
    assert (w_q == 0).mean() == pytest.approx(0.4235, abs=0.001)


def test_twn_lies_between_the_best_ternary_weight_and_the_binary_one() -> None:
    w = gaussian(2000)[None]
    sizes = np.sort(np.abs(w.numpy()[0]))[::-1]
    kept = np.cumsum(sizes) ** 2 / np.arange(1, 2001)  # what keeping the largest k explains
    best = ((sizes**2).sum() - kept.max()) / 2000
    ternary = ((w.numpy() - quantized("twn", w, 2)) ** 2).mean()
    binary = ((w.numpy() - quantized("bwn", w, 1)) ** 2).mean()
    assert best <= ternary < binary
    assert ternary == pytest.approx(best, rel=0.03)


def test_twn_of_an_all_zero_weight_is_zero() -> None:
    assert not quantized("twn", torch.zeros(2, 3, dtype=torch.float64), 2).any()


# DoReFa-Net ---------------------------------------------------------------------------------


def tanh_normalised(w: Array) -> Array:
    scaled: Array = np.tanh(w) / np.abs(np.tanh(w)).max()
    return scaled


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_dorefa_rounds_the_tanh_normalised_weight(bits: int) -> None:
    w = normal(6, 4, 3, 3)
    levels = 2 * np.arange(2**bits) / (2**bits - 1) - 1
    nearest = levels[np.abs(tanh_normalised(w.numpy())[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(quantized("dorefa", w, bits), nearest, atol=1e-12)


def test_dorefas_two_bit_levels_have_no_zero() -> None:
    found = np.unique(quantized("dorefa", normal(50, 50), 2).round(12))
    np.testing.assert_allclose(found, [-1, -1 / 3, 1 / 3, 1], atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 0.02, 1.0, 30.0])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_dorefas_largest_weight_is_one(bits: int, scale: float) -> None:
    w = normal(4, 30, scale=scale)
    assert np.abs(quantized("dorefa", w, bits)).max() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dorefa_keeps_the_order_of_weights(bits: int) -> None:
    w = normal(1, 500).sort().values
    assert (np.diff(quantized("dorefa", w, bits)) >= 0).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_dorefas_gradient_goes_through_tanh_and_through_the_maximum(bits: int) -> None:
    w, g = normal(4, 6), normal(4, 6, seed=1)
    slopes = central_differences(lambda v: float((g.numpy() * tanh_normalised(v)).sum()), w.numpy())
    found = gradient(for_weight("dorefa", w, bits), w, g)
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-8)


def test_dorefa_at_one_bit_has_one_scale_for_the_layer() -> None:
    w = normal(6, 4, 3, 3)
    expected = np.abs(w.numpy()).mean() * plus_minus(w.numpy())
    np.testing.assert_allclose(quantized("dorefa", w, 1), expected, rtol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dorefa_clips_inputs_to_one_and_rounds_them(bits: int) -> None:
    x, g = normal(500), normal(500, seed=1)
    quantizer = for_input("dorefa", x, bits)
    levels = np.arange(2**bits) / (2**bits - 1)
    nearest = levels[np.abs(x.numpy()[:, None] - levels).argmin(1)]
    np.testing.assert_allclose(quantizer(x).numpy(), nearest, atol=1e-12)
    inside = (x.numpy() > 0) & (x.numpy() < 1)
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * inside, atol=1e-12)


# LQ-Nets ------------------------------------------------------------------------------------


def basis_of(quantizer: nn.Module) -> Array:
    return quantizer.get_buffer("basis").detach().clone().numpy()


def set_basis(quantizer: nn.Module, *basis: float) -> None:
    quantizer.get_buffer("basis").copy_(torch.tensor(basis))


def learn(quantizer: nn.Module, x: Tensor) -> None:
    assert isinstance(quantizer, Quantizer)
    with torch.no_grad():
        quantizer.update(x)


def codes_of(x: Array, v: Array, digits: tuple[int, int]) -> Array:
    """The code of every value, (values, K): that of the nearest of all sums."""
    codes = np.array(list(itertools.product(digits, repeat=len(v))))
    nearest: Array = codes[np.abs(x[:, None] - codes @ v).argmin(1)]
    return nearest


def best_basis(x: Array, v: Array, digits: tuple[int, int]) -> Array:
    """v* = (B Bᵀ + 10⁻⁴ I)⁻¹ (B x + 10⁻⁴ v)."""
    b = codes_of(x, v, digits).T
    ridge = 1e-4 * np.eye(len(v))
    solution: Array = np.linalg.solve(b @ b.T + ridge, b @ x + 1e-4 * v)
    return solution


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_starts_weights_from_the_released_codes_basis(bits: int) -> None:
    basis = basis_of(for_weight("lq_nets", normal(16, 4, 3, 3), bits))
    unit = 0.6745 * np.sqrt(2 / (3 * 3 * 16)) / 2 ** (bits - 1)
    expected = np.tile(unit * 2.0 ** np.arange(bits), (16, 1))
    np.testing.assert_allclose(np.sort(basis), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("bits", "basis"), [(1, [1.349]), (2, [0.4497, 0.8993]), (3, [0.1927, 0.3854, 0.7709])]
)
def test_lq_nets_starts_inputs_from_the_released_codes_basis(bits: int, basis: list[float]) -> None:
    found = np.sort(basis_of(for_input("lq_nets", normal(8, 4), bits)))
    np.testing.assert_allclose(found, [basis], atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_takes_weights_to_the_nearest_sum_of_plus_or_minus_each_basis_element(
    bits: int,
) -> None:
    w = normal(5, 40)
    quantizer = for_weight("lq_nets", w, bits)
    quantizer.get_buffer("basis").copy_(normal(5, bits, seed=3).abs() + 0.1)
    v = basis_of(quantizer)
    expected = [codes_of(w.numpy()[i], v[i], (-1, 1)) @ v[i] for i in range(5)]
    np.testing.assert_allclose(quantizer(w).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_takes_inputs_to_the_nearest_sum_of_some_basis_elements(bits: int) -> None:
    x = normal(4, 3, 5, 5).abs()
    quantizer = for_input("lq_nets", x, bits)
    v = basis_of(quantizer)[0]
    expected = codes_of(x.numpy().ravel(), v, (0, 1)) @ v
    np.testing.assert_allclose(quantizer(x).numpy().ravel(), expected, atol=1e-12)


def test_on_a_threshold_lq_nets_goes_down() -> None:
    weights = for_weight("lq_nets", normal(1, 3), 2)
    set_basis(weights, 0.25, 0.5)
    ties = torch.tensor([[-0.5, 0.0, 0.5]], dtype=torch.float64)
    assert weights(ties).tolist() == [[-0.75, -0.25, 0.25]]
    assert weights(ties + 1e-9).tolist() == [[-0.25, 0.25, 0.75]]
    inputs = for_input("lq_nets", normal(1, 3), 2)
    set_basis(inputs, 0.25, 0.5)
    ties = torch.tensor([[0.125, 0.375, 0.625]], dtype=torch.float64)
    assert inputs(ties).tolist() == [[0, 0.25, 0.5]]
    assert inputs(ties + 1e-9).tolist() == [[0.25, 0.5, 0.75]]


def test_lq_nets_sorts_its_levels_when_the_basis_is_out_of_order_or_negative() -> None:
    quantizer = for_weight("lq_nets", normal(1, 3), 2)
    set_basis(quantizer, 0.5, -0.25)
    w = torch.tensor([[-2.0, -0.3, 0.2, 0.6]], dtype=torch.float64)
    assert quantizer(w).tolist() == [[-0.75, -0.25, 0.25, 0.75]]


def test_lq_nets_passes_an_inputs_gradient_below_the_top_level_only() -> None:
    x, g = torch.linspace(0, 3, 200, dtype=torch.float64), normal(200, seed=1)
    quantizer = for_input("lq_nets", x, 2)
    below = x.numpy() < basis_of(quantizer).sum()
    assert 0 < below.sum() < 200
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * below)


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_moves_each_filters_basis_toward_its_least_squares_one(
    bits: int, momentum: float
) -> None:
    w = normal(4, 60, scale=0.5)
    quantizer = for_weight("lq_nets", w, bits, momentum=momentum)
    v = basis_of(quantizer)
    learn(quantizer, w)
    best = np.stack([best_basis(w.numpy()[i], v[i], (-1, 1)) for i in range(4)])
    expected = momentum * v + (1 - momentum) * best
    np.testing.assert_allclose(basis_of(quantizer), expected, rtol=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_moves_a_layers_input_basis_toward_its_least_squares_one(bits: int) -> None:
    x = normal(5, 3, 4, 4).clamp(min=0)
    quantizer = for_input("lq_nets", x, bits)
    v = basis_of(quantizer)[0]
    learn(quantizer, x)
    expected = 0.9 * v + 0.1 * best_basis(x.numpy().ravel(), v, (0, 1))
    np.testing.assert_allclose(basis_of(quantizer), [expected], rtol=1e-9)


def test_debiased_the_basis_after_one_step_is_the_least_squares_one() -> None:
    w = normal(1, 80)
    quantizer = for_weight("lq_nets", w, 2, debias=True)
    v = basis_of(quantizer)[0]
    learn(quantizer, w)
    np.testing.assert_allclose(basis_of(quantizer), [best_basis(w.numpy()[0], v, (-1, 1))])


def test_debiased_the_basis_is_the_weighted_mean_of_all_least_squares_ones() -> None:
    quantizer = for_weight("lq_nets", normal(1, 80), 2, debias=True)
    v, average = basis_of(quantizer)[0], np.zeros(2)
    for step in range(1, 6):
        w = normal(1, 80, seed=step)
        average = 0.9 * average + 0.1 * best_basis(w.numpy()[0], v, (-1, 1))
        v = average / (1 - 0.9**step)
        learn(quantizer, w)
        np.testing.assert_allclose(basis_of(quantizer), [v], rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_learning_its_levels_never_raises_lq_nets_error(bits: int, momentum: float) -> None:
    w, x = normal(1, 400), normal(400, seed=1).clamp(min=0)
    for quantizer, data in (
        (for_weight("lq_nets", w, bits, momentum=momentum), w),
        (for_input("lq_nets", x, bits, momentum=momentum), x),
    ):
        errors = []
        for _ in range(40):
            errors.append(float((quantizer(data) - data).norm()))
            learn(quantizer, data)
        assert (np.diff(errors) <= 1e-9).all()
        assert errors[-1] < errors[0]


def test_lq_nets_at_one_bit_settles_on_the_mean_size_in_one_step() -> None:
    w = normal(6, 4, 3, 3)
    quantizer = for_weight("lq_nets", w, 1, momentum=0.0)
    learn(quantizer, w)
    mean = np.abs(w.numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(basis_of(quantizer)[:, 0], mean, rtol=1e-5)
    learn(quantizer, w)
    np.testing.assert_allclose(basis_of(quantizer)[:, 0], mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("bits", "basis", "error"),
    [(2, [0.529, 0.983], 0.1175), (3, [0.301, 0.607, 1.158], 0.0369)],
)
def test_lq_nets_learns_the_known_levels_of_a_gaussian(
    bits: int, basis: list[float], error: float
) -> None:
    w = gaussian(20_000)[None]
    quantizer = for_weight("lq_nets", w, bits, momentum=0.0)
    for _ in range(200):
        learn(quantizer, w)
    np.testing.assert_allclose(np.sort(basis_of(quantizer)[0]), basis, atol=0.005)
    assert float((quantizer(w) - w).square().mean()) == pytest.approx(error, abs=0.0005)


def test_lq_nets_finds_levels_that_are_there() -> None:
    true = torch.tensor([-0.9, -0.3, 0.3, 0.9], dtype=torch.float64)
    w = true.repeat(1, 30)
    quantizer = for_weight("lq_nets", w, 2, momentum=0.0)
    set_basis(quantizer, 0.2, 0.8)
    for _ in range(5):
        learn(quantizer, w)
    np.testing.assert_allclose(quantizer(w).numpy(), w.numpy(), atol=1e-5)


def test_a_code_bit_that_no_value_uses_keeps_its_basis() -> None:
    x = torch.full((50,), 0.4, dtype=torch.float64)
    quantizer = for_input("lq_nets", x, 2)
    low, high = np.sort(basis_of(quantizer)[0])
    learn(quantizer, x)
    np.testing.assert_allclose(
        np.sort(basis_of(quantizer)[0]), [0.9 * low + 0.1 * 0.4, high], rtol=1e-4
    )


def test_lq_nets_learns_from_large_float32_inputs_as_from_their_parts() -> None:
    # One value more often than float32 can count one by one.
    layer = Layer("layer", nn.Identity(), FLOAT, Width(1))
    method = registry.build_method("lq_nets", {"momentum": 0.0})
    x = torch.full((2**24 + 2**22,), 0.7)
    quantizer = method.input_quantizer(layer, x[:10])
    assert quantizer is not None
    learn(quantizer, x)
    assert basis_of(quantizer).item() == pytest.approx(0.7, rel=1e-3)


def test_lq_nets_learns_in_training_only_and_after_the_weight_was_used() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    handle = handle_of(model, "lq_nets", "2/2", calibration=[torch.rand(4, 3)])
    layer = handle.layers[0]
    x = torch.rand(4, 3)
    for quantizer, data in (
        (layer.weight_quantizer, layer.latent_weight.detach()),
        (layer.input_quantizer, x),
    ):
        assert quantizer is not None
        before = basis_of(quantizer)
        used: list[Tensor] = []
        hook = quantizer.register_forward_hook(lambda m, a, y, used=used: used.append(y.detach()))
        model.eval()(x)
        np.testing.assert_array_equal(basis_of(quantizer), before)
        model.train()(x)
        assert not np.array_equal(basis_of(quantizer), before)
        assert torch.equal(used[0], used[1])
        hook.remove()
        assert not torch.equal(quantizer(data), used[1])


# Quantization Networks ----------------------------------------------------------------------

QN_LEVELS = {
    "1": [-1, 1],
    "2": [-1, 0, 1],
    "3(±2)": [-2, -1, 0, 1, 2],
    "3(±4)": [-4, -2, -1, 0, 1, 2, 4],
    "5": list(range(-15, 16)),
}
MANY = [bits for bits in QN_LEVELS if len(QN_LEVELS[bits]) > 3]


def parameter(quantizer: nn.Module, name: str) -> Array:
    return quantizer.get_parameter(name).detach().clone().numpy()


def lloyd(values: Array, clusters: int) -> Array:
    """k-means from the middles of equal parts of the range."""
    edges = np.linspace(values.min(), values.max(), clusters + 1)
    centres: Array = (edges[1:] + edges[:-1]) / 2
    for _ in range(300):
        nearest = np.abs(values[:, None] - centres).argmin(1)
        means = [values[nearest == i].mean() for i in range(clusters) if (nearest == i).any()]
        kept = [i for i in range(clusters) if (nearest == i).any()]
        centres[kept] = means
    return centres


@pytest.mark.parametrize("bits", QN_LEVELS)
def test_quantization_networks_weights_take_the_papers_levels(bits: str) -> None:
    w = normal(8, 500)
    quantizer = for_weight("quantization_networks", w, bits).eval()
    grid = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    found = quantizer(grid).detach().unique().numpy() / parameter(quantizer, "alpha")
    np.testing.assert_allclose(found, QN_LEVELS[bits], atol=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_quantization_networks_inputs_take_levels_from_zero(bits: int) -> None:
    x = torch.linspace(0, 3, 20_001, dtype=torch.float64)
    quantizer = for_input("quantization_networks", x, bits).eval()
    found = quantizer(x).detach().unique().numpy() / parameter(quantizer, "alpha")
    np.testing.assert_allclose(found, np.arange(2**bits), atol=1e-9)


@pytest.mark.parametrize("bits", QN_LEVELS)
def test_beta_is_five_quarters_of_the_largest_level_over_the_largest_weight(bits: str) -> None:
    w = normal(8, 100, scale=0.03)
    quantizer = for_weight("quantization_networks", w, bits)
    beta = 5 * max(QN_LEVELS[bits]) / (4 * np.abs(w.numpy()).max())
    assert parameter(quantizer, "beta") == pytest.approx(beta, rel=1e-6)
    assert parameter(quantizer, "alpha") == pytest.approx(1 / beta, rel=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_beta_of_an_input_comes_from_the_sample(bits: int) -> None:
    x = normal(1000).clamp(min=0)
    quantizer = for_input("quantization_networks", x, bits)
    beta = 5 * (2**bits - 1) / (4 * x.max().item())
    assert parameter(quantizer, "beta") == pytest.approx(beta, rel=1e-6)
    assert parameter(quantizer, "alpha") == pytest.approx(1 / beta, rel=1e-6)


def test_the_single_bias_of_binary_weights_is_zero() -> None:
    w = normal(4, 100) + 0.3
    assert parameter(for_weight("quantization_networks", w, 1), "biases").tolist() == [0]


def test_the_biases_of_ternary_weights_are_minus_and_plus_a_twentieth() -> None:
    found = parameter(for_weight("quantization_networks", normal(4, 100), 2), "biases")
    np.testing.assert_allclose(found, [-0.05, 0.05], rtol=1e-6)


@pytest.mark.parametrize("bits", MANY)
def test_a_weights_biases_are_midpoints_of_k_means_centres_but_around_zero(bits: str) -> None:
    w = normal(4, 300)
    levels = QN_LEVELS[bits]
    beta = 5 * max(levels) / (4 * np.abs(w.numpy()).max())
    centres = lloyd(beta * w.numpy().ravel(), len(levels))
    expected = (centres[1:] + centres[:-1]) / 2
    middle = levels.index(0)
    expected[middle - 1 : middle + 1] = [-0.05, 0.05]
    found = parameter(for_weight("quantization_networks", w, bits), "biases")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_an_inputs_biases_are_midpoints_of_the_means_of_what_they_divide(bits: int) -> None:
    x = normal(2000).abs()
    quantizer = for_input("quantization_networks", x, bits)
    biases = parameter(quantizer, "biases")
    scaled = x.numpy() * parameter(quantizer, "beta")
    part = np.searchsorted(biases, scaled)
    means = np.array([scaled[part == i].mean() for i in range(2**bits)])
    np.testing.assert_allclose(biases, (means[1:] + means[:-1]) / 2, atol=1e-5)


def test_uniform_biases_are_evenly_spaced() -> None:
    found = for_input("quantization_networks", normal(100).abs(), 3, biases="uniform")
    np.testing.assert_allclose(parameter(found, "biases"), np.arange(7) + 0.5)
    found = for_weight("quantization_networks", normal(4, 100), "3(±4)", biases="uniform")
    expected = [-3, -1.5, -0.5, 0.5, 1.5, 3]
    np.testing.assert_allclose(parameter(found, "biases"), expected, rtol=1e-6)
    found = for_weight("quantization_networks", normal(4, 100), 2, biases="uniform")
    np.testing.assert_allclose(parameter(found, "biases"), [-0.5, 0.5])


@pytest.mark.parametrize("bits", QN_LEVELS)
def test_weights_step_where_beta_w_crosses_a_bias(bits: str) -> None:
    w = normal(4, 300)
    quantizer = for_weight("quantization_networks", w, bits).eval()
    thresholds = parameter(quantizer, "biases") / parameter(quantizer, "beta")
    levels = np.array(QN_LEVELS[bits]) * parameter(quantizer, "alpha")
    below = quantizer(torch.from_numpy(thresholds - 1e-9)).detach().numpy()
    above = quantizer(torch.from_numpy(thresholds + 1e-9)).detach().numpy()
    np.testing.assert_allclose(below, levels[:-1], atol=1e-12)
    np.testing.assert_allclose(above, levels[1:], atol=1e-12)


def sigmoid(z: Array) -> Array:
    value: Array = 0.5 * (1 + np.tanh(z / 2))
    return value


@pytest.mark.parametrize("bits", QN_LEVELS)
@pytest.mark.parametrize("epoch", [1, 4])
def test_in_training_a_weight_is_equation_7_with_its_exact_gradients(bits: str, epoch: int) -> None:
    w, g = normal(3, 40), normal(3, 40, seed=1)
    linear = nn.Linear(40, 3).double()
    linear.weight.data = w.clone()
    model = nn.Sequential(linear)
    handle = handle_of(model, "quantization_networks", f"{bits}/32", temperature_rate=2.0)
    model.double().train()
    handle.on_epoch_start(epoch, 10)
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    linear.weight.backward(g)

    alpha, beta = parameter(quantizer, "alpha"), parameter(quantizer, "beta")
    biases, temperature = parameter(quantizer, "biases"), 2.0 * epoch
    scales = np.diff(QN_LEVELS[bits])
    h = sigmoid(temperature * (beta * w.numpy()[..., None] - biases))
    y = alpha * ((scales * h).sum(-1) - scales.sum() / 2)
    slope = (scales * h * (1 - h)).sum(-1)
    np.testing.assert_allclose(linear.weight.detach().numpy(), y, rtol=1e-9, atol=1e-12)
    for leaf, expected in (
        (handle.layers[0].latent_weight, g.numpy() * alpha * beta * temperature * slope),
        (quantizer.get_parameter("alpha"), (g.numpy() * y / alpha).sum()),
        (
            quantizer.get_parameter("beta"),
            (g.numpy() * alpha * temperature * w.numpy() * slope).sum(),
        ),
    ):
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-8, atol=1e-12)


def test_the_function_is_soft_in_training_and_hard_in_evaluation() -> None:
    w = normal(4, 100)
    quantizer = for_weight("quantization_networks", w, "3(±4)")
    assert len(quantizer(w).unique()) > 300
    assert len(quantizer.eval()(w).unique()) <= 7


@pytest.mark.parametrize("rate", [5.0, 10.0])
def test_the_temperature_is_the_rate_times_the_epoch_everywhere(rate: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    handle = handle_of(
        model,
        "quantization_networks",
        "2/2",
        calibration=[torch.randn(8, 3)],
        temperature_rate=rate,
        phases=[0, 0, 1],
    )
    for epoch in (1, 2, 30):
        handle.on_epoch_start(epoch, 30)
        found = [float(b) for name, b in model.named_buffers() if name.endswith("temperature")]
        assert found == [rate * epoch] * 4


@pytest.mark.parametrize("learn_biases", [False, True])
def test_biases_are_frozen_unless_they_are_to_be_learned(learn_biases: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    handle = handle_of(model, "quantization_networks", "3(±2)/32", learn_biases=learn_biases)
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    groups = handle.parameter_groups(lr=0.1, weight_decay=0.0)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    before = parameter(quantizer, "biases"), parameter(quantizer, "alpha")
    model(torch.ones(3, 6)).square().sum().backward()
    optimizer.step()
    assert np.array_equal(parameter(quantizer, "biases"), before[0]) is not learn_biases
    assert not np.array_equal(parameter(quantizer, "alpha"), before[1])


def test_learned_biases_get_the_exact_gradient() -> None:
    w, g = normal(3, 40), normal(3, 40, seed=1)
    quantizer = for_weight("quantization_networks", w, "3(±4)", learn_biases=True)
    quantizer(w).backward(g)
    alpha, beta, b = (parameter(quantizer, name) for name in ("alpha", "beta", "biases"))
    h = sigmoid(5.0 * (beta * w.numpy()[..., None] - b))
    scales = np.diff(QN_LEVELS["3(±4)"])
    expected = (g.numpy()[..., None] * -alpha * 5.0 * scales * h * (1 - h)).sum((0, 1))
    found = quantizer.get_parameter("biases").grad
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)


def test_what_quantizers_learn_has_no_weight_decay() -> None:
    handle = handle_of(nn.Sequential(nn.Linear(6, 5)), "quantization_networks", "2/32")
    network, own = handle.parameter_groups(lr=0.1, weight_decay=1e-4)
    assert network["weight_decay"] == 1e-4
    assert own["weight_decay"] == 0
    assert len(own["params"]) == 2

"""The methods of the papers' tables, against their formulas written again in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.attachment import Handle, attach
from qbench.method import Method
from tests.test_methods_math import (
    Array,
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


def attached(method: str, bits: str, **options: object) -> Handle:
    """A method on a linear layer of 40 weights, in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5, bias=False)).double()
    return attach(
        model, registry.build_method(method, options), bits=bits, layers="all",
        calibration=[normal(16, 8, seed=9).abs()],
    )  # fmt: skip


def latent(handle: Handle) -> nn.Parameter:
    return handle.layers[0].latent_weight


def filters_of(weight: Tensor) -> Array:
    """mean|w| · sign(w) of each filter."""
    w = weight.numpy()
    result: Array = per_filter(np.abs(w)) * plus_minus(w)
    return result


# BNN ----------------------------------------------------------------------------------------------


def test_bnns_weights_and_inputs_are_signs() -> None:
    w = normal(*SHAPE)
    np.testing.assert_array_equal(quantized("bnn", w, 1), plus_minus(w.numpy()))
    x = normal(4, 5, seed=1)
    np.testing.assert_array_equal(for_input("bnn", x, 1)(x).numpy(), plus_minus(x.numpy()))


def test_bnns_input_gradient_passes_inside_the_hard_tanh_only() -> None:
    x = torch.tensor([-1.5, -0.99, -0.2, 0.3, 0.99, 1.01, 7.0], dtype=torch.float64)
    g = normal(7, seed=2)
    found = gradient(for_input("bnn", x, 1), x, g)
    np.testing.assert_array_equal(found, g.numpy() * (np.abs(x.numpy()) <= 1))


def test_bnns_weights_stay_between_minus_and_plus_one() -> None:
    handle = attached("bnn", "1/1")
    with torch.no_grad():
        latent(handle).mul_(50)
    handle.after_step()
    assert float(latent(handle).detach().abs().max()) == 1.0


def test_bnns_drawn_inputs_have_the_clipped_input_as_their_mean() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.25, 3.0], dtype=torch.float64)
    quantizer = for_input("bnn", x, 1, stochastic=True)
    torch.manual_seed(0)
    mean = torch.stack([quantizer(x) for _ in range(20_000)]).mean(0)
    np.testing.assert_allclose(mean.numpy(), np.clip(x.numpy(), -1, 1), atol=0.03)
    np.testing.assert_array_equal(quantizer.eval()(x).numpy(), plus_minus(x.numpy()))


def test_batch_norm_and_sign_is_a_threshold() -> None:
    x = normal(64, 3, seed=3)
    norm = nn.BatchNorm1d(3).double().eval()
    norm.running_mean.copy_(torch.tensor([0.3, -0.2, 0.0]))  # type: ignore[union-attr]
    norm.running_var.copy_(torch.tensor([2.0, 0.5, 1.0]))  # type: ignore[union-attr]
    norm.bias.data.copy_(torch.tensor([0.1, -0.4, 0.2]))
    with torch.no_grad():
        found = for_input("bnn", x, 1)(norm(x)).numpy()
    mu, sigma = np.array([0.3, -0.2, 0.0]), np.sqrt(np.array([2.0, 0.5, 1.0]) + norm.eps)
    threshold = mu - np.array([0.1, -0.4, 0.2]) * sigma
    np.testing.assert_array_equal(found, np.where(x.numpy() >= threshold, 1.0, -1.0))


# XNOR-Net -----------------------------------------------------------------------------------------


def test_xnors_weights_are_bwns_and_its_inputs_signs() -> None:
    w, x = normal(*SHAPE), normal(3, 7, seed=1)
    np.testing.assert_allclose(quantized("xnor", w, 1), filters_of(w), rtol=1e-14)
    np.testing.assert_array_equal(for_input("xnor", x, 1)(x).numpy(), plus_minus(x.numpy()))


def test_xnors_input_gradient_is_zero_from_one_on() -> None:
    x = torch.tensor([-1.0, -0.999, 0.0, 0.999, 1.0, 1.2], dtype=torch.float64)
    found = gradient(for_input("xnor", x, 1), x, torch.ones_like(x))
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 0, 0])


def test_a_binary_convolution_counts_agreements() -> None:
    w, x = normal(*SHAPE), normal(2, 4, 5, 5, seed=1)
    signs = torch.from_numpy(quantized("xnor", w, 1) / per_filter(np.abs(w.numpy())))
    y = torch.nn.functional.conv2d(for_input("xnor", x, 1)(x), signs).numpy()
    inputs = 4 * 3 * 3
    assert np.abs(y).max() <= inputs + 1e-9
    np.testing.assert_allclose((y.round() - inputs) % 2, 0)


def test_xnors_scale_map_is_the_best_scale_of_a_single_patch() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=True)).double()
    x = normal(1, 4, 3, 3, seed=1)
    method = registry.build_method("xnor", {"scale_map": True})
    handle = attach(model, method, bits="1/1", layers="all", calibration=[x])
    layer = handle.layers[0]
    bias = layer.module.get_parameter("bias").detach().numpy()
    patch = x.numpy()[0]
    best = (patch * plus_minus(patch)).sum() / patch.size  # argmin over β of ‖x − β sign(x)‖²
    dot = (filters_of(layer.latent_weight.detach()) * plus_minus(patch)).sum((1, 2, 3))
    with torch.no_grad():
        found = handle.model(x).numpy().ravel()
    np.testing.assert_allclose(found, dot * best + bias, rtol=1e-12)


# TTQ ----------------------------------------------------------------------------------------------


def ttq() -> tuple[nn.Module, Tensor, Array]:
    w = normal(*SHAPE)
    quantizer = for_weight("ttq", w, 2)
    with torch.no_grad():
        quantizer.get_parameter("positive").fill_(0.7)
        quantizer.get_parameter("negative").fill_(0.4)
    delta = 0.05 * np.abs(w.numpy()).max()
    region = np.where(w.numpy() > delta, 1, np.where(w.numpy() < -delta, -1, 0))
    return quantizer, w, region


def test_ttqs_scales_start_at_one_or_at_the_mean_beyond_the_threshold() -> None:
    w = normal(*SHAPE)
    ones = for_weight("ttq", w, 2)
    assert [float(p.detach()) for p in ones.parameters()] == [1.0, 1.0]
    mean = for_weight("ttq", w, 2, initial="mean")
    values = w.numpy()
    delta = 0.05 * np.abs(values).max()
    expected = [values[values > delta].mean(), -values[values < -delta].mean()]
    assert [float(p.detach()) for p in mean.parameters()] == pytest.approx(expected)


def test_ttqs_levels_are_its_two_scales_and_zero() -> None:
    quantizer, w, region = ttq()
    expected = np.choose(region + 1, [-0.4, 0.0, 0.7])
    np.testing.assert_allclose(quantizer(w).detach().numpy(), expected, rtol=1e-7)


def test_ttqs_scales_get_the_gradient_of_what_they_stand_for() -> None:
    quantizer, w, region = ttq()
    g = normal(*SHAPE, seed=5)
    quantizer(w).backward(g)
    found = [float(p.grad) for p in quantizer.parameters() if p.grad is not None]
    expected = [g.numpy()[region == 1].sum(), -g.numpy()[region == -1].sum()]
    assert found == pytest.approx(expected)


def test_ttqs_latent_weights_get_a_scaled_gradient_in_each_region() -> None:
    quantizer, w, region = ttq()
    g = normal(*SHAPE, seed=5)
    expected = g.numpy() * np.choose(region + 1, [0.4, 1.0, 0.7])
    np.testing.assert_allclose(gradient(quantizer, w, g), expected, rtol=1e-7)


# INQ ----------------------------------------------------------------------------------------------


def powers(w: Array, bits: int) -> Array:
    n1 = math.floor(math.log2(4 * np.abs(w).max() / 3))
    n2 = n1 + 1 - 2 ** (bits - 1) // 2
    positive = [2.0**n for n in range(n2, n1 + 1)]
    return np.array([-p for p in reversed(positive)] + [0.0] + positive)


@pytest.mark.parametrize(("bits", "count"), [(2, 3), (3, 5), (4, 9), (5, 17)])
def test_inqs_levels_are_powers_of_two_and_zero(bits: int, count: int) -> None:
    w = 0.3 * normal(64, 64)
    allowed = powers(w.numpy(), bits)
    assert len(allowed) == count
    found = for_weight("inq", w, bits).eval()(w).numpy()
    assert set(np.abs(np.unique(found))) <= set(np.abs(allowed))
    nearest = allowed[np.abs(w.numpy()[..., None] - allowed).argmin(-1)]
    np.testing.assert_array_equal(found, nearest)


def test_inq_freezes_the_largest_weights_first_and_never_lets_them_move() -> None:
    handle = attached("inq", "5/32", portions=[0.5, 0.75, 1.0])
    before = latent(handle).detach().clone().numpy()
    allowed = powers(before, 5)
    handle.on_epoch_start(1, 4)
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    frozen = quantizer.get_buffer("frozen").numpy().copy()
    assert frozen.sum() == 20
    assert np.abs(before[frozen]).min() >= np.abs(before[~frozen]).max()
    values = latent(handle).detach().numpy()[frozen].copy()
    assert np.isin(np.abs(values), np.abs(allowed)).all()
    np.testing.assert_array_equal(latent(handle).detach().numpy()[~frozen], before[~frozen])
    optimizer = torch.optim.SGD(handle.parameter_groups(0.1, 0.1), lr=0.1, momentum=0.9)
    for epoch in (1, 2, 3, 4):
        handle.on_epoch_start(epoch, 4)
        optimizer.zero_grad()
        handle.model.train()(normal(4, 8)).square().sum().backward()
        grad = latent(handle).grad
        assert grad is not None
        assert not grad.numpy()[frozen].any()
        optimizer.step()
        handle.after_step()
        np.testing.assert_array_equal(latent(handle).detach().numpy()[frozen], values)
    now = quantizer.get_buffer("frozen").numpy()
    assert now.sum() == 30
    assert now[frozen].all()
    assert np.isin(np.abs(handle.harden()[0].weight.detach().numpy()), np.abs(allowed)).all()  # type: ignore[index]


def test_inq_refuses_portions_that_do_not_end_with_everything() -> None:
    for portions in ([0.5, 0.9], [0.9, 0.5, 1.0], [0.0, 1.0], []):
        with pytest.raises(Exception, match="portions"):
            registry.build_method("inq", {"portions": portions})


# DoReFa's gradients -------------------------------------------------------------------------------


def test_dorefas_gradient_has_as_many_levels_as_its_bits_and_is_right_on_average() -> None:
    handle = attached("dorefa", "2/2", gradient_bits=2)
    module = handle.layers[0].module.get_submodule("output_module")
    g = normal(3, 5, seed=4)
    y = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    drawn = []
    for _ in range(4000):
        (found,) = torch.autograd.grad(module(y), y, g)
        drawn.append(found)
    values = torch.stack(drawn)
    largest = g.abs().amax(1, keepdim=True)
    codes = ((values / largest + 1) * 1.5).numpy()  # 2m (q − ½), q ∈ {0, ⅓, ⅔, 1}
    np.testing.assert_allclose(codes, codes.round(), atol=1e-9)
    assert codes.min() >= -1e-9
    assert codes.max() <= 3 + 1e-9
    inside = (g.abs() < 0.66 * largest).numpy()  # where noise is not cut off
    np.testing.assert_allclose(values.mean(0).numpy()[inside], g.numpy()[inside], atol=0.05)


def test_dorefas_output_is_untouched_forward() -> None:
    handle = attached("dorefa", "2/2", gradient_bits=4)
    y = normal(3, 5)
    assert torch.equal(handle.layers[0].module.get_submodule("output_module")(y), y)
    assert not hasattr(attached("dorefa", "2/2").layers[0].module, "output_module")


# HWGQ ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "step"), [(1, 0.799), (2, 0.538), (3, 0.3217), (4, 0.185)])
def test_hwgqs_levels_have_no_dead_zone(bits: int, step: float) -> None:
    x = torch.linspace(-1, 5, 4001, dtype=torch.float64)
    found = for_input("hwgq", x, bits)(x).numpy()
    levels = step * np.arange(2**bits)
    np.testing.assert_allclose(np.unique(found), levels, rtol=1e-6)
    positive = x.numpy() > 0
    assert (found[~positive] == 0).all()
    assert found[positive].min() == pytest.approx(step)
    nearest = levels[1:][np.abs(x.numpy()[positive, None] - levels[1:]).argmin(-1)]
    far = np.abs(x.numpy()[positive] / step % 1 - 0.5) > 1e-3  # away from thresholds
    np.testing.assert_allclose(found[positive][far], nearest[far], rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_hwgqs_step_loses_least_of_a_gaussian(bits: int) -> None:
    x = gaussian(200_000)
    x = x[x > 0]
    step = float(for_input("hwgq", x, bits)(torch.tensor([1e-6]).double()))

    def error(s: float) -> float:
        codes = np.clip(np.round(x.numpy() / s + 0.0), 1, 2**bits - 1)
        return float(((codes * s - x.numpy()) ** 2).mean())

    steps = np.linspace(0.9 * step, 1.1 * step, 81)
    best = steps[np.argmin([error(s) for s in steps])]
    assert step == pytest.approx(best, rel=0.01)


def test_hwgqs_lloyd_levels_are_the_means_of_their_cells() -> None:
    x = gaussian(2_000_000)
    x = x[x > 0]
    found = for_input("hwgq", x, 2, levels="lloyd")(x).numpy()
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
def test_hwgqs_gradient_is_that_of_the_named_function(backward: str, slopes: list[float]) -> None:
    x = torch.tensor([-0.5, 0.01, 1.6, 2.0, 5.0], dtype=torch.float64)
    found = gradient(for_input("hwgq", x, 2, backward=backward), x, torch.ones_like(x))
    np.testing.assert_allclose(found, slopes, rtol=1e-6)


def test_hwgqs_weights_are_bwns_with_the_gradient_handed_on() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    np.testing.assert_allclose(quantized("hwgq", w, 1), filters_of(w), rtol=1e-14)
    np.testing.assert_array_equal(gradient(for_weight("hwgq", w, 1), w, g), g.numpy())


# TBN ----------------------------------------------------------------------------------------------


def test_tbns_inputs_are_ternary_with_a_threshold_for_each_image() -> None:
    x = normal(5, 3, 4, 4) * torch.arange(1, 6).double().view(5, 1, 1, 1)
    found = for_input("tbn", x, 2)(x).numpy()
    delta = 0.4 * np.abs(x.numpy()).mean(axis=(1, 2, 3), keepdims=True)
    expected = np.where(x.numpy() > delta, 1, np.where(x.numpy() < -delta, -1, 0))
    np.testing.assert_array_equal(found, expected)
    alone = for_input("tbn", x, 2)(x[3:4]).numpy()
    np.testing.assert_array_equal(alone, found[3:4])


def test_tbns_input_gradient_passes_between_minus_and_plus_one() -> None:
    x = torch.tensor([[-2.0, -0.9, 0.05, 0.9, 1.1]], dtype=torch.float64)
    found = gradient(for_input("tbn", x, 2), x, torch.ones_like(x))
    np.testing.assert_array_equal(found, [[0, 1, 1, 1, 0]])


def test_tbns_weights_are_the_least_squares_binary_ones() -> None:
    w = normal(*SHAPE)
    found = quantized("tbn", w, 1)
    np.testing.assert_allclose(found, filters_of(w), rtol=1e-14)
    for factor in (0.9, 1.1):
        assert ((w.numpy() - found) ** 2).sum() < ((w.numpy() - factor * found) ** 2).sum()


# ABC-Net ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bases", [1, 2, 3, 5])
def test_abc_nets_weights_are_the_projection_on_its_bases(bases: int) -> None:
    w = normal(*SHAPE) + 0.1
    found = quantized("abc_net", w, bases)
    v = w.numpy()
    shifts = [0.0] if bases == 1 else [-1 + 2 * i / (bases - 1) for i in range(bases)]
    b = np.stack([plus_minus(v - v.mean() + u * v.std()).ravel() for u in shifts], 1)
    alpha = np.linalg.lstsq(b, v.ravel(), rcond=None)[0]
    np.testing.assert_allclose(found.ravel(), b @ alpha, atol=1e-12)
    np.testing.assert_allclose(b.T @ (v.ravel() - found.ravel()), 0, atol=1e-10)
    assert len(np.unique(found.round(12))) <= bases + 1


def test_one_base_of_abc_net_is_the_sign_about_the_mean() -> None:
    w = normal(*SHAPE) + 0.2
    found = quantized("abc_net", w, 1)
    np.testing.assert_array_equal(np.sign(found), plus_minus(w.numpy() - w.numpy().mean()))


def test_abc_nets_weight_gradient_is_the_sum_of_its_scales() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    v = w.numpy()
    b = np.stack([plus_minus(v - v.mean() + u * v.std()).ravel() for u in (-1, 0, 1)], 1)
    alpha = np.linalg.lstsq(b, v.ravel(), rcond=None)[0]
    found = gradient(for_weight("abc_net", w, 3), w, g)
    np.testing.assert_allclose(found, g.numpy() * alpha.sum(), rtol=1e-9)


def test_abc_nets_inputs_are_sums_of_shifted_signs_with_the_stated_gradients() -> None:
    quantizer = for_input("abc_net", normal(100, seed=2), 2)
    with torch.no_grad():
        quantizer.get_parameter("shift").copy_(torch.tensor([0.5, 0.1]))
        quantizer.get_parameter("scale").copy_(torch.tensor([0.75, 0.25]))
    x = torch.tensor([-0.6, -0.3, 0.2, 0.45, 0.8, 2.0], dtype=torch.float64)
    v = x.numpy()
    bases = [np.where(np.clip(v + shift, 0, 1) >= 0.5, 1.0, -1.0) for shift in (0.5, 0.1)]
    np.testing.assert_allclose(quantizer(x).detach().numpy(), 0.75 * bases[0] + 0.25 * bases[1])
    window = [(v + shift >= 0) & (v + shift <= 1) for shift in (0.5, 0.1)]
    g = normal(6, seed=3)
    found = gradient(quantizer, x, g)
    np.testing.assert_allclose(found, g.numpy() * (0.75 * window[0] + 0.25 * window[1]))
    grads = {name: p.grad.numpy() for name, p in quantizer.named_parameters() if p.grad is not None}
    np.testing.assert_allclose(grads["scale"], [(g.numpy() * b).sum() for b in bases])
    expected = [0.75 * (g.numpy() * window[0]).sum(), 0.25 * (g.numpy() * window[1]).sum()]
    np.testing.assert_allclose(grads["shift"], expected)


# ADMM ---------------------------------------------------------------------------------------------

CODES = {
    "1": [-1, 1],
    "2": [-1, 0, 1],
    "3(±2)": [-2, -1, 0, 1, 2],
    "3(±4)": [-4, -2, -1, 0, 1, 2, 4],
}


@pytest.mark.parametrize("bits", CODES)
def test_admms_projection_is_a_fixed_point_of_its_alternation(bits: str) -> None:
    v = normal(*SHAPE)
    found = for_weight("admm", v, bits).eval()(v).numpy()
    codes = np.array(CODES[bits], dtype=float)
    alpha = np.abs(found)[found != 0].min()
    q = found / alpha
    assert np.isin(q.round(9), codes).all()
    nearest = codes[np.abs(v.numpy()[..., None] / alpha - codes).argmin(-1)]
    np.testing.assert_array_equal(q.round(9), nearest)
    assert alpha == pytest.approx((v.numpy() * q).sum() / (q * q).sum())
    if bits == "1":
        assert alpha == pytest.approx(np.abs(v.numpy()).mean())
    again = for_weight("admm", torch.from_numpy(found), bits).eval()(torch.from_numpy(found))
    np.testing.assert_allclose(again.numpy(), found, rtol=1e-12)


def test_admms_penalty_pulls_weights_to_g_minus_lambda() -> None:
    handle = attached("admm", "2/32", rho=0.3)
    split = handle.layers[0].weight_quantizer
    assert split is not None
    split.get_buffer("dual").copy_(normal(5, 8, seed=6))
    w, g = latent(handle), split.get_buffer("projected")
    handle.penalty().backward()
    assert w.grad is not None
    expected = 0.3 * (w.detach() - g + split.get_buffer("dual"))
    np.testing.assert_allclose(w.grad.numpy(), expected.numpy(), rtol=1e-12)


def test_admms_dual_moves_by_what_is_left_between_w_and_g() -> None:
    handle = attached("admm", "2/32")
    split = handle.layers[0].weight_quantizer
    assert split is not None
    before = split.get_buffer("dual").clone()
    handle.on_epoch_start(1, 3)
    assert torch.equal(split.get_buffer("dual"), before)
    handle.on_epoch_start(2, 3)
    moved = split.get_buffer("dual") - before
    expected = latent(handle).detach() - split.get_buffer("projected")
    np.testing.assert_allclose(moved.numpy(), expected.numpy(), atol=1e-15)


def test_admm_brings_a_quadratic_to_a_quantized_point() -> None:
    handle = attached("admm", "2/32", rho=1.0, extragradient=False)
    target = normal(5, 8, seed=7)
    optimizer = torch.optim.SGD([latent(handle)], lr=0.2)
    for epoch in range(1, 60):
        handle.on_epoch_start(epoch, 60)
        for _ in range(20):
            optimizer.zero_grad()
            (0.5 * (latent(handle) - target).square().sum() + handle.penalty()).backward()
            optimizer.step()
    split = handle.layers[0].weight_quantizer
    assert split is not None
    left = latent(handle).detach() - split.get_buffer("projected")
    assert float(left.norm() / target.norm()) < 0.02


def test_admms_correction_starts_where_the_prediction_did() -> None:
    handle = attached("admm", "2/32")
    w = latent(handle)
    start = w.detach().clone()
    slopes = normal(2, 5, 8, seed=8)
    optimizer = torch.optim.SGD([w], lr=0.1)
    for slope in slopes:
        w.grad = slope.clone()
        handle.before_step()
        optimizer.step()
        handle.after_step()
    np.testing.assert_allclose(w.detach().numpy(), (start - 0.1 * slopes[1]).numpy(), rtol=1e-12)


# Friesen and Domingos -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_ftprops_staircase_saturates_with_its_steps_evenly_spaced(bits: int) -> None:
    n = 2**bits - 1
    x = torch.linspace(-0.5, 1.5, 1001, dtype=torch.float64)
    found = for_input("friesen_domingos", x, bits)(x).numpy()
    steps = np.arange(n) / (n - 1)
    expected = (x.numpy()[:, None] > steps).sum(1) / n
    far = np.abs(x.numpy()[:, None] - steps).min(1) > 1e-9
    np.testing.assert_allclose(found[far], expected[far], rtol=1e-12)


def test_ftprops_gradients_are_those_of_its_hinges() -> None:
    x = torch.tensor([-0.7, -0.1, 0.2, 0.6, 1.2], dtype=torch.float64)
    v, g = x.numpy(), normal(5, seed=1)
    expected = {
        (2, "soft_hinge"): 1 - np.tanh(2 * v - 1) ** 2,
        (2, "saturated"): (v >= 0) & (v <= 1),
        (1, "soft_hinge"): 1 - np.tanh(v) ** 2,
        (1, "saturated"): np.abs(v) <= 1,
    }
    for (bits, loss), slope in expected.items():
        quantizer = for_input("friesen_domingos", x, bits, loss=loss)
        np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * slope, rtol=1e-12)


def test_ftprop_at_one_bit_is_a_sign_and_leaves_weights_alone() -> None:
    x = normal(9)
    found = for_input("friesen_domingos", x, 1)(x).numpy()
    np.testing.assert_array_equal(found, plus_minus(x.numpy()))
    assert attached("friesen_domingos", "32/1").layers[0].weight_quantizer is None


# Jacob et al. -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_jacobs_weights_are_affine_over_their_range_with_zero_a_level(bits: int) -> None:
    w = normal(*SHAPE) + 0.4
    found = quantized("jacob", w, bits)
    v, n = w.numpy(), 2**bits - 1
    s = (v.max() - v.min()) / (n - 1)
    z = np.round(-v.min() / s)
    expected = s * (np.clip(np.round(v / s) + z, 0, n - 1) - z)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    zero = for_weight("jacob", w, bits)(torch.cat([w, torch.zeros(1, 4, 3, 3).double()]))
    assert not zero[-1].any()


def test_jacobs_range_is_a_running_average() -> None:
    first, second = normal(50, seed=1), normal(50, seed=2)
    quantizer = for_input("jacob", first, 4, momentum=0.75)
    quantizer.update(second)  # type: ignore[operator]
    for name, of in (("low", np.min), ("high", np.max)):
        expected = 0.75 * of(first.numpy()) + 0.25 * of(second.numpy())
        assert float(quantizer.get_buffer(name)) == pytest.approx(float(expected))


def test_jacobs_gradient_passes_inside_the_range_only() -> None:
    sample = torch.tensor([0.0, 3.0], dtype=torch.float64)
    x = torch.tensor([-0.5, 0.2, 1.7, 2.9, 3.1, 9.0], dtype=torch.float64)
    found = gradient(for_input("jacob", sample, 2), x, torch.ones_like(x))
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 0, 0])


def test_jacobs_activations_wait_for_the_delay() -> None:
    handle = attached("jacob", "32/2", delay=1)
    x = normal(4, 8).abs()
    quantizer = handle.layers[0].input_quantizer
    assert quantizer is not None
    handle.on_epoch_start(1, 3)
    assert torch.equal(quantizer.train()(x), x)
    assert len(quantizer.eval()(x).unique()) <= 4
    handle.on_epoch_start(2, 3)
    assert len(quantizer.train()(x).unique()) <= 4


# WRPN ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "count"), [(2, 3), (3, 7), (4, 15)])
def test_wrpns_weights_are_clipped_and_rounded(bits: int, count: int) -> None:
    w = torch.linspace(-1.7, 1.7, 3001, dtype=torch.float64).view(1, -1)
    found = quantized("wrpn", w, bits)
    n = 2 ** (bits - 1) - 1
    np.testing.assert_allclose(found, np.round(n * np.clip(w.numpy(), -1, 1)) / n, atol=1e-12)
    assert len(np.unique(found)) == count
    assert np.abs(found).max() == 1


def test_wrpns_gradient_is_zero_outside_the_clip() -> None:
    w = torch.tensor([[-1.2, -0.4, 0.0, 0.9, 1.3]], dtype=torch.float64)
    found = gradient(for_weight("wrpn", w, 3), w, torch.ones_like(w))
    np.testing.assert_array_equal(found, [[0, 1, 1, 1, 0]])


def test_wrpns_inputs_are_multiples_between_zero_and_one() -> None:
    x = normal(40)
    found = for_input("wrpn", x, 3)(x).numpy()
    np.testing.assert_allclose(found, np.round(7 * np.clip(x.numpy(), 0, 1)) / 7, atol=1e-12)


def test_wrpn_widens_every_layer_but_the_images_and_the_classes() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    method: Method = registry.build_method("wrpn", {"widen": 2})
    x = normal(2, 3, 8, 8).float()
    handle = attach(model, method, bits="4/4", layers="all", calibration=[x])
    shapes = [tuple(layer.latent_weight.shape) for layer in handle.layers]
    assert shapes == [(16, 3, 3, 3), (16, 1, 3, 3), (5, 64)]
    assert handle.model.train()(x).shape == (2, 5)

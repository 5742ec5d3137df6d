"""The methods of the papers' tables, against their formulas written again in plain numpy."""

from __future__ import annotations

import importlib
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


def shown(handle: Handle) -> Tensor:
    """The weight that the network computes with."""
    weight = handle.layers[0].module.weight
    assert isinstance(weight, Tensor)
    return weight


def filters_of(weight: Tensor) -> Array:
    """mean|w| · sign(w) of each filter."""
    w = weight.numpy()
    result: Array = per_filter(np.abs(w)) * plus_minus(w)
    return result


# Of several methods -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bnn", "xnor", "hwgq", "tbn", "wrpn", "abc_net"])
def test_a_binary_weight_of_zero_is_positive(name: str) -> None:
    w = torch.tensor([[0.0, -0.0, 3.0, -3.0]], dtype=torch.float64)
    assert np.sign(quantized(name, w, 1)).tolist() == [[1, 1, 1, -1]]


@pytest.mark.parametrize("factor", [1e-5, 3.0, 1e5])
@pytest.mark.parametrize(
    ("name", "bits"),
    [
        *[("xnor", 1), ("hwgq", 1), ("tbn", 1), ("wrpn", 1), ("jacob", 3), ("jacob", 8)],
        *[("abc_net", 1), ("abc_net", 3), ("admm", "1"), ("admm", "2"), ("admm", "3(±4)")],
    ],
)
def test_fitted_levels_scale_with_the_weight(name: str, bits: str | int, factor: float) -> None:
    w = normal(*SHAPE)
    first, scaled = (for_weight(name, v, bits).eval()(v).detach() for v in (w, factor * w))
    np.testing.assert_allclose(scaled.numpy(), factor * first.numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "bits", "least"),
    [
        *[("bnn", "1/1", -1), ("xnor", "1/1", -1), ("tbn", "1/2", -1)],
        *[("friesen_domingos", "32/1", -1), ("friesen_domingos", "32/2", 0), ("hwgq", "1/2", 0)],
    ],
)
@pytest.mark.parametrize("relu", [nn.ReLU, nn.ReLU6])
def test_negative_values_reach_the_quantizers_that_have_a_place_for_them(
    name: str, bits: str, least: int, relu: type[nn.Module]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 50), relu(), nn.Linear(50, 2))
    x = normal(16, 8).float()
    handle = attach(model, name, bits=bits, layers=["2"], calibration=[x])
    seen: list[Tensor] = []
    handle.layers[0].module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    handle.model(x)
    assert float(seen[0].detach().min()) == least
    assert float(seen[0].detach().max()) > 0


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


def test_bnns_weight_gradient_goes_straight_through_beyond_one_too() -> None:
    w, g = normal(*SHAPE, scale=2), normal(*SHAPE, seed=1)
    np.testing.assert_array_equal(gradient(for_weight("bnn", w, 1), w, g), g.numpy())


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


def test_xnors_weight_gradients_are_the_papers_the_exact_one_and_the_released_codes() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    v, upstream, signs = w.numpy(), g.numpy(), plus_minus(w.numpy())
    through_sign = per_filter(np.abs(v)) * (np.abs(v) < 1)
    through_scale = central_differences(
        lambda at: float((upstream * per_filter(np.abs(at)) * signs).sum()), v
    )
    for kind, expected in {
        "paper": upstream * (through_sign + 1 / 36),
        "exact": upstream * through_sign + through_scale,
        "lua": upstream * (through_sign + 1 / 36) * (1 - 1 / 4) * 36,
    }.items():
        found = gradient(for_weight("xnor", w, 1, gradient=kind), w, g)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_xnors_centring_leaves_each_place_of_a_kernel_no_mean_over_input_channels() -> None:
    for centre in (False, True):
        model = nn.Sequential(nn.Conv2d(4, 6, 3)).double()
        method = registry.build_method("xnor", {"centre": centre})
        handle = attach(model, method, bits="1/1", layers="all", calibration=[normal(1, 4, 5, 5)])
        w = normal(*SHAPE, scale=0.2) + 0.1
        latent(handle).data = w.clone()
        handle.after_step()
        expected = w - w.mean(1, keepdim=True) if centre else w
        np.testing.assert_allclose(latent(handle).detach().numpy(), expected.numpy(), atol=1e-15)
        latent(handle).data = 20 * w
        handle.after_step()
        assert (float(latent(handle).detach().abs().max()) == 1.0) is centre


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_xnors_scale_map_is_the_mean_size_of_each_patch(stride: int, padding: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=stride, padding=padding)).double()
    x = normal(2, 4, 6, 6, seed=1)
    method = registry.build_method("xnor", {"scale_map": True})
    handle = attach(model, method, bits="1/1", layers="all", calibration=[x])
    edges = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    sizes, signs = np.pad(np.abs(x.numpy()), edges), np.pad(plus_minus(x.numpy()), edges)
    w = filters_of(latent(handle).detach())
    bias = handle.layers[0].module.get_parameter("bias").detach().numpy()
    with torch.no_grad():
        found = handle.model(x).numpy()
    for n, o, i, j in np.ndindex(found.shape):
        rows, columns = (slice(stride * at, stride * at + 3) for at in (i, j))
        k = sizes[n, :, rows, columns].mean()
        dot = (signs[n, :, rows, columns] * w[o]).sum()
        assert found[n, o, i, j] == pytest.approx(dot * k + bias[o])


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


def test_a_weight_on_ttqs_threshold_is_zero_and_its_gradient_goes_straight_through() -> None:
    w = torch.tensor([[1.0, -1.0, 0.5, -0.5, 0.0]], dtype=torch.float64)
    quantizer, g = for_weight("ttq", w, 2, threshold=0.5), normal(1, 5, seed=5)
    quantizer.get_parameter("positive").data.fill_(0.25)
    quantizer.get_parameter("negative").data.fill_(2.0)
    assert quantizer(w).tolist() == [[0.25, -2, 0, 0, 0]]
    found = gradient(quantizer, w, g)
    np.testing.assert_array_equal(found, g.numpy() * [[0.25, 2, 1, 1, 1]])


def test_with_twns_threshold_and_scale_ttq_is_twn() -> None:
    w = normal(*SHAPE)
    size = np.abs(w.numpy())
    delta = 0.7 * size.mean()
    quantizer = for_weight("ttq", w, 2, threshold=float(delta / size.max()))
    for scale in quantizer.parameters():
        scale.data.fill_(size[size > delta].mean())
    np.testing.assert_allclose(quantizer(w).detach().numpy(), quantized("twn", w, 2), rtol=1e-12)


def test_ttqs_threshold_follows_the_largest_weight_and_its_scales_do_not() -> None:
    quantizer, w, _ = ttq()
    with torch.no_grad():
        for factor in (0.01, 30.0):
            assert torch.equal(quantizer(factor * w), quantizer(w))
            alone = quantizer(w[:1])  # the largest weight is in another filter
            delta = 0.05 * np.abs(w.numpy()[0]).max()
            assert ((alone.numpy() == 0) == (np.abs(w.numpy()[:1]) <= delta)).all()
    assert np.abs(w.numpy()[0]).max() < np.abs(w.numpy()).max()


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_ttqs_scales_get_the_slope_of_the_loss(name: str) -> None:
    quantizer, w, _ = ttq()
    g = normal(*SHAPE, seed=5)
    scale = quantizer.get_parameter(name)
    quantizer(w).backward(g)
    found, at = scale.grad, float(scale.detach())

    def loss(value: Array) -> float:
        scale.data.fill_(float(value))
        return float((quantizer(w) * g).sum().detach())

    slope = central_differences(loss, np.array(at))
    assert found is not None
    assert float(found) == pytest.approx(float(slope), rel=1e-6)


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


@pytest.mark.parametrize(
    ("largest", "top"), [(0.7499, 0.5), (0.75, 1.0), (1.4999, 1.0), (1.5, 2.0), (0.1, 0.125)]
)
def test_inqs_top_power_is_the_one_nearest_to_the_largest_weight(
    largest: float, top: float
) -> None:
    w = torch.linspace(-largest, largest, 2001, dtype=torch.float64).view(1, -1)
    found = np.unique(for_weight("inq", w, 3).eval()(w).numpy())
    assert found.tolist() == [-top, -top / 2, 0, top / 2, top]


def test_inq_takes_weights_on_a_threshold_to_the_larger_power() -> None:
    # The largest weight is 1, so with four bits the levels are 0, 1/8, 1/4, 1/2 and 1.
    thresholds = torch.tensor([[1.0, 0.75, 0.375, 0.1875, 0.0625]], dtype=torch.float64)
    w = torch.cat([thresholds, -thresholds, thresholds * (1 - 1e-9)])
    up, down = [1, 1, 0.5, 0.25, 0.125], [1, 0.5, 0.25, 0.125, 0]
    found = for_weight("inq", w, 4).eval()(w).tolist()
    assert found == [up, [-v for v in up], down]


@pytest.mark.parametrize(
    ("bits", "shares"),
    [
        (5, [0.5, 0.75, 0.875]),
        (4, [0.3, 0.5, 0.8, 0.9, 0.95]),
        (3, [0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95]),
        (2, [0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975]),
    ],
)
def test_inq_freezes_the_papers_shares_each_for_equally_many_epochs(
    bits: int, shares: list[float]
) -> None:
    handle = attached("inq", f"{bits}/32")
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    found = []
    for epoch in range(1, 2 * len(shares) + 1):
        handle.on_epoch_start(epoch, 2 * len(shares))
        found.append(int(quantizer.get_buffer("frozen").sum()))
    assert found == [round(40 * share) for share in shares for _ in range(2)]


def test_inqs_training_is_plain_gradient_descent_on_what_is_not_frozen() -> None:
    handle = attached("inq", "3/32", portions=[0.5, 1.0])
    handle.on_epoch_start(1, 2)
    quantizer, g = handle.layers[0].weight_quantizer, normal(5, 8, seed=3)
    assert quantizer is not None
    w = latent(handle).detach()
    free = ~quantizer.get_buffer("frozen").numpy()
    assert free.sum() == 20
    assert torch.equal(shown(handle), w)
    np.testing.assert_array_equal(gradient(quantizer, w, g), g.numpy() * free)


def test_inqs_levels_stay_those_of_the_pretrained_weight() -> None:
    w = normal(8, 50)
    quantizer = for_weight("inq", w, 3).eval()
    found = np.unique(quantizer(20 * w).numpy())
    np.testing.assert_array_equal(found, powers(w.numpy(), 3))


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


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_dorefas_gradient_is_right_on_average_at_every_width(bits: int) -> None:
    module = (
        attached("dorefa", "2/2", gradient_bits=bits)
        .layers[0]
        .module.get_submodule("output_module")
    )
    g = normal(1, 7, seed=4)
    y = torch.zeros(4000, 7, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    (found,) = torch.autograd.grad(module(y), y, g.expand(4000, 7))
    m, n = float(g.abs().max()), 2**bits - 1
    tolerance = 6 * (m / n) / np.sqrt(4000)  # a draw's deviation is at most half a step
    np.testing.assert_allclose(found.mean(0).numpy(), g.numpy()[0], atol=tolerance)
    assert float((found - g).abs().max()) <= 2 * m / n * (1 + 1e-9)  # never beyond the neighbours


def test_dorefas_noise_leaves_a_gradient_that_is_on_a_level_where_it_is() -> None:
    module = (
        attached("dorefa", "2/2", gradient_bits=2).layers[0].module.get_submodule("output_module")
    )
    sizes = torch.tensor([[3.0], [0.03], [300.0]], dtype=torch.float64)  # each sample has its own
    g = sizes * torch.tensor([[1, 1 / 3, -1 / 3, -1]], dtype=torch.float64)
    y = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    for _ in range(200):
        (found,) = torch.autograd.grad(module(y), y, g)
        np.testing.assert_allclose(found.numpy(), g.numpy(), rtol=1e-9)


def test_dorefas_quantized_gradient_is_the_one_that_the_weight_gets() -> None:
    handle = attached("dorefa", "32/4", gradient_bits=1)
    x = torch.ones(1, 8, dtype=torch.float64)  # so that a row of the gradient is that of an output
    g = torch.tensor([[0.5, -0.2, 0.1, -2.0, 0.3]], dtype=torch.float64)
    torch.manual_seed(0)
    handle.model.train()(x).backward(g)
    found = latent(handle).grad
    assert found is not None
    np.testing.assert_allclose(found.abs().numpy(), 2.0)
    assert float(found[3, 0]) == -2.0


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


def test_on_a_threshold_hwgq_goes_down() -> None:
    q = np.array([0, 0.538, 1.076, 1.614], dtype=np.float32)
    ties = np.array([0, (q[1] + q[2]) / 2, (q[2] + q[3]) / 2], dtype=np.float32)
    quantizer = for_input("hwgq", normal(9).abs(), 2).float()
    np.testing.assert_array_equal(quantizer(torch.from_numpy(ties)).numpy(), q[:-1])
    above = torch.from_numpy(np.nextafter(ties, np.float32(9)))
    np.testing.assert_array_equal(quantizer(above).numpy(), q[1:])


@pytest.mark.parametrize(("bits", "known"), [(1, [0.7979]), (2, [0.3177, 1.0, 1.894])])
def test_hwgqs_lloyd_levels_are_lloyd_and_maxs_of_a_gaussian(bits: int, known: list[float]) -> None:
    x = torch.linspace(1e-6, 4, 4001, dtype=torch.float64)
    found = np.unique(for_input("hwgq", x, bits, levels="lloyd")(x).numpy())
    np.testing.assert_allclose(found, known, atol=1e-3)


def test_two_lloyd_levels_are_the_released_codes() -> None:
    module = importlib.import_module("qbench_methods.hwgq")
    np.testing.assert_allclose(module.half_gaussian_levels(2), [0.453, 1.51], atol=1e-3)


@pytest.mark.parametrize(("bits", "step"), [(1, 0.799), (2, 0.538), (3, 0.3217), (4, 0.185)])
def test_hwgq_with_a_dead_zone_rounds(bits: int, step: float) -> None:
    x = torch.linspace(-1, 4, 5001, dtype=torch.float64)
    found = for_input("hwgq", x, bits, dead_zone=True)(x).numpy()
    units = x.numpy() / step
    far = np.abs(units % 1 - 0.5) > 1e-3  # away from thresholds
    expected = step * np.clip(np.round(units), 0, 2**bits - 1)
    np.testing.assert_allclose(found[far], expected[far], rtol=1e-6)


@pytest.mark.parametrize("plain", [False, True])
def test_hwgqs_plain_norm_gives_zero_mean_and_unit_variance(plain: bool) -> None:
    norm = nn.BatchNorm2d(3)
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, -1.0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Conv2d(3, 2, 3))
    x = normal(8, 2, 9, 9).float()
    method = registry.build_method("hwgq", {"plain_norm": plain})
    attach(model, method, bits="1/2", layers="all", calibration=[x])
    y = norm.train()(normal(8, 3, 9, 9).float() * 5 + 2).detach()
    assert float(y.mean()) == pytest.approx(0.0 if plain else -1.0, abs=1e-3)
    assert float(y.std()) == pytest.approx(1.0 if plain else 3.0, rel=1e-2)
    assert [p.requires_grad for p in norm.parameters()] == [not plain] * 2


def test_hwgqs_plain_norm_is_that_of_linear_layers_too() -> None:
    norm = nn.BatchNorm1d(6)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), norm, nn.ReLU(), nn.Linear(6, 2))
    method = registry.build_method("hwgq", {"plain_norm": True})
    attach(model, method, bits="1/2", layers=["3"], calibration=[normal(8, 4).float()])
    assert not any(p.requires_grad for p in norm.parameters())


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


def test_an_input_on_tbns_threshold_is_zero() -> None:
    # The mean size is 2, so with a factor of one half the threshold is 1.
    x = torch.tensor([[1.0, -1.0, 3.0, -3.0], [0, 0, 0, 0]], dtype=torch.float64)
    found = for_input("tbn", x, 2, threshold=0.5)(x)
    assert found.tolist() == [[0, 0, 1, -1], [0, 0, 0, 0]]


def test_tbn_makes_the_expected_share_of_a_gaussian_zero() -> None:
    x = gaussian(100_000)[None]
    found = for_input("tbn", x, 2)(x).numpy()
    # Where |x| is below 0.4 · sqrt(2/π).
    assert (found == 0).mean() == pytest.approx(math.erf(0.4 / math.sqrt(math.pi)), abs=1e-4)


def test_tbns_weight_gradient_is_handed_on_as_in_the_released_code() -> None:
    w, g = normal(*SHAPE, scale=2), normal(*SHAPE, seed=1)
    np.testing.assert_array_equal(gradient(for_weight("tbn", w, 1), w, g), g.numpy())


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


def test_more_bases_that_contain_the_fewer_leave_less_error() -> None:
    w = normal(40, 40) + 0.1
    error = {m: ((w.numpy() - quantized("abc_net", w, m)) ** 2).mean() for m in (1, 2, 3, 5)}
    assert error[5] < error[3]  # u is −1, −½, 0, ½, 1, of which three are −1, 0, 1
    assert error[3] < min(error[1], error[2])  # of which one is 0 and two are −1, 1


def test_abc_nets_thresholds_lie_within_one_deviation_about_the_mean() -> None:
    w = (3 * gaussian(4001) + 0.5)[None]
    found = quantized("abc_net", w, 3)[0]
    v = w.numpy()[0]
    steps = v[1:][np.diff(found) != 0]
    np.testing.assert_allclose(steps, [0.5 - 3, 0.5, 0.5 + 3], atol=0.01)


def test_abc_nets_binary_activations_are_the_only_nonlinearity() -> None:
    for bits, relu, kind in (
        ("2/2", nn.ReLU, nn.Identity),
        ("2/2", nn.ReLU6, nn.Identity),
        ("2/32", nn.ReLU, nn.ReLU),
    ):
        model = nn.Sequential(nn.Linear(8, 8), relu(), nn.Linear(8, 2))
        handle = attach(model, "abc_net", bits=bits, layers=["2"], calibration=[torch.randn(4, 8)])
        assert type(list(handle.model.children())[1]) is kind


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


@pytest.mark.parametrize("bits", CODES)
def test_hardly_any_scale_brings_admms_codes_closer(bits: str) -> None:
    v = normal(20, 50)
    found = for_weight("admm", v, bits).eval()(v).numpy()
    codes = np.array(CODES[bits], dtype=float)
    scales = np.linspace(0.02, 1, 400) * np.abs(v.numpy()).max()
    errors = []
    for alpha in scales:
        q = codes[np.abs(v.numpy()[..., None] / alpha - codes).argmin(-1)]
        errors.append(((v.numpy() - alpha * q) ** 2).sum())
    assert ((v.numpy() - found) ** 2).sum() <= 1.001 * min(errors)


def test_admms_penalty_is_half_rho_times_the_squared_distance() -> None:
    handle = attached("admm", "3(±4)/32", rho=0.3)
    split = handle.layers[0].weight_quantizer
    assert split is not None
    split.get_buffer("dual").copy_(normal(5, 8, seed=6))
    split.get_buffer("projected").copy_(normal(5, 8, seed=7))
    w = latent(handle).detach().numpy()
    distance = w - normal(5, 8, seed=7).numpy() + normal(5, 8, seed=6).numpy()
    assert float(handle.penalty()) == pytest.approx(0.15 * (distance**2).sum())


def test_admm_trains_the_float_weight_and_ends_with_the_projection_of_w_plus_lambda() -> None:
    handle = attached("admm", "1/32")
    split = handle.layers[0].weight_quantizer
    assert split is not None
    w, dual = latent(handle).detach().clone(), normal(5, 8, seed=6)
    split.get_buffer("dual").copy_(dual)
    handle.model.train()
    assert torch.equal(shown(handle), w)
    hardened = handle.harden()
    v = (w + dual).numpy()
    expected = np.abs(v).mean() * plus_minus(v)
    found = next(iter(hardened.parameters())).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("updates", [1, 3])
def test_admms_dual_moves_so_often_in_an_epoch(updates: int) -> None:
    handle = attached("admm", "2/32", updates=updates)
    split = handle.layers[0].weight_quantizer
    assert split is not None
    moves = 0
    for epoch in (1, 2, 3):
        before = split.get_buffer("dual").clone()
        handle.on_epoch_start(epoch, 3)
        for step in range(1, 13):
            moves += not torch.equal(split.get_buffer("dual"), before)
            before = split.get_buffer("dual").clone()
            handle.on_step_start(step, 12)
        moves += not torch.equal(split.get_buffer("dual"), before)
    assert moves == 3 * updates - 1  # none before the first step of all


def test_admms_predictions_and_corrections_alternate() -> None:
    handle = attached("admm", "2/32")
    w = latent(handle)
    start, slopes = w.detach().clone(), normal(5, 5, 8, seed=8)
    optimizer = torch.optim.SGD([w], lr=0.1)
    found = []
    for slope in slopes:
        w.grad = slope.clone()
        handle.before_step()
        optimizer.step()
        handle.after_step()
        found.append((w.detach() - start).numpy() / -0.1)
    first, second, third, fourth, fifth = slopes.numpy()
    expected = [first, second, second + third, second + fourth, second + fourth + fifth]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_extragradient_makes_admm_contract_where_plain_steps_do_not() -> None:
    # f(a, b) = a·b in a saddle's field (b, −a): plain steps spiral out, extragradient ones in.
    sizes = {}
    for extragradient in (False, True):
        handle = attached("admm", "2/32", extragradient=extragradient)
        w = latent(handle)
        optimizer = torch.optim.SGD([w], lr=0.3)
        begin = float(w.detach().norm())
        for _ in range(20):
            w.grad = torch.cat([w.detach()[:, 4:], -w.detach()[:, :4]], 1)
            handle.before_step()
            optimizer.step()
        sizes[extragradient] = float(w.detach().norm()) / begin
    assert sizes[False] == pytest.approx((1 + 0.3**2) ** 10)
    # A pair multiplies by 1 − η² − iη.
    assert sizes[True] == pytest.approx(((1 - 0.3**2) ** 2 + 0.3**2) ** 5)


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


def test_ftprops_staircase_steps_just_above_its_thresholds() -> None:
    # With two bits it steps at 0, ½ and 1, so that it is at its top only above 1.
    x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    quantizer = for_input("friesen_domingos", x, 2)
    np.testing.assert_allclose(quantizer(x).numpy(), [0, 1 / 3, 2 / 3], rtol=1e-12)
    np.testing.assert_allclose(quantizer(x + 1e-9).numpy(), [1 / 3, 2 / 3, 1], rtol=1e-12)
    np.testing.assert_array_equal(quantizer(x - 9).numpy(), 0)


def test_ftprops_soft_hinge_is_the_loss_toward_the_target_weighted_with_its_gradient() -> None:
    x, g = normal(30), normal(30, seed=1)
    target = -np.sign(g.numpy())

    def loss(at: Array) -> float:  # tanh(−t z) + 1
        return float((np.abs(g.numpy()) * (np.tanh(-target * at) + 1)).sum())

    found = gradient(for_input("friesen_domingos", x, 1), x, g)
    np.testing.assert_allclose(found, central_differences(loss, x.numpy()), rtol=1e-6, atol=1e-9)

    def staircase_loss(at: Array) -> float:  # z = 2x − 1, over the staircase's range of one
        return float((np.abs(g.numpy()) * (np.tanh(-target * (2 * at - 1)) + 1) / 2).sum())

    found = gradient(for_input("friesen_domingos", x, 3), x, g)
    slopes = central_differences(staircase_loss, x.numpy())
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-9)


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


@pytest.mark.parametrize(
    ("sample", "levels"),
    [
        ([0.0, 3.0], [0, 1, 2, 3]),
        ([-1.0, 2.0], [-1, 0, 1, 2]),
        ([-0.9, 2.1], [-1, 0, 1, 2]),  # moved, so that zero is a level
        ([-1.6, 1.4], [-2, -1, 0, 1]),
        ([0.6, 3.0], [0, 1, 2, 3]),  # zero is always within
        ([-3.0, -0.5], [-3, -2, -1, 0]),
    ],
)
def test_jacobs_inputs_have_all_levels_and_zero_is_one(
    sample: list[float], levels: list[float]
) -> None:
    quantizer = for_input("jacob", torch.tensor(sample, dtype=torch.float64), 2)
    x = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    found = quantizer(x).numpy()
    np.testing.assert_allclose(np.unique(found.round(9)), levels, atol=1e-6)
    assert float(quantizer(torch.zeros(1, dtype=torch.float64))) == 0
    inside = (x.numpy() >= min(levels)) & (x.numpy() <= max(levels))
    assert np.abs(found - x.numpy())[inside].max() <= 0.5 + 1e-6


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_jacobs_weights_leave_one_code_unused(bits: int) -> None:
    n = 2**bits - 1
    w = torch.linspace(-1, 1, 1001, dtype=torch.float64).view(1, -1)
    found = np.unique(quantized("jacob", w, bits).round(12))
    np.testing.assert_allclose(found, np.linspace(-1, 1, n), atol=1e-12)
    positive = np.unique(quantized("jacob", w.abs() + 1, bits).round(12))
    grid = np.linspace(0, 2, n)
    np.testing.assert_allclose(positive, grid[grid >= positive[0] - 1e-12], atol=1e-12)


def test_jacobs_filters_have_their_own_range_where_asked_to() -> None:
    w = normal(*SHAPE) * torch.tensor([1e-3, 0.1, 1, 5, 30, 1000]).double().view(-1, 1, 1, 1)
    found = quantized("jacob", w, 4, scope="filter")
    alone = [quantized("jacob", w[i : i + 1], 4)[0] for i in range(6)]
    np.testing.assert_allclose(found, alone, rtol=1e-12)
    assert not quantized("jacob", w, 4)[0].any()


def test_jacobs_weight_gradient_goes_straight_through_inside_the_range() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    v = w.numpy()
    s = (v.max() - v.min()) / 14
    z = np.round(-v.min() / s)
    inside = (v > -z * s) & (v < (14 - z) * s)
    assert inside.sum() >= v.size - 2
    found = gradient(for_weight("jacob", w, 4), w, g)
    np.testing.assert_array_equal(found[inside], g.numpy()[inside])


def test_jacobs_range_starts_at_the_samples_and_settles_on_what_all_batches_share() -> None:
    quantizer = for_input("jacob", torch.tensor([-1.0, 4.0], dtype=torch.float64), 8)
    ends = [float(quantizer.get_buffer(name)) for name in ("low", "high")]
    assert ends == [-1, 4]
    for _ in range(2000):
        quantizer.update(torch.tensor([0.0, 2.0]).double())  # type: ignore[operator]
    ends = [float(quantizer.get_buffer(name)) for name in ("low", "high")]
    np.testing.assert_allclose(ends, [0, 2], atol=1e-6)


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


def test_wrpns_binary_weights_are_bwns() -> None:
    w = normal(*SHAPE, scale=0.1)
    np.testing.assert_allclose(quantized("wrpn", w, 1), filters_of(w), rtol=1e-14)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_wrpns_inputs_take_all_levels_with_a_gradient_between_zero_and_one(bits: int) -> None:
    x, g = torch.linspace(-0.7, 1.7, 1200, dtype=torch.float64), normal(1200, seed=1)
    quantizer = for_input("wrpn", x, bits)
    n = 2**bits - 1
    np.testing.assert_allclose(quantizer(x).unique().numpy(), np.arange(n + 1) / n, atol=1e-12)
    inside = (x.numpy() > 0) & (x.numpy() < 1)
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * inside, atol=1e-12)


def test_wrpns_levels_do_not_follow_the_weight() -> None:
    w = normal(*SHAPE).clamp(-0.49, 0.49)
    assert not quantized("wrpn", w, 2).any()  # all below one half
    np.testing.assert_array_equal(quantized("wrpn", 1e6 * w, 2), np.sign(w.numpy()))
    assert not list(for_weight("wrpn", w, 4).parameters())

"""EWGS: element-wise gradient scaling (Lee, Kim, Ham, CVPR 2021, arXiv:2104.00903).

Quantization follows Eq. 1 to 3, the scaled gradient Eq. 5, initialization Section 4.1.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
    convnet_with_statistics,
    parameter_gradient,
    parameter_value,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, Array, normal


def test_ewgs_intervals_start_from_three_deviations() -> None:
    w, x = normal(*SHAPE), normal(200, seed=1).abs()
    weights, inputs = weight_quantizer("ewgs", w, 2), activation_quantizer("ewgs", x, 2)
    assert parameter_value(weights, "high") == pytest.approx(3 * w.numpy().std(ddof=1))
    assert parameter_value(weights, "low") == pytest.approx(-3 * w.numpy().std(ddof=1))
    expected = 3 * x.numpy().std(ddof=1) / np.sqrt(1 - 2 / np.pi)
    assert parameter_value(inputs, "high") == pytest.approx(expected)
    assert parameter_value(inputs, "low") == pytest.approx(float(x.min()))


@pytest.mark.parametrize(("bits", "levels"), [(1, [-1, 1]), (2, [-1, -1 / 3, 1 / 3, 1])])
def test_ewgs_weights_are_evenly_spaced_between_minus_and_plus_one(
    bits: int, levels: list[float]
) -> None:
    w = normal(*SHAPE)
    quantizer = set_parameters(weight_quantizer("ewgs", w, bits), low=-0.5, high=0.8)
    found = quantizer(w).detach().numpy()
    np.testing.assert_allclose(np.unique(found), levels, rtol=1e-6)
    n = 2**bits - 1
    unit = np.clip((w.numpy() + 0.5) / 1.3, 0, 1)
    np.testing.assert_allclose(found, 2 * (np.round(n * unit) / n - 0.5), atol=1e-6)


@pytest.mark.parametrize("delta", [0.0, 0.2, 1.0])
def test_ewgs_scales_each_gradient_with_the_rounding_error(delta: float) -> None:
    x, g = normal(300).abs(), normal(300, seed=1)
    quantizer = set_parameters(activation_quantizer("ewgs", x, 2, delta=delta), low=0.0, high=2.0)
    found = gradient(quantizer, x, g)
    unit = x.numpy() / 2
    error = unit - np.round(3 * unit) / 3
    expected = g.numpy() * (1 + delta * np.sign(g.numpy()) * error) / 2 * (unit < 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    inside = unit < 1
    assert (np.sign(found[inside]) == np.sign(g.numpy()[inside])).all()


def test_ewgs_output_scale_starts_where_outputs_keep_their_mean_size() -> None:
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    handle = attach_to_convnet("ewgs", "2/2", convnet_with_statistics())
    sizes = []
    for model in (convnet_with_statistics().eval(), handle.model.eval()):
        seen: list[Tensor] = []
        hook = model.get_submodule("3").register_forward_hook(lambda m, a, y, s=seen: s.append(y))
        with torch.no_grad():
            model(x)
        hook.remove()
        sizes.append(float(seen[0].abs().mean()))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


def test_ewgs_later_layers_too_start_where_outputs_keep_their_mean_size() -> None:
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    handle = attach_to_convnet("ewgs", "2/2", convnet_with_statistics())
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


def test_ewgs_output_scale_is_a_size() -> None:
    w = normal(*SHAPE)
    quantizer = weight_quantizer("ewgs", w, 2)
    once = quantizer(w).detach().numpy()
    set_parameters(quantizer, output_scale=-0.5)
    np.testing.assert_allclose(quantizer(w).detach().numpy(), 0.5 * once, rtol=1e-12)


@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["weight", "input"])
def test_ewgs_bounds_get_the_slope_of_the_clip_under_the_scaled_gradient(
    kind: str, delta: float
) -> None:
    x, g = normal(80), normal(80, seed=1)
    start = np.array([-0.75, 1.25])
    if kind == "weight":
        quantizer = weight_quantizer("ewgs", x, 2, delta=delta)
        set_parameters(quantizer, output_scale=0.5)
    else:
        quantizer = activation_quantizer("ewgs", x, 2, delta=delta)
    set_parameters(quantizer, low=start[0], high=start[1])
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
    slopes = [parameter_gradient(quantizer, name) for name in ("low", "high")]
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_ewgs_changes_no_gradient_by_more_than_half_a_step_times_delta(bits: int) -> None:
    x = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    quantizer = set_parameters(activation_quantizer("ewgs", x, bits, delta=0.8), low=0.0, high=1.0)
    factors = gradient(quantizer, x, torch.ones_like(x))
    most = 0.8 / (2 * (2**bits - 1))
    assert np.abs(factors - 1).max() <= most + 1e-9
    assert np.abs(factors - 1).max() > 0.9 * most


def test_ewgs_delta_is_a_thousandth_unless_told() -> None:
    x, g = normal(50).abs(), normal(50, seed=1)
    found = gradient(activation_quantizer("ewgs", x, 2), x, g)
    told = gradient(activation_quantizer("ewgs", x, 2, delta=1e-3), x, g)
    np.testing.assert_array_equal(found, told)
    assert (found != gradient(activation_quantizer("ewgs", x, 2, delta=0.0), x, g)).any()

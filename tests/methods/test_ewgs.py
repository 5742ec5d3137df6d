"""EWGS: element-wise gradient scaling (Lee, Kim, Ham, CVPR 2021, arXiv:2104.00903).

Quantization follows Eq. 1 to 3, the scaled gradient Eq. 5, initialization Section 4.1.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.quant.attach import attach
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
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


@pytest.mark.parametrize(("shift", "size"), [(3.0, 1.0), (100.0, 1.0), (1000.0, 0.0)])
def test_ewgs_interval_of_an_input_far_from_zero_contains_it(shift: float, size: float) -> None:
    x = shift + size * normal(200, seed=1).abs()
    quantizer = activation_quantizer("ewgs", x, 2)
    low, high = (parameter_value(quantizer, name) for name in ("low", "high"))
    assert low == pytest.approx(float(x.min()))
    assert high > low
    assert high == pytest.approx(low + 3 * float(x.std()), rel=1e-5)


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


class ReleasedConvolution(nn.Conv2d):
    """A convolution of the released code, written from its description: it starts when called.

    Both outputs are those of the float input; the scale multiplies the bias too.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, bits: tuple[int, int]) -> None:
        super().__init__(weight.shape[1], len(weight), 3, stride, padding=1)
        self.weight.data, self.bits = weight, bits
        assert self.bias is not None
        self.bias.data = bias
        self.found: dict[str, float] = {}

    @staticmethod
    def levels(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
        n = 2**bits - 1
        return (n * ((x - low) / (high - low)).clamp(0, 1)).round() / n

    def forward(self, x: Tensor) -> Tensor:
        weight, given = self.weight, x
        if self.bits[0] < 32:
            u = 3 * weight.std()
            weight = 2 * (self.levels(weight, -u, u, self.bits[0]) - 0.5)
        if self.bits[1] < 32:
            low, high = x.min(), 3 * x.std() / np.sqrt(1 - 2 / np.pi)
            self.found |= {"low": float(low), "high": float(high)}
            given = self.levels(x, low, high, self.bits[1])
        quantized = self._conv_forward(given, weight, self.bias)
        full = self._conv_forward(x, self.weight, self.bias)
        o = full.abs().mean() / quantized.abs().mean()
        self.found["scale"] = float(o)
        return quantized * o


def two_inner_convolutions() -> nn.Sequential:
    """Return a trained-looking network whose inner convolutions have biases."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    model(torch.randn(64, 3, 8, 8))  # so that running statistics are not those of the batch
    return model


@pytest.mark.parametrize("bits", ["1/1", "2/2", "4/4", "1/32", "32/2"])
def test_ewgs_starts_layer_by_layer_on_the_quantized_network(bits: str) -> None:
    w_bits, a_bits = (int(b) for b in bits.split("/"))
    x = 2 * torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    released = two_inner_convolutions().train()
    for at in (3, 6):
        old = released[at]
        assert isinstance(old, nn.Conv2d)
        assert old.bias is not None
        stride = old.stride[0]
        released[at] = ReleasedConvolution(
            old.weight.detach(), old.bias.detach(), stride, (w_bits, a_bits)
        )
    model = two_inner_convolutions()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    handle = attach(model, "ewgs", bits=bits, calibration=[x, torch.randn(16, 3, 8, 8)])
    with torch.no_grad():
        expected = released(x)
        found = handle.model.train()(x)
    for layer, at in zip(handle.layers, (3, 6), strict=True):
        reference = released[at]
        assert isinstance(reference, ReleasedConvolution)
        parameters = {"scale": float(layer.module.get_parameter("output_module.scale").detach())}
        if a_bits < 32:
            assert layer.activation_quantizer is not None
            for name in ("low", "high"):
                parameters[name] = parameter_value(layer.activation_quantizer, name)
        assert parameters == pytest.approx(reference.found, rel=1e-4)
        assert parameters["scale"] != 1
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-3, atol=1e-4)
    model = two_inner_convolutions()
    attach(model, "ewgs", bits=bits, calibration=[x])
    after = dict(model.named_buffers())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_ewgs_output_scale_is_a_size_and_scales_the_bias() -> None:
    handle = attach(
        two_inner_convolutions(), "ewgs", bits="2/2", calibration=[torch.randn(8, 3, 8, 8)]
    )
    layer, x = handle.layers[0].module.eval(), torch.randn(2, 8, 5, 5)
    scale = layer.get_parameter("output_module.scale")
    with torch.no_grad():
        layer.get_parameter("bias").fill_(3.0)
        scale.fill_(1.0)
        plain = layer(x)
        scale.fill_(-0.5)
        halved = layer(x)
    np.testing.assert_allclose(halved.numpy(), 0.5 * plain.numpy(), rtol=1e-6)


def test_ewgs_output_scale_learns_at_the_rate_of_the_intervals_and_does_not_decay() -> None:
    handle = attach_to_convnet("ewgs", "32/2", lr_factor=0.25)
    scales = {layer.module.get_parameter("output_module.scale") for layer in handle.layers}
    assert len(scales) == 2
    groups = handle.parameter_groups(lr=0.1, weight_decay=1e-4)
    (group,) = [group for group in groups if scales & set(group["params"])]
    assert scales <= set(group["params"])
    assert (group["lr"], group["weight_decay"]) == (0.025, 0.0)


@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["weight", "input"])
def test_ewgs_bounds_get_the_slope_of_the_clip_under_the_scaled_gradient(
    kind: str, delta: float
) -> None:
    x, g = normal(80), normal(80, seed=1)
    start = np.array([-0.75, 1.25])
    if kind == "weight":
        quantizer = weight_quantizer("ewgs", x, 2, delta=delta)
    else:
        quantizer = activation_quantizer("ewgs", x, 2, delta=delta)
    set_parameters(quantizer, low=start[0], high=start[1])
    found = gradient(quantizer, x, g)
    upstream = g.numpy() * (2 if kind == "weight" else 1)  # the slope of 2 (x_q − ½)

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

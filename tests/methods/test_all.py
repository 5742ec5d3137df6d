"""Properties that several methods share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.quant.attach import attach
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, normal


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
        quantized_weight(name, factor * w, bits, **options),
        factor * quantized_weight(name, w, bits, **options),
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
    found = gradient(weight_quantizer(name, w, bits, **options), w, g)
    np.testing.assert_allclose(found, g.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    "name",
    ["ste", "binary_connect", "bwn", "dorefa", "bnn", "xnor", "hwgq", "tbn", "wrpn", "abc_net"],
)
def test_the_sign_of_zero_is_plus(name: str) -> None:
    w = torch.tensor([[0.0, -0.0, 3.0, -3.0]], dtype=torch.float64)
    assert np.sign(quantized_weight(name, w, 1)).tolist() == [[1, 1, 1, -1]]


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
    first, scaled = (weight_quantizer(name, v, bits).eval()(v).detach() for v in (w, factor * w))
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
    model = nn.Sequential(nn.Linear(8, 50), relu(), nn.Linear(50, 9), relu(), nn.Linear(9, 2))
    x = normal(16, 8).float()
    handle = attach(model, name, bits=bits, layers=["2"], calibration=[x])
    seen: list[Tensor] = []
    handle.layers[0].module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    handle.model(x)
    assert float(seen[0].detach().min()) == least
    assert float(seen[0].detach().max()) > 0


@pytest.mark.parametrize("name", ["bireal", "react_net"])
def test_without_weights_a_binary_block_is_its_input_and_the_norm_of_zero(name: str) -> None:
    handle = attach_to_convnet(name, "1/1")
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


@pytest.mark.parametrize(
    "name",
    [
        *("ptq_minmax", "ptq_percentile", "ptq_mse", "adaround", "obq", "gptq", "brecq", "qdrop"),
        "rep_q_vit",
    ],
)
def test_post_training_quantizers_learn_nothing_from_training(name: str) -> None:
    assert not registry.method_class(name).trains
    w, x = normal(*SHAPE), normal(50, 4).abs()
    for quantizer, values in (
        (weight_quantizer(name, w, 3), w),
        (activation_quantizer(name, x, 3), x),
    ):
        assert not list(quantizer.parameters())
        once = quantizer(values)
        assert quantizer(10 * values).abs().max() <= 4 / 3 * once.abs().max()  # the range stays
        assert torch.equal(quantizer(values), once)


@pytest.mark.parametrize("factor", [1e-3, 7.0])
@pytest.mark.parametrize("name", ["ptq_minmax", "ptq_percentile", "ptq_mse"])
def test_post_training_ranges_scale_with_the_weight_and_keep_zero(name: str, factor: float) -> None:
    w = normal(*SHAPE)
    w[:, 1] = 0
    found = quantized_weight(name, w, 3)
    assert not found[:, 1].any()
    np.testing.assert_allclose(quantized_weight(name, factor * w, 3), factor * found, rtol=1e-9)

"""IR-Net (Qin et al., CVPR 2020, arXiv:1909.10788), against the formulas of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench import registry
from qbench.method import BitWidth, Layer, Quantizer
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    FULL_PRECISION,
    activation_quantizer,
    attach_to_convnet,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.references import sign
from tests.helpers.tensors import SHAPE, Array, normal

AXES = (1, 2, 3)


def standardized(w: Array) -> Array:
    """Return ŵ of each filter."""
    balanced = w - w.mean(AXES, keepdims=True)
    result: Array = balanced / w.std(AXES, ddof=1, keepdims=True)
    return result


def test_ir_net_weights_are_signs_of_balanced_weights_times_a_power_of_two() -> None:
    w = normal(*SHAPE) + 0.2
    v = standardized(w.numpy())
    scale = 2 ** np.round(np.log2(np.abs(v).mean(AXES, keepdims=True)))
    found = quantized_weight("ir_net", w, 1)
    np.testing.assert_allclose(found, scale * sign(v), rtol=1e-12)
    assert (np.abs(found) == 2.0 ** np.round(np.log2(np.abs(found)))).all()


@pytest.mark.parametrize("t", [1e-3, 0.1, 1.0, 10.0])
def test_ir_net_gradient_narrows_with_the_temperature(t: float) -> None:
    x, g = normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1)
    quantizer = activation_quantizer("ir_net", x, 1)
    quantizer.get_buffer("temperature").fill_(t)
    k = max(1 / t, 1)
    expected = g.numpy() * k * t * (1 - np.tanh(x.numpy() * t) ** 2)
    np.testing.assert_allclose(gradient(quantizer, x, g), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), sign(x.numpy()))


def test_ir_net_weight_gradient_passes_through_the_mean_and_the_deviation() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    quantizer = weight_quantizer("ir_net", w, 1)
    quantizer.get_buffer("temperature").fill_(2.0)
    scale = 2 ** np.round(np.log2(np.abs(standardized(w.numpy())).mean(AXES, keepdims=True)))

    def surrogate(at: Array) -> float:
        return float((g.numpy() * scale * np.tanh(2 * standardized(at))).sum())

    expected = central_differences(surrogate, w.numpy())
    np.testing.assert_allclose(gradient(quantizer, w, g), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("activations", "t_min"), [(BitWidth(1), 1e-3), (FULL_PRECISION, 1e-1)])
def test_ir_net_temperature_rises_geometrically(activations: BitWidth, t_min: float) -> None:
    layer = Layer("layer", nn.Identity(), BitWidth(1), activations)
    quantizer = build_method("ir_net", {}).weight_quantizer(layer, normal(*SHAPE))
    assert isinstance(quantizer, Quantizer)
    for epoch in range(1, 401):
        quantizer.on_epoch_start(layer, epoch, 400)
        low, high = np.log10(t_min), np.log10(10)
        expected = 10 ** (low + (high - low) / 400 * (epoch - 1))
        assert float(quantizer.get_buffer("temperature")) == pytest.approx(expected, rel=1e-5)


def test_ir_net_leaves_a_filter_of_one_weight_as_it_is() -> None:
    w = torch.tensor([[[[2.0]]], [[[-0.6]]]], dtype=torch.float64)
    np.testing.assert_array_equal(quantized_weight("ir_net", w, 1).ravel(), [2, -0.5])


def test_ir_net_has_the_authors_order_of_layers() -> None:
    model = registry.build_model("resnet18", 10, 3)
    handle = attach(model, "ir_net", bits="1/1", calibration=[torch.randn(2, 3, 64, 64)])
    assert len(handle.layers) == 16  # no 1×1 among them
    kinds = [type(m).__name__ for m in handle.model.modules()]
    assert kinds.count("Hardtanh") == 17  # after the stem and after each shortcut
    assert "ReLU" not in kinds
    norm, linear = [m for m in handle.model.modules() if not list(m.children())][-2:]
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(linear, nn.Linear)
    assert norm.num_features == linear.in_features


def test_ir_net_binarizes_what_a_hard_tanh_puts_out() -> None:
    handle = attach_to_convnet("ir_net", "1/1")
    seen: list[torch.Tensor] = []
    handle.layers[1].module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    handle.model(torch.randn(4, 3, 8, 8))
    assert float(seen[0].detach().min()) == -1
    assert float(seen[0].detach().max()) == 1

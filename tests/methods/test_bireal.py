"""Bi-Real Net (Liu et al., ECCV 2018, arXiv:1808.00278).

Weights follow Section 3.3, the derivative of the sign of activations Eq. 7 and 8. Every binary
convolution has a shortcut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qbench import registry
from qbench.quant.attach import attach
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.references import filter_means, sign
from tests.helpers.tensors import SHAPE, normal


def test_bireal_sign_has_the_slope_of_a_triangle() -> None:
    x = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    found = gradient(activation_quantizer("bireal", x, 1), x, torch.ones_like(x))
    v = x.numpy()
    inside = np.abs(v) < 1
    np.testing.assert_allclose(found, np.where(inside, 2 - 2 * np.abs(v), 0), atol=1e-12)
    assert np.trapezoid(found, v) == pytest.approx(2, rel=0.01)
    np.testing.assert_array_equal(activation_quantizer("bireal", x, 1)(x).numpy(), sign(v))


@pytest.mark.parametrize("options", [{}, {"gradient": "code"}, {"gradient": "paper"}])
def test_bireal_weight_gradient_is_the_released_codes_unless_told(options: dict[str, Any]) -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    size = filter_means(np.abs(w.numpy()))
    np.testing.assert_allclose(quantized_weight("bireal", w, 1), size * sign(w.numpy()), rtol=1e-14)
    found = gradient(weight_quantizer("bireal", w, 1, **options), w, g)
    factor = size if options.get("gradient") == "paper" else 1
    np.testing.assert_allclose(found, g.numpy() * (np.abs(w.numpy()) < 1) * factor)


def test_bireal_shortcut_carries_the_input_past_a_convolution_of_zeros() -> None:
    handle = attach_to_convnet("bireal", "1/1")
    block = handle.model.get_submodule("3")
    layer = handle.layers[0]
    assert layer.name.startswith("3.")
    with torch.no_grad():
        layer.latent_weight.zero_()
        x = torch.randn(2, 8, 4, 4)
        assert torch.allclose(block.eval()(x), x, atol=1e-6)
    assert not any(isinstance(m, nn.ReLU) for m in handle.model.modules())


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

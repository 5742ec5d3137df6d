"""XNOR-Net (Rastegari et al., ECCV 2016, arXiv:1603.05279, Section 3.2).

Weights are those of BWN, activations are signs. The scale map follows Eq. 11.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.quant.attach import attach
from qbench.quant.options import build_method, determining_options
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    latent_weight,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.references import filter_means, scaled_signs, sign
from tests.helpers.tensors import SHAPE, normal


def test_xnor_weights_are_bwns_and_its_inputs_signs() -> None:
    w, x = normal(*SHAPE), normal(3, 7, seed=1)
    np.testing.assert_allclose(quantized_weight("xnor", w, 1), scaled_signs(w.numpy()), rtol=1e-14)
    np.testing.assert_array_equal(activation_quantizer("xnor", x, 1)(x).numpy(), sign(x.numpy()))


def test_xnor_input_gradient_is_zero_from_one_on() -> None:
    x = torch.tensor([-1.0, -0.999, 0.0, 0.999, 1.0, 1.2], dtype=torch.float64)
    found = gradient(activation_quantizer("xnor", x, 1), x, torch.ones_like(x))
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 0, 0])


def test_a_binary_convolution_counts_agreements() -> None:
    w, x = normal(*SHAPE), normal(2, 4, 5, 5, seed=1)
    signs = torch.from_numpy(quantized_weight("xnor", w, 1) / filter_means(np.abs(w.numpy())))
    y = torch.nn.functional.conv2d(activation_quantizer("xnor", x, 1)(x), signs).numpy()
    inputs = 4 * 3 * 3
    assert np.abs(y).max() <= inputs + 1e-9
    np.testing.assert_allclose((y.round() - inputs) % 2, 0)


def test_xnor_scale_map_is_the_best_scale_of_a_single_patch() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=True)).double()
    x = normal(1, 4, 3, 3, seed=1)
    method = build_method("xnor", {"scale_map": True})
    handle = attach(model, method, bits="1/1", layers="all", calibration=[x])
    layer = handle.layers[0]
    bias = layer.module.get_parameter("bias").detach().numpy()
    patch = x.numpy()[0]
    best = (patch * sign(patch)).sum() / patch.size  # argmin over β of ‖x − β sign(x)‖²
    dot = (scaled_signs(layer.latent_weight.detach().numpy()) * sign(patch)).sum((1, 2, 3))
    with torch.no_grad():
        found = handle.model(x).numpy().ravel()
    np.testing.assert_allclose(found, dot * best + bias, rtol=1e-12)


def test_xnor_weight_gradients_are_the_papers_the_exact_one_and_the_released_codes() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    v, upstream, signs = w.numpy(), g.numpy(), sign(w.numpy())
    through_sign = filter_means(np.abs(v)) * (np.abs(v) < 1)
    through_scale = central_differences(
        lambda at: float((upstream * filter_means(np.abs(at)) * signs).sum()), v
    )
    for kind, expected in {
        "paper": upstream * (through_sign + 1 / 36),
        "exact": upstream * through_sign + through_scale,
        "lua": upstream * (through_sign + 1 / 36) * (1 - 1 / 4),  # f is the optimizer's
    }.items():
        found = gradient(weight_quantizer("xnor", w, 1, gradient=kind), w, g)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_xnor_trains_like_the_released_code_unless_told() -> None:
    options = determining_options(build_method("xnor", {}))
    assert options == {"gradient": "lua", "centre": True, "scale_map": False}


def test_xnor_centring_leaves_each_place_of_a_kernel_no_mean_over_input_channels() -> None:
    for centre in (False, True):
        model = nn.Sequential(nn.Conv2d(4, 6, 3)).double()
        method = build_method("xnor", {"centre": centre})
        handle = attach(model, method, bits="1/1", layers="all", calibration=[normal(1, 4, 5, 5)])
        w = normal(*SHAPE, scale=0.2) + 0.1
        latent_weight(handle).data = w.clone()
        handle._after_optimizer_step()
        expected = w - w.mean(1, keepdim=True) if centre else w
        np.testing.assert_allclose(
            latent_weight(handle).detach().numpy(), expected.numpy(), atol=1e-15
        )
        latent_weight(handle).data = 20 * w
        handle._after_optimizer_step()
        assert (float(latent_weight(handle).detach().abs().max()) == 1.0) is centre


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_xnor_scale_map_is_the_mean_size_of_each_patch(stride: int, padding: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=stride, padding=padding)).double()
    x = normal(2, 4, 6, 6, seed=1)
    method = build_method("xnor", {"scale_map": True})
    handle = attach(model, method, bits="1/1", layers="all", calibration=[x])
    edges = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    sizes, signs = np.pad(np.abs(x.numpy()), edges), np.pad(sign(x.numpy()), edges)
    w = scaled_signs(latent_weight(handle).detach().numpy())
    bias = handle.layers[0].module.get_parameter("bias").detach().numpy()
    with torch.no_grad():
        found = handle.model(x).numpy()
    for n, o, i, j in np.ndindex(found.shape):
        rows, columns = (slice(stride * at, stride * at + 3) for at in (i, j))
        k = sizes[n, :, rows, columns].mean()
        dot = (signs[n, :, rows, columns] * w[o]).sum()
        assert found[n, o, i, j] == pytest.approx(dot * k + bias[o])

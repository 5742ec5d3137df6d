"""DoReFa-Net (Zhou et al., 2016, arXiv:1606.06160).

Weights follow Eq. 8 to 10, activations Eq. 11. Gradients of layer outputs are quantized
stochastically with ``gradient_bits``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_linear,
    latent_weight,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.references import sign
from tests.helpers.tensors import Array, normal


def tanh_normalised(w: Array) -> Array:
    """Return tanh(w) / max|tanh(w)|."""
    scaled: Array = np.tanh(w) / np.abs(np.tanh(w)).max()
    return scaled


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_dorefa_rounds_the_tanh_normalised_weight(bits: int) -> None:
    w = normal(6, 4, 3, 3)
    levels = 2 * np.arange(2**bits) / (2**bits - 1) - 1
    nearest = levels[np.abs(tanh_normalised(w.numpy())[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(quantized_weight("dorefa", w, bits), nearest, atol=1e-12)


def test_dorefa_two_bit_levels_have_no_zero() -> None:
    found = np.unique(quantized_weight("dorefa", normal(50, 50), 2).round(12))
    np.testing.assert_allclose(found, [-1, -1 / 3, 1 / 3, 1], atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 0.02, 1.0, 30.0])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_dorefa_largest_weight_is_one(bits: int, scale: float) -> None:
    w = normal(4, 30, scale=scale)
    assert np.abs(quantized_weight("dorefa", w, bits)).max() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dorefa_keeps_the_order_of_weights(bits: int) -> None:
    w = normal(1, 500).sort().values
    assert (np.diff(quantized_weight("dorefa", w, bits)) >= 0).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_dorefa_gradient_goes_through_tanh_and_through_the_maximum(bits: int) -> None:
    w, g = normal(4, 6), normal(4, 6, seed=1)
    slopes = central_differences(lambda v: float((g.numpy() * tanh_normalised(v)).sum()), w.numpy())
    found = gradient(weight_quantizer("dorefa", w, bits), w, g)
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-8)


def test_dorefa_at_one_bit_has_one_scale_for_the_layer() -> None:
    w = normal(6, 4, 3, 3)
    expected = np.abs(w.numpy()).mean() * sign(w.numpy())
    np.testing.assert_allclose(quantized_weight("dorefa", w, 1), expected, rtol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dorefa_clips_inputs_to_one_and_rounds_them(bits: int) -> None:
    x, g = normal(500), normal(500, seed=1)
    quantizer = activation_quantizer("dorefa", x, bits)
    levels = np.arange(2**bits) / (2**bits - 1)
    nearest = levels[np.abs(x.numpy()[:, None] - levels).argmin(1)]
    np.testing.assert_allclose(quantizer(x).numpy(), nearest, atol=1e-12)
    inside = (x.numpy() > 0) & (x.numpy() < 1)
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * inside, atol=1e-12)


def test_dorefa_gradient_has_as_many_levels_as_its_bits_and_is_right_on_average() -> None:
    handle = attach_to_linear("dorefa", "2/2", gradient_bits=2)
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


def test_dorefa_output_is_untouched_forward() -> None:
    handle = attach_to_linear("dorefa", "2/2", gradient_bits=4)
    y = normal(3, 5)
    assert torch.equal(handle.layers[0].module.get_submodule("output_module")(y), y)
    assert not hasattr(attach_to_linear("dorefa", "2/2").layers[0].module, "output_module")


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_dorefa_gradient_is_right_on_average_at_every_width(bits: int) -> None:
    module = (
        attach_to_linear("dorefa", "2/2", gradient_bits=bits)
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


def test_dorefa_noise_leaves_a_gradient_that_is_on_a_level_where_it_is() -> None:
    module = (
        attach_to_linear("dorefa", "2/2", gradient_bits=2)
        .layers[0]
        .module.get_submodule("output_module")
    )
    sizes = torch.tensor([[3.0], [0.03], [300.0]], dtype=torch.float64)  # each sample has its own
    g = sizes * torch.tensor([[1, 1 / 3, -1 / 3, -1]], dtype=torch.float64)
    y = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    for _ in range(200):
        (found,) = torch.autograd.grad(module(y), y, g)
        np.testing.assert_allclose(found.numpy(), g.numpy(), rtol=1e-9)


def test_dorefa_quantized_gradient_is_the_one_that_the_weight_gets() -> None:
    handle = attach_to_linear("dorefa", "32/4", gradient_bits=1)
    x = torch.ones(1, 8, dtype=torch.float64)  # so that a row of the gradient is that of an output
    g = torch.tensor([[0.5, -0.2, 0.1, -2.0, 0.3]], dtype=torch.float64)
    torch.manual_seed(0)
    handle.model.train()(x).backward(g)
    found = latent_weight(handle).grad
    assert found is not None
    np.testing.assert_allclose(found.abs().numpy(), 2.0)
    assert float(found[3, 0]) == -2.0

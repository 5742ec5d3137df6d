"""Feasible target propagation (Friesen, Domingos, ICLR 2018, arXiv:1710.11573).

Activations are a sign or a saturating staircase. Their gradients are those of the layer losses of
Section 3.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.quant.attach import attach
from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import activation_quantizer, attach_to_linear
from tests.helpers.references import sign
from tests.helpers.tensors import Array, normal


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_ftprop_staircase_saturates_with_its_steps_evenly_spaced(bits: int) -> None:
    n = 2**bits - 1
    x = torch.linspace(-0.5, 1.5, 1001, dtype=torch.float64)
    found = activation_quantizer("friesen_domingos", x, bits)(x).numpy()
    steps = np.arange(n) / (n - 1)
    expected = (x.numpy()[:, None] > steps).sum(1) / n
    far = np.abs(x.numpy()[:, None] - steps).min(1) > 1e-9
    np.testing.assert_allclose(found[far], expected[far], rtol=1e-12)


def test_ftprop_gradients_are_those_of_its_hinges() -> None:
    x = torch.tensor([-0.7, -0.1, 0.2, 0.6, 1.2], dtype=torch.float64)
    v, g = x.numpy(), normal(5, seed=1)
    expected = {
        (2, "soft_hinge"): 1 - np.tanh(2 * v - 1) ** 2,
        (2, "saturated"): (v >= 0) & (v <= 1),
        (1, "soft_hinge"): 1 - np.tanh(v) ** 2,
        (1, "saturated"): np.abs(v) <= 1,
    }
    for (bits, loss), slope in expected.items():
        quantizer = activation_quantizer("friesen_domingos", x, bits, loss=loss)
        np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * slope, rtol=1e-12)


def test_ftprop_at_one_bit_is_a_sign_and_leaves_weights_alone() -> None:
    x = normal(9)
    found = activation_quantizer("friesen_domingos", x, 1)(x).numpy()
    np.testing.assert_array_equal(found, sign(x.numpy()))
    assert attach_to_linear("friesen_domingos", "32/1").layers[0].weight_quantizer is None


def test_ftprop_staircase_steps_just_above_its_thresholds() -> None:
    # With two bits it steps at 0, ½ and 1, so that it is at its top only above 1.
    x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    quantizer = activation_quantizer("friesen_domingos", x, 2)
    np.testing.assert_allclose(quantizer(x).numpy(), [0, 1 / 3, 2 / 3], rtol=1e-12)
    np.testing.assert_allclose(quantizer(x + 1e-9).numpy(), [1 / 3, 2 / 3, 1], rtol=1e-12)
    np.testing.assert_array_equal(quantizer(x - 9).numpy(), 0)


def test_ftprop_soft_hinge_is_the_loss_toward_the_target_weighted_with_its_gradient() -> None:
    x, g = normal(30), normal(30, seed=1)
    target = -np.sign(g.numpy())

    def loss(at: Array) -> float:  # tanh(−t z) + 1
        return float((np.abs(g.numpy()) * (np.tanh(-target * at) + 1)).sum())

    found = gradient(activation_quantizer("friesen_domingos", x, 1), x, g)
    np.testing.assert_allclose(found, central_differences(loss, x.numpy()), rtol=1e-6, atol=1e-9)

    def staircase_loss(at: Array) -> float:  # z = 2x − 1, over the staircase's range of one
        return float((np.abs(g.numpy()) * (np.tanh(-target * (2 * at - 1)) + 1) / 2).sum())

    found = gradient(activation_quantizer("friesen_domingos", x, 3), x, g)
    slopes = central_differences(staircase_loss, x.numpy())
    np.testing.assert_allclose(found, slopes, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bits", [1, 2])
def test_ftprop_replaces_the_activation_so_that_every_unit_has_a_gradient(bits: int) -> None:
    torch.manual_seed(0)
    layers = first, _, _ = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)
    model = nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1], nn.ReLU(), layers[2])
    model.double()
    x = normal(20, 6)
    handle = attach(model, "friesen_domingos", bits=f"32/{bits}", calibration=[x])
    assert [place.name for place in handle.places] == ["1.input"]
    assert handle.places[0].clipped_share == 0  # a ReLU would cut the same values
    output = model.train()(x)
    output.square().sum().backward()

    weights = [each.weight.detach().numpy() for each in layers]
    biases = [each.bias.detach().numpy() for each in layers]
    z = x.numpy() @ weights[0].T + biases[0]
    step = np.where(z >= 0, 1, -1) if bits == 1 else np.clip(np.ceil(2 * z), 0, 3) / 3
    slope = 1 - np.tanh(z if bits == 1 else 2 * z - 1) ** 2
    inner = step @ weights[1].T + biases[1]
    # The layer before the classifier is no quantized layer's input: its activation stays.
    kept, passes = (
        (np.clip(inner, -1, 1), np.abs(inner) <= 1)
        if bits == 1
        else (np.maximum(inner, 0), inner > 0)
    )
    expected = kept @ weights[2].T + biases[2]
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=1e-12)
    back = ((2 * expected @ weights[2]) * passes) @ weights[1] * slope
    assert (z < 0).mean() > 0.3
    assert first.weight.grad is not None
    np.testing.assert_allclose(first.weight.grad.numpy(), back.T @ x.numpy(), rtol=1e-9)

"""Ternary-Binary Network (Wan et al., ECCV 2018).

Weights are those of BWN, activations are ternary with a threshold for each image.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.helpers.gradients import gradient
from tests.helpers.quantizers import activation_quantizer, quantized_weight, weight_quantizer
from tests.helpers.references import scaled_signs
from tests.helpers.tensors import SHAPE, gaussian_quantiles, normal


def test_tbn_inputs_are_ternary_with_a_threshold_for_each_image() -> None:
    x = normal(5, 3, 4, 4) * torch.arange(1, 6).double().view(5, 1, 1, 1)
    found = activation_quantizer("tbn", x, 2)(x).numpy()
    delta = 0.4 * np.abs(x.numpy()).mean(axis=(1, 2, 3), keepdims=True)
    expected = np.where(x.numpy() > delta, 1, np.where(x.numpy() < -delta, -1, 0))
    np.testing.assert_array_equal(found, expected)
    alone = activation_quantizer("tbn", x, 2)(x[3:4]).numpy()
    np.testing.assert_array_equal(alone, found[3:4])


def test_tbn_input_gradient_passes_between_minus_and_plus_one() -> None:
    x = torch.tensor([[-2.0, -0.9, 0.05, 0.9, 1.1]], dtype=torch.float64)
    found = gradient(activation_quantizer("tbn", x, 2), x, torch.ones_like(x))
    np.testing.assert_array_equal(found, [[0, 1, 1, 1, 0]])


def test_tbn_weights_are_the_least_squares_binary_ones() -> None:
    w = normal(*SHAPE)
    found = quantized_weight("tbn", w, 1)
    np.testing.assert_allclose(found, scaled_signs(w.numpy()), rtol=1e-14)
    for factor in (0.9, 1.1):
        assert ((w.numpy() - found) ** 2).sum() < ((w.numpy() - factor * found) ** 2).sum()


def test_an_input_on_tbn_threshold_is_zero() -> None:
    # The mean size is 2, so with a factor of one half the threshold is 1.
    x = torch.tensor([[1.0, -1.0, 3.0, -3.0], [0, 0, 0, 0]], dtype=torch.float64)
    found = activation_quantizer("tbn", x, 2, threshold=0.5)(x)
    assert found.tolist() == [[0, 0, 1, -1], [0, 0, 0, 0]]


def test_tbn_makes_the_expected_share_of_a_gaussian_zero() -> None:
    x = gaussian_quantiles(100_000)[None]
    found = activation_quantizer("tbn", x, 2)(x).numpy()
    # Where |x| is below 0.4 · sqrt(2/π).
    assert (found == 0).mean() == pytest.approx(math.erf(0.4 / math.sqrt(math.pi)), abs=1e-4)


def test_tbn_weight_gradient_is_handed_on_as_in_the_released_code() -> None:
    w, g = normal(*SHAPE, scale=2), normal(*SHAPE, seed=1)
    np.testing.assert_array_equal(gradient(weight_quantizer("tbn", w, 1), w, g), g.numpy())

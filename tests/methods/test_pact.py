"""PACT (Choi et al., 2018, arXiv:1805.06085) and SAWB (Choi et al., 2018, arXiv:1807.06964).

Activations follow Eq. 1 and 2 with the gradient of Eq. 3. Weights are those of DoReFa-Net or, with
``weights: sawb``, use the published coefficients of SAWB.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.gradients import central_differences, gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_to_convnet,
    parameter_gradient,
    parameter_value,
    quantized_weight,
    set_parameters,
    weight_quantizer,
)
from tests.helpers.tensors import SHAPE, Array, gaussian_quantiles, normal


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_pact_inputs_are_evenly_spaced_up_to_alpha(bits: int) -> None:
    quantizer = set_parameters(activation_quantizer("pact", normal(9).abs(), bits), alpha=1.7)
    x = torch.linspace(-1, 3, 801, dtype=torch.float64)
    n = 2**bits - 1
    expected = np.round(np.clip(x.numpy(), 0, 1.7) * n / 1.7) * 1.7 / n
    np.testing.assert_allclose(quantizer(x).detach().numpy(), expected, atol=1e-6)


def test_pact_alpha_learns_from_what_is_clipped_alone() -> None:
    quantizer = set_parameters(activation_quantizer("pact", normal(9).abs(), 2), alpha=1.5)
    x = torch.tensor([-0.3, 0.2, 0.9, 1.49, 1.51, 4.0], dtype=torch.float64)
    g = normal(6, seed=1)
    found = gradient(quantizer, x, g)
    np.testing.assert_array_equal(found, g.numpy() * [0, 1, 1, 1, 0, 0])
    assert parameter_gradient(quantizer, "alpha") == pytest.approx(float(g[4:].sum()))


def test_an_input_on_pact_alpha_teaches_alpha() -> None:
    quantizer = set_parameters(activation_quantizer("pact", normal(9).abs(), 2), alpha=1.5)
    assert gradient(quantizer, torch.tensor([1.5]).double(), torch.ones(1).double()) == 0
    assert parameter_gradient(quantizer, "alpha") == 1


def test_pact_gradients_are_the_slopes_of_its_formula() -> None:
    x, g = normal(80, scale=2), normal(80, seed=1)
    start = np.array([1.25])
    quantizer = set_parameters(activation_quantizer("pact", x, 3), alpha=start[0])
    found = gradient(quantizer, x, g)

    def loss(x: Array, alpha: Array) -> float:
        return float((g.numpy() * 0.5 * (np.abs(x) - np.abs(x - alpha) + alpha)).sum())

    by_x = central_differences(lambda v: loss(v, start), x.numpy())
    np.testing.assert_allclose(found, by_x, rtol=1e-6, atol=1e-8)
    by_alpha = central_differences(lambda a: loss(x.numpy(), a), start)
    assert parameter_gradient(quantizer, "alpha") == pytest.approx(by_alpha[0], rel=1e-6)


def test_a_large_alpha_makes_pact_a_relu_to_within_half_a_step() -> None:
    x = normal(500, scale=3)
    quantizer = set_parameters(activation_quantizer("pact", x, 8), alpha=50.0)
    error = np.abs(quantizer(x).detach().numpy() - np.maximum(x.numpy(), 0))
    assert error.max() <= 25 / 255 * (1 + 1e-9)
    assert error.max() > 24 / 255


def test_pact_decay_adds_lambda_alpha_to_alphas_gradient() -> None:
    handle = attach_to_convnet("pact", "32/2", decay=0.3)
    alpha = handle.quantizers[0].get_parameter("alpha")
    started = float(alpha.detach())
    groups = [g for g in handle.parameter_groups(0.1, 0.0) if g["params"][0] is alpha]
    alpha.grad = torch.tensor(0.5)
    torch.optim.SGD(groups, lr=0.1).step()
    assert float(alpha.detach()) == pytest.approx(started - 0.1 * (0.5 + 0.3 * started))


def test_pact_alpha_starts_at_the_largest_input_or_where_it_is_told_and_decays() -> None:
    sample = normal(50).abs()
    assert parameter_value(activation_quantizer("pact", sample, 2), "alpha") == pytest.approx(
        float(sample.max())
    )
    assert parameter_value(activation_quantizer("pact", sample, 2, initial=10.0), "alpha") == 10
    handle = attach_to_convnet("pact", "2/2", decay=0.3)
    alphas = [
        m.activation_quantizer.get_parameter("alpha")
        for m in handle.layers
        if m.activation_quantizer
    ]
    (group,) = [g for g in handle.parameter_groups(0.1, 0.01) if g["params"][0] is alphas[0]]
    assert group["weight_decay"] == 0.3


def test_pact_weights_are_dorefas() -> None:
    w = normal(*SHAPE)
    for bits in (1, 3):
        np.testing.assert_array_equal(
            quantized_weight("pact", w, bits), quantized_weight("dorefa", w, bits)
        )


@pytest.mark.parametrize(
    ("bits", "c1", "c2"), [(2, 3.12, -2.064), (3, 7.509, -6.892), (4, 12.68, -12.8)]
)
def test_sawb_scale_is_close_to_the_best(bits: int, c1: float, c2: float) -> None:
    w = normal(100, 200)
    v = w.numpy()
    alpha = c1 * np.sqrt((v**2).mean()) + c2 * np.abs(v).mean()
    n = 2**bits - 1

    def at(a: float) -> Array:
        result: Array = a * (2 * np.round((np.clip(v, -a, a) / (2 * a) + 0.5) * n) / n - 1)
        return result

    found = quantized_weight("pact", w, bits, weights="sawb")
    np.testing.assert_allclose(found, at(alpha), atol=1e-9)
    best = min(((at(a) - v) ** 2).mean() for a in np.linspace(0.5, 4, 351))
    assert ((found - v) ** 2).mean() <= 1.015 * best


@pytest.mark.parametrize(
    ("bits", "c1", "c2"),
    [
        (2, 3.12, -2.064),
        (3, 7.509, -6.892),
        (4, 12.68, -12.8),
        (5, 17.74, -18.64),
        (8, 31.76, -35.04),
    ],
)
def test_sawb_largest_level_has_the_published_coefficients(bits: int, c1: float, c2: float) -> None:
    w = normal(100, 200)
    found = quantized_weight("pact", w, bits, weights="sawb")
    alpha = c1 * np.sqrt((w.numpy() ** 2).mean()) + c2 * np.abs(w.numpy()).mean()
    assert np.abs(w.numpy()).max() > alpha
    assert found.max() == pytest.approx(alpha, rel=1e-12)
    assert found.min() == pytest.approx(-alpha, rel=1e-12)


def test_sawb_two_bit_levels_are_alpha_and_a_third_of_it() -> None:
    found = np.unique(quantized_weight("pact", normal(50, 50), 2, weights="sawb").round(12))
    np.testing.assert_allclose(found / found[-1], [-1, -1 / 3, 1 / 3, 1], atol=1e-9)


@pytest.mark.parametrize("shape", ["gaussian", "laplace", "uniform"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_sawb_is_near_the_least_squared_error_whatever_the_distribution(
    bits: int, shape: str
) -> None:
    p = (np.arange(5000) + 0.5) / 5000
    w = {
        "gaussian": gaussian_quantiles(5000).numpy(),
        "laplace": -np.sign(p - 0.5) * np.log(1 - 2 * np.abs(p - 0.5)),
        "uniform": 2 * p - 1,
    }[shape]
    n = 2**bits - 1
    errors = []
    for a in np.abs(w).mean() * np.linspace(1, 7, 301):
        codes = np.round((np.clip(w / a, -1, 1) + 1) / 2 * n)
        errors.append(((a * (2 * codes / n - 1) - w) ** 2).mean())
    found = quantized_weight("pact", torch.from_numpy(w)[None], bits, weights="sawb")[0]
    assert ((found - w) ** 2).mean() <= 1.016 * min(errors)


def test_sawb_gradient_is_clipped_with_the_weight() -> None:
    w, g = normal(*SHAPE), normal(*SHAPE, seed=1)
    quantizer = weight_quantizer("pact", w, 2, weights="sawb")
    inside = np.abs(w.numpy()) < float(quantizer(w).max())
    assert 0 < inside.sum() < w.numel()
    np.testing.assert_allclose(gradient(quantizer, w, g), g.numpy() * inside, rtol=1e-12)

"""LQ-Nets (Zhang et al., ECCV 2018, arXiv:1807.10029).

Levels follow Eq. 4 and 5. The basis is learned by quantization error minimization (Algorithm 1),
here checked against a direct least-squares solution. Initial bases are those of the released code.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench.method import BitWidths, Quantizer
from qbench.quant.options import build_method
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_everywhere,
    build_activation_quantizer,
    weight_quantizer,
)
from tests.helpers.tensors import Array, gaussian_quantiles, normal


def basis_of(quantizer: nn.Module) -> Array:
    return quantizer.get_buffer("basis").detach().clone().numpy()


def set_basis(quantizer: nn.Module, *basis: float) -> None:
    quantizer.get_buffer("basis").copy_(torch.tensor(basis))


def learn(quantizer: nn.Module, x: Tensor) -> None:
    """Update the basis once (Algorithm 1)."""
    assert isinstance(quantizer, Quantizer)
    with torch.no_grad():
        quantizer.observe(x)


def codes_of(x: Array, v: Array, digits: tuple[int, int]) -> Array:
    """Return the code of each value, (values, K): that of the nearest of all levels."""
    codes = np.array(list(itertools.product(digits, repeat=len(v))))
    nearest: Array = codes[np.abs(x[:, None] - codes @ v).argmin(1)]
    return nearest


def best_basis(x: Array, v: Array, digits: tuple[int, int]) -> Array:
    """Return v* = (B Bᵀ + 10⁻⁴ I)⁻¹ (B x + 10⁻⁴ v)."""
    b = codes_of(x, v, digits).T
    ridge = 1e-4 * np.eye(len(v))
    solution: Array = np.linalg.solve(b @ b.T + ridge, b @ x + 1e-4 * v)
    return solution


@pytest.mark.parametrize(
    ("bits", "network"),
    [("2/32", "resnet18"), ("1/2", "preact_resnet18"), ("2/2", "preact_resnet18")],
)
def test_lq_nets_quantizes_the_inputs_of_the_released_codes_network(
    bits: str, network: str
) -> None:
    assert build_method("lq_nets", {}).network_for("resnet18", BitWidths.parse(bits)) == network


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_starts_weights_from_the_released_codes_basis(bits: int) -> None:
    basis = basis_of(weight_quantizer("lq_nets", normal(16, 4, 3, 3), bits))
    unit = 0.6745 * np.sqrt(2 / (3 * 3 * 16)) / 2 ** (bits - 1)
    expected = np.tile(unit * 2.0 ** np.arange(bits), (16, 1))
    np.testing.assert_allclose(np.sort(basis), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("bits", "basis"), [(1, [1.349]), (2, [0.4497, 0.8993]), (3, [0.1927, 0.3854, 0.7709])]
)
def test_lq_nets_starts_inputs_from_the_released_codes_basis(bits: int, basis: list[float]) -> None:
    found = np.sort(basis_of(activation_quantizer("lq_nets", normal(8, 4), bits)))
    np.testing.assert_allclose(found, [basis], atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_takes_weights_to_the_nearest_sum_of_plus_or_minus_each_basis_element(
    bits: int,
) -> None:
    w = normal(5, 40)
    quantizer = weight_quantizer("lq_nets", w, bits)
    quantizer.get_buffer("basis").copy_(normal(5, bits, seed=3).abs() + 0.1)
    v = basis_of(quantizer)
    expected = [codes_of(w.numpy()[i], v[i], (-1, 1)) @ v[i] for i in range(5)]
    np.testing.assert_allclose(quantizer(w).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_takes_inputs_to_the_nearest_sum_of_some_basis_elements(bits: int) -> None:
    x = normal(4, 3, 5, 5).abs()
    quantizer = activation_quantizer("lq_nets", x, bits)
    v = basis_of(quantizer)[0]
    expected = codes_of(x.numpy().ravel(), v, (0, 1)) @ v
    np.testing.assert_allclose(quantizer(x).numpy().ravel(), expected, atol=1e-12)


def test_on_a_threshold_lq_nets_goes_down() -> None:
    weights = weight_quantizer("lq_nets", normal(1, 3), 2)
    set_basis(weights, 0.25, 0.5)
    ties = torch.tensor([[-0.5, 0.0, 0.5]], dtype=torch.float64)
    assert weights(ties).tolist() == [[-0.75, -0.25, 0.25]]
    assert weights(ties + 1e-9).tolist() == [[-0.25, 0.25, 0.75]]
    inputs = activation_quantizer("lq_nets", normal(1, 3), 2)
    set_basis(inputs, 0.25, 0.5)
    ties = torch.tensor([[0.125, 0.375, 0.625]], dtype=torch.float64)
    assert inputs(ties).tolist() == [[0, 0.25, 0.5]]
    assert inputs(ties + 1e-9).tolist() == [[0.25, 0.5, 0.75]]


def test_lq_nets_sorts_its_levels_when_the_basis_is_out_of_order_or_negative() -> None:
    quantizer = weight_quantizer("lq_nets", normal(1, 3), 2)
    set_basis(quantizer, 0.5, -0.25)
    w = torch.tensor([[-2.0, -0.3, 0.2, 0.6]], dtype=torch.float64)
    assert quantizer(w).tolist() == [[-0.75, -0.25, 0.25, 0.75]]


def test_lq_nets_passes_an_inputs_gradient_below_the_top_level_only() -> None:
    x, g = torch.linspace(0, 3, 200, dtype=torch.float64), normal(200, seed=1)
    quantizer = activation_quantizer("lq_nets", x, 2)
    below = x.numpy() < basis_of(quantizer).sum()
    assert 0 < below.sum() < 200
    np.testing.assert_allclose(gradient(quantizer, x, g), g.numpy() * below)


@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_moves_each_filters_basis_toward_its_least_squares_one(
    bits: int, momentum: float
) -> None:
    w = normal(4, 60, scale=0.5)
    quantizer = weight_quantizer("lq_nets", w, bits, momentum=momentum)
    v = basis_of(quantizer)
    learn(quantizer, w)
    best = np.stack([best_basis(w.numpy()[i], v[i], (-1, 1)) for i in range(4)])
    expected = momentum * v + (1 - momentum) * best
    np.testing.assert_allclose(basis_of(quantizer), expected, rtol=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_lq_nets_moves_a_layers_input_basis_toward_its_least_squares_one(bits: int) -> None:
    x = normal(5, 3, 4, 4).clamp(min=0)
    quantizer = activation_quantizer("lq_nets", x, bits)
    v = basis_of(quantizer)[0]
    learn(quantizer, x)
    expected = 0.9 * v + 0.1 * best_basis(x.numpy().ravel(), v, (0, 1))
    np.testing.assert_allclose(basis_of(quantizer), [expected], rtol=1e-9)


def test_debiased_the_basis_after_one_step_is_the_least_squares_one() -> None:
    w = normal(1, 80)
    quantizer = weight_quantizer("lq_nets", w, 2, debias=True)
    v = basis_of(quantizer)[0]
    learn(quantizer, w)
    np.testing.assert_allclose(basis_of(quantizer), [best_basis(w.numpy()[0], v, (-1, 1))])


def test_debiased_the_basis_is_the_weighted_mean_of_all_least_squares_ones() -> None:
    quantizer = weight_quantizer("lq_nets", normal(1, 80), 2, debias=True)
    v, average = basis_of(quantizer)[0], np.zeros(2)
    for step in range(1, 6):
        w = normal(1, 80, seed=step)
        average = 0.9 * average + 0.1 * best_basis(w.numpy()[0], v, (-1, 1))
        v = average / (1 - 0.9**step)
        learn(quantizer, w)
        np.testing.assert_allclose(basis_of(quantizer), [v], rtol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_learning_its_levels_never_raises_lq_nets_error(bits: int, momentum: float) -> None:
    w, x = normal(1, 400), normal(400, seed=1).clamp(min=0)
    for quantizer, data in (
        (weight_quantizer("lq_nets", w, bits, momentum=momentum), w),
        (activation_quantizer("lq_nets", x, bits, momentum=momentum), x),
    ):
        errors = []
        for _ in range(40):
            errors.append(float((quantizer(data) - data).norm()))
            learn(quantizer, data)
        assert (np.diff(errors) <= 1e-9).all()
        assert errors[-1] < errors[0]


def test_lq_nets_at_one_bit_settles_on_the_mean_size_in_one_step() -> None:
    w = normal(6, 4, 3, 3)
    quantizer = weight_quantizer("lq_nets", w, 1, momentum=0.0)
    learn(quantizer, w)
    mean = np.abs(w.numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(basis_of(quantizer)[:, 0], mean, rtol=1e-5)
    learn(quantizer, w)
    np.testing.assert_allclose(basis_of(quantizer)[:, 0], mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("bits", "basis", "error"),
    [(2, [0.529, 0.983], 0.1175), (3, [0.301, 0.607, 1.158], 0.0369)],
)
def test_lq_nets_learns_the_known_levels_of_a_gaussian(
    bits: int, basis: list[float], error: float
) -> None:
    w = gaussian_quantiles(20_000)[None]
    quantizer = weight_quantizer("lq_nets", w, bits, momentum=0.0)
    for _ in range(200):
        learn(quantizer, w)
    np.testing.assert_allclose(np.sort(basis_of(quantizer)[0]), basis, atol=0.005)
    assert float((quantizer(w) - w).square().mean()) == pytest.approx(error, abs=0.0005)


def test_lq_nets_finds_levels_that_are_there() -> None:
    true = torch.tensor([-0.9, -0.3, 0.3, 0.9], dtype=torch.float64)
    w = true.repeat(1, 30)
    quantizer = weight_quantizer("lq_nets", w, 2, momentum=0.0)
    set_basis(quantizer, 0.2, 0.8)
    for _ in range(5):
        learn(quantizer, w)
    np.testing.assert_allclose(quantizer(w).numpy(), w.numpy(), atol=1e-5)


def test_a_code_bit_that_no_value_uses_keeps_its_basis() -> None:
    x = torch.full((50,), 0.4, dtype=torch.float64)
    quantizer = activation_quantizer("lq_nets", x, 2)
    low, high = np.sort(basis_of(quantizer)[0])
    learn(quantizer, x)
    np.testing.assert_allclose(
        np.sort(basis_of(quantizer)[0]), [0.9 * low + 0.1 * 0.4, high], rtol=1e-4
    )


def test_lq_nets_learns_from_large_float32_inputs_as_from_their_parts() -> None:
    # One value more often than float32 can count one by one.
    x = torch.full((2**24 + 2**22,), 0.7)
    quantizer = build_activation_quantizer("lq_nets", x[:10], 1, momentum=0.0)
    learn(quantizer, x)
    assert basis_of(quantizer).item() == pytest.approx(0.7, rel=1e-3)


def test_lq_nets_learns_in_training_only_and_after_the_weight_was_used() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    handle = attach_everywhere(model, "lq_nets", "2/2", calibration=[torch.rand(4, 3)])
    layer = handle.layers[0]
    x = torch.rand(4, 3)
    for quantizer, data in (
        (layer.weight_quantizer, layer.latent_weight.detach()),
        (layer.activation_quantizer, x),
    ):
        assert quantizer is not None
        before = basis_of(quantizer)
        used: list[Tensor] = []
        hook = quantizer.register_forward_hook(lambda m, a, y, used=used: used.append(y.detach()))
        model.eval()(x)
        np.testing.assert_array_equal(basis_of(quantizer), before)
        model.train()(x)
        assert not np.array_equal(basis_of(quantizer), before)
        assert torch.equal(used[0], used[1])
        hook.remove()
        assert not torch.equal(quantizer(data), used[1])

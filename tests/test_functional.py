"""What the shared primitives compute, against their formulas written out in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.functional import (
    Closed,
    clip,
    filter_dims,
    hard_staircase,
    quantize_unit,
    round_ste,
    sign,
    staircase,
    straight_through,
)

STEPS = [1, 2, 4, 6, 30, 255]
TEMPERATURES = [1.0, 5.0, 50.0, 2000.0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stairs(steps: int, seed: int = 0) -> dict[str, Any]:
    """A staircase with unequal step heights, thresholds one to two apart, in float64."""
    random = generator(seed)
    gaps = 1 + torch.rand(steps, generator=random, dtype=torch.float64)
    scales = torch.randint(1, 4, (steps,), generator=random).double()
    return {
        "alpha": torch.tensor(0.37, dtype=torch.float64),
        "beta": torch.tensor(1.7, dtype=torch.float64),
        "biases": gaps.cumsum(0) - gaps.sum() / 2,
        "scales": scales,
        "offset": float(scales.sum() / 2),
    }


def inputs(stair: dict[str, Any], count: int = 200) -> Tensor:
    """Values over the whole staircase, and as many within a hundredth of its steps."""
    random = generator(1)
    biases, beta = stair["biases"], stair["beta"]
    reach = float(biases.abs().max()) + 2
    wide = (2 * torch.rand(count, generator=random, dtype=torch.float64) - 1) * reach
    picked = biases[torch.randint(len(biases), (count,), generator=random)]
    close = picked + 0.01 * torch.randn(count, generator=random, dtype=torch.float64)
    return torch.cat([wide, close]) / beta


def equation_7(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    scales: Tensor,
    offset: float,
    temperature: float,
) -> Tensor:
    """y = α(Σ s_i σ(T(βx − b_i)) − o), for autograd to differentiate."""
    argument = temperature * (beta * x.unsqueeze(-1) - biases)
    return alpha * ((scales * torch.sigmoid(argument)).sum(-1) - offset)


def equation_5(x: Tensor, stair: dict[str, Any]) -> np.ndarray[Any, Any]:
    """y = α(Σ s_i A(βx − b_i) − o) with A(z) = 1 where z ≥ 0, one step after another."""
    total = np.full(x.shape, -stair["offset"])
    for bias, scale in zip(stair["biases"].tolist(), stair["scales"].tolist(), strict=True):
        total += scale * (x.numpy() * float(stair["beta"]) >= bias)
    return total * float(stair["alpha"])


def soft(x: Tensor, stair: dict[str, Any], temperature: float) -> Tensor:
    return staircase(x, **stair, temperature=torch.tensor(temperature, dtype=torch.float64))


def leaves(x: Tensor, stair: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fresh leaves x, α, β and b, to differentiate."""
    x, alpha, beta, biases = (
        tensor.clone().requires_grad_()
        for tensor in (x, stair["alpha"], stair["beta"], stair["biases"])
    )
    return x, alpha, beta, biases


def to(stair: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in stair.items()}


# round_ste, sign, straight_through, quantize_unit


def test_round_ste_rounds_to_nearest_and_ties_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.6, -0.5, 0.4, 0.5, 1.5, 2.5])
    assert round_ste(x).tolist() == [-2, -2, -1, 0, 0, 0, 2, 2]


def test_round_ste_passes_the_gradient_unchanged() -> None:
    x = torch.linspace(-3, 3, 13, requires_grad=True)
    g = torch.randn(13, generator=generator())
    round_ste(x).backward(g)
    assert x.grad is not None
    assert torch.equal(x.grad, g)


def test_sign_of_either_zero_is_plus_one() -> None:
    x = torch.tensor([-2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0])
    assert sign(x).tolist() == [-1, -1, 1, 1, 1, 1]


def test_sign_has_no_gradient() -> None:
    assert not sign(torch.ones(3, requires_grad=True)).requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rounding_and_sign_keep_dtype_and_shape(dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 4, generator=generator()).to(dtype)
    for y in (round_ste(x), sign(x), quantize_unit(x, 3), straight_through(x, sign(x))):
        assert y.dtype == dtype
        assert y.shape == x.shape


def test_straight_through_has_exactly_the_quantized_values() -> None:
    # Written as x + (q − x) the small value would be lost next to the large one.
    x = torch.tensor([1e8, -1e8], requires_grad=True)
    quantized = torch.tensor([0.3, 1e-20])
    assert torch.equal(straight_through(x, quantized), quantized)


def test_straight_through_gives_the_whole_gradient_to_x_and_none_to_the_quantized() -> None:
    x = torch.randn(5, generator=generator(), requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    g = torch.randn(5, generator=generator(1))
    straight_through(x, scale * sign(x)).backward(g)
    assert x.grad is not None
    assert torch.equal(x.grad, g)
    assert scale.grad is None


def test_straight_through_does_not_share_memory_with_the_quantized() -> None:
    quantized = torch.zeros(3)
    straight_through(torch.ones(3), quantized).add_(1)
    assert quantized.tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_quantize_unit_goes_to_the_nearest_of_evenly_spaced_levels(bits: int) -> None:
    x = torch.rand(2000, generator=generator(), dtype=torch.float64)
    levels = np.linspace(0, 1, 2**bits)
    nearest = levels[np.abs(x.numpy()[:, None] - levels).argmin(1)]
    np.testing.assert_allclose(quantize_unit(x, bits).numpy(), nearest, rtol=0, atol=1e-15)
    assert len(quantize_unit(x, bits).unique()) == 2**bits


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_quantize_unit_is_straight_through(bits: int) -> None:
    x = torch.rand(50, generator=generator(), dtype=torch.float64).requires_grad_()
    g = torch.randn(50, generator=generator(1), dtype=torch.float64)
    quantize_unit(x, bits).backward(g)
    torch.testing.assert_close(x.grad, g)


@pytest.mark.parametrize(("shape", "dims"), [((4, 3), (1,)), ((4, 3, 2, 2), (1, 2, 3))])
def test_a_filter_is_everything_but_the_output_channel(
    shape: tuple[int, ...], dims: tuple[int, ...]
) -> None:
    assert filter_dims(torch.zeros(shape)) == dims


# The soft staircase


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("steps", STEPS)
def test_the_soft_staircase_is_equation_7(steps: int, temperature: float) -> None:
    stair = stairs(steps)
    x = inputs(stair)
    torch.testing.assert_close(
        soft(x, stair, temperature), equation_7(x, **stair, temperature=temperature)
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("steps", STEPS)
def test_the_soft_staircase_has_the_gradients_of_equation_7(steps: int, temperature: float) -> None:
    stair = stairs(steps)
    x = inputs(stair)
    g = torch.randn(x.shape, generator=generator(2), dtype=torch.float64)
    own, reference = leaves(x, stair), leaves(x, stair)
    scales, offset = stair["scales"], stair["offset"]
    heat = torch.tensor(temperature, dtype=torch.float64)
    staircase(*own, scales, offset, heat).backward(g)
    equation_7(*reference, scales, offset, temperature).backward(g)
    for computed, expected in zip(own, reference, strict=True):
        assert expected.grad is not None
        size = float(expected.grad.abs().max())
        torch.testing.assert_close(computed.grad, expected.grad, rtol=1e-7, atol=1e-9 * size)


@pytest.mark.parametrize(
    ("steps", "temperature"),
    [(1, 1.0), (1, 40.0), (2, 5.0), (4, 5.0), (6, 1.0), (6, 20.0), (30, 5.0), (255, 1.0)],
)
def test_the_soft_staircase_agrees_with_finite_differences(steps: int, temperature: float) -> None:
    stair = stairs(steps)
    x = inputs(stair, count=6).view(3, 4)
    scales, offset = stair["scales"], stair["offset"]
    heat = torch.tensor(temperature, dtype=torch.float64)

    def function(x: Tensor, alpha: Tensor, beta: Tensor, biases: Tensor) -> Tensor:
        return staircase(x, alpha, beta, biases, scales, offset, heat)

    assert torch.autograd.gradcheck(function, leaves(x, stair), eps=1e-6, atol=1e-5)


def test_frozen_biases_get_no_gradient() -> None:
    stair = stairs(4)
    x, alpha, beta, biases = leaves(inputs(stair), stair)
    biases.requires_grad_(False)
    temperature = torch.tensor(5.0, dtype=torch.float64)
    y = staircase(x, alpha, beta, biases, stair["scales"], stair["offset"], temperature)
    y.sum().backward()
    assert biases.grad is None
    assert all(leaf.grad is not None for leaf in (x, alpha, beta))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("steps", [1, 6, 255])
def test_a_half_precision_input_keeps_its_dtype_and_is_computed_in_float32(
    steps: int, dtype: torch.dtype
) -> None:
    stair = stairs(steps)
    x = inputs(stair).to(dtype)
    y = staircase(x, **to(stair, torch.float32), temperature=torch.tensor(5.0))
    assert y.dtype == dtype
    exact = equation_7(x.double(), **stair, temperature=5.0)
    resolution = torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, rtol=resolution, atol=resolution / 4)


def test_a_bfloat16_input_gets_a_bfloat16_gradient_and_parameters_a_float32_one() -> None:
    stair = stairs(6)
    x, alpha, beta, biases = leaves(inputs(stair), stair)
    x = x.detach().bfloat16().requires_grad_()
    alpha, beta, biases = (leaf.detach().float().requires_grad_() for leaf in (alpha, beta, biases))
    staircase(
        x, alpha, beta, biases, stair["scales"].float(), stair["offset"], torch.tensor(5.0)
    ).sum().backward()
    reference = leaves(x.detach().double(), stair)
    equation_7(*reference, stair["scales"], stair["offset"], 5.0).sum().backward()
    for computed, expected in zip((x, alpha, beta, biases), reference, strict=True):
        assert computed.grad is not None
        assert expected.grad is not None
        assert computed.grad.dtype == computed.dtype
        rough = 1e-2 if computed is x else 1e-4
        size = float(expected.grad.abs().max())
        torch.testing.assert_close(
            computed.grad.double(), expected.grad, rtol=rough, atol=rough * size
        )


def test_parameters_in_bfloat16_do_not_make_the_sum_one_in_bfloat16() -> None:
    stair = stairs(30)
    half = to(stair, torch.bfloat16)
    x = inputs(stair).bfloat16()
    y = staircase(x, **half, temperature=torch.tensor(4.0, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    exact = equation_7(x.double(), **to(half, torch.float64), temperature=4.0)
    resolution = torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(y.double(), exact, rtol=resolution, atol=resolution / 4)


# The hard staircase


@pytest.mark.parametrize("steps", STEPS)
def test_the_hard_staircase_is_the_sum_of_unit_steps(steps: int) -> None:
    stair = stairs(steps)
    x = inputs(stair)
    np.testing.assert_allclose(
        hard_staircase(x, **stair).numpy(), equation_5(x, stair), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("steps", STEPS)
def test_the_hard_staircase_takes_one_value_more_than_it_has_steps(steps: int) -> None:
    stair = stairs(steps)
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64) * (2 * steps + 4)
    assert len(hard_staircase(x, **stair).unique()) == steps + 1


def test_on_its_threshold_the_hard_staircase_has_stepped_up() -> None:
    stair = stairs(3) | {
        "alpha": torch.tensor(1.0),
        "beta": torch.tensor(2.0),
        "biases": torch.tensor([-0.5, 0.0, 0.5]),
        "scales": torch.tensor([1.0, 2.0, 4.0]),
        "offset": 0.0,
    }
    below = torch.tensor([-0.2501, -1e-9, 0.2499])
    on = torch.tensor([-0.25, 0.0, 0.25])
    assert hard_staircase(below, **stair).tolist() == [0, 1, 3]
    assert hard_staircase(on, **stair).tolist() == [1, 3, 7]


@pytest.mark.parametrize("steps", [2, 6, 30])
def test_thresholds_may_be_in_any_order(steps: int) -> None:
    stair = stairs(steps)
    order = torch.randperm(steps, generator=generator())
    stair |= {"biases": stair["biases"][order], "scales": stair["scales"][order]}
    x = inputs(stair)
    np.testing.assert_allclose(
        hard_staircase(x, **stair).numpy(), equation_5(x, stair), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("steps", [1, 4, 30, 255])
def test_the_soft_staircase_approaches_the_hard_one_as_the_temperature_grows(steps: int) -> None:
    stair = stairs(steps)
    x = inputs(stair)
    distance = (x.unsqueeze(-1) * stair["beta"] - stair["biases"]).abs().amin(-1)
    x = x[distance > 0.02]
    gaps = [
        float((soft(x, stair, t) - hard_staircase(x, **stair)).abs().max())
        for t in (5.0, 50.0, 500.0, 2000.0)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_hard_staircase_keeps_dtype_and_shape(dtype: torch.dtype) -> None:
    stair = stairs(6)
    y = hard_staircase(inputs(stair).to(dtype).view(2, 10, -1), **to(stair, torch.float32))
    assert y.dtype == dtype
    assert y.shape == (2, 10, 20)
    assert len(y.unique()) == 7


@pytest.mark.parametrize(
    ("closed", "at_ends"),
    [("both", (1, 1)), ("left", (1, 0)), ("right", (0, 1)), ("neither", (0, 0))],
)
@pytest.mark.parametrize("as_tensors", [False, True])
def test_clip_has_the_gradient_of_its_interval(
    closed: Closed, at_ends: tuple[int, int], as_tensors: bool
) -> None:
    x = torch.tensor([-9.0, -0.5, 0.0, 2.0, 9.0], dtype=torch.float64, requires_grad=True)
    low, high = (torch.tensor(v) if as_tensors else v for v in (-0.5, 2.0))
    y = clip(x, low, high, closed=closed)
    g = torch.tensor([3.0, -5.0, 7.0, 11.0, torch.inf], dtype=torch.float64)
    y.backward(g)
    assert y.tolist() == [-0.5, -0.5, 0.0, 2.0, 2.0]
    assert x.grad is not None
    assert x.grad.tolist() == [0, -5 * at_ends[0], 7, 11 * at_ends[1], 0]


@pytest.mark.parametrize(("closed", "slopes"), [("both", [1, 1, 0]), ("neither", [1, 0, 0])])
def test_clip_may_have_one_end_or_an_end_for_each_row(closed: Closed, slopes: list[int]) -> None:
    for sign_of in (1, -1):
        x = sign_of * torch.tensor([[-1.0, 0.5, 2.0], [-3.0, 1.0, 1.5]])
        x.requires_grad_()
        end = sign_of * torch.tensor([[0.5], [1.0]])
        y = clip(x, high=end, closed=closed) if sign_of == 1 else clip(x, end, closed=closed)
        y.sum().backward()
        assert (sign_of * y).tolist() == [[-1.0, 0.5, 0.5], [-3.0, 1.0, 1.0]]
        assert x.grad is not None
        assert x.grad.tolist() == [slopes, slopes]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_clip_keeps_the_type_and_passes_nan_without_a_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([torch.nan, 0.5], dtype=dtype, requires_grad=True)
    y = clip(x, 0, 1)
    y.sum().backward()
    assert y.dtype == dtype
    assert y[0].isnan()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1]

"""Hard quantizers as exact step functions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from qbench.deployment.function import Steps
from qbench.deployment.steps import (
    NoStepFunctionError,
    StepTable,
    ordered_neighbours,
    probes,
    step_table,
)

SHAPE = (3, 4, 2)


class Uniform(nn.Module):
    """Codes 0 to 2^k − 1 times a step."""

    def __init__(self, bits: int = 2, step: float = 0.1) -> None:
        super().__init__()
        self.top, self.step = 2**bits - 1, torch.tensor(step)

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.step).round().clamp(0, self.top) * self.step


class Function(nn.Module):
    """Any function as a quantizer."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        assert callable(self.function)
        y = self.function(x)
        assert isinstance(y, Tensor)
        return y


def sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_every_step_is_found_to_the_bit(bits: int) -> None:
    quantizer = Uniform(bits)
    table = step_table(quantizer, SHAPE)
    assert table.thresholds.shape == (1, 2**bits - 1)
    at = table.thresholds[0]
    below = torch.nextafter(at, torch.tensor(-math.inf))
    assert torch.equal(quantizer(at), table.levels[0, 1:])
    assert torch.equal(quantizer(below), table.levels[0, :-1])


def test_the_table_is_the_quantizer_on_any_value_and_keeps_the_memory_format() -> None:
    quantizer = Uniform(4, 0.37)
    steps = Steps(step_table(quantizer, SHAPE))
    x = torch.randn(5, *SHAPE).to(memory_format=torch.channels_last)
    assert torch.equal(steps(x), quantizer(x))
    assert steps(x).stride() == x.stride()
    assert torch.equal(steps(torch.tensor([[math.inf, -math.inf]])), torch.tensor([[15 * 0.37, 0]]))


def test_both_zeros_are_on_the_same_side_of_a_threshold_at_zero() -> None:
    table = step_table(Function(sign), SHAPE)
    assert table.thresholds.tolist() == [[0.0]]
    assert not table.thresholds.signbit().any()
    assert table(torch.tensor([-0.0, 0.0])).tolist() == [1.0, 1.0]


def test_no_level_is_minus_zero() -> None:
    table = step_table(Function(lambda x: x.round().clamp(-1, 1)), SHAPE)
    assert table.levels.tolist() == [[-1.0, 0.0, 1.0]]
    assert not table.levels[0, 1].signbit()


def test_levels_may_fall() -> None:
    table = step_table(Function(lambda x: 1 - (x / 0.1).round().clamp(0, 3)), SHAPE)
    assert table.levels.tolist() == [[1.0, 0.0, -1.0, -2.0]]


@pytest.mark.parametrize(("axis", "shape"), [(1, (3, 4, 2)), (-1, (5, 3))])
def test_channels_may_have_thresholds_of_their_own(axis: int, shape: tuple[int, ...]) -> None:
    shift = torch.tensor([-1.0, 0.0, 0.25])
    shift = shift.view(3, 1, 1) if axis == 1 else shift
    quantizer = Function(lambda x: sign(x - shift))
    table = step_table(quantizer, shape)
    assert table.axis == axis
    assert table.thresholds.flatten().tolist() == [-1.0, 0.0, 0.25]
    x = torch.randn(7, *shape)
    assert torch.equal(table(x), quantizer(x))


def test_channels_may_have_different_numbers_of_steps() -> None:
    tops = torch.tensor([1.0, 3.0, 2.0]).view(3, 1, 1)
    quantizer = Function(lambda x: torch.minimum(x.round().clamp(min=0), tops))
    table = step_table(quantizer, SHAPE)
    assert table.thresholds.isinf().sum() == 3
    x = 3 * torch.randn(7, *SHAPE)
    x[0, 0] = math.inf
    assert torch.equal(table(x), quantizer(x))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: sign(x - 0.4 * x.abs().mean((1, 2, 3), keepdim=True)), "values of the image"),
        (lambda x: sign(x) * x.abs().mean(1, keepdim=True), "values of the image"),
        (lambda x: sign(x - x.mean()), "values of the batch"),
        (lambda x: sign(x - torch.arange(8.0).view(4, 2)), "its position"),
        (lambda x: x, "more than 4096 steps"),
        (lambda x: x.clamp(0, 1) * math.nan, "NaN"),
    ],
)
def test_what_is_no_function_of_one_number_is_refused(function: object, reason: str) -> None:
    with pytest.raises(NoStepFunctionError, match=reason):
        step_table(Function(function), SHAPE)


def test_steps_that_go_back_to_the_same_level_are_found() -> None:
    bump = Function(lambda x: torch.where((x > 0.7) & (x < 0.71), 2.0, sign(x)))
    assert step_table(bump, SHAPE).levels.tolist() == [[-1.0, 1.0, 2.0, 1.0]]


def test_probes_contain_the_neighbours_of_thresholds() -> None:
    table = StepTable(torch.tensor([[0.5, math.inf]]), torch.tensor([[0.0, 1.0, 1.0]]))
    values = probes(table)
    assert values.isfinite().all()
    assert torch.isin(ordered_neighbours(torch.tensor(0.5), 3), values).all()

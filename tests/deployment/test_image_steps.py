"""Hard quantizers whose thresholds are multiples of the mean size of each image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qbench.deployment.function import Steps, step_function
from qbench.deployment.image_steps import ImageSteps, image_steps
from qbench.deployment.steps import NoStepFunctionError, StepTable


class Function(nn.Module):
    """Any function of values and mean sizes as a quantizer."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, x.abs().mean(tuple(range(1, x.dim())), keepdim=True))


def ternary(x: Tensor, size: Tensor) -> Tensor:
    return torch.where(x > 0.4 * size, 1.0, 0.0) - torch.where(x < -0.4 * size, 1.0, 0.0)


@pytest.mark.parametrize("shape", [(3, 4, 2), (7,), (5, 3)])
def test_factors_are_found_to_the_bit(shape: tuple[int, ...]) -> None:
    quantizer = Function(ternary)
    steps = image_steps(quantizer, shape)
    assert torch.equal(steps.thresholds, torch.tensor([[-0.4, 0.4]]))
    assert steps.levels.tolist() == [[-1.0, 0.0, 1.0]]
    assert steps.above == (False, True)
    x = torch.randn(50, *shape)
    assert torch.equal(Steps(steps)(x), quantizer(x))


@pytest.mark.parametrize("factor", [-0.7, 0.05, 1.0, 1.3])
@pytest.mark.parametrize("above", [False, True])
def test_whether_a_step_is_at_or_above_its_threshold_is_found(factor: float, above: bool) -> None:
    compare = torch.gt if above else torch.ge
    steps = image_steps(Function(lambda x, size: 2.0 * compare(x, factor * size)), (3, 4, 2))
    assert torch.equal(steps.thresholds, torch.tensor([[factor]]))
    assert steps.above == (above,)
    assert steps.levels.tolist() == [[0.0, 2.0]]


def test_a_function_of_one_number_has_a_table() -> None:
    assert isinstance(step_function(Function(lambda x, _: x.sign()), (2, 3)), StepTable)
    assert isinstance(step_function(Function(ternary), (2, 3)), ImageSteps)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, _: (x > x.amax((1, 2), keepdim=True) / 2).float(),
        lambda x, size: (x > 0) * size,
        lambda x, size: (x > 0.4 * size + 1e-3).float(),
        lambda x, size: (x / size / 0.3 > 1).float(),
        lambda x, _: (x > x.mean()).float(),
    ],
)
def test_other_thresholds_are_refused(function: Callable[..., Tensor]) -> None:
    reason = "depends on other values.*, and its thresholds are no multiples of the mean size"
    with pytest.raises(NoStepFunctionError, match=reason):
        step_function(Function(function), (6, 5))


def test_levels_agree_up_to_rounding_of_the_mean() -> None:
    steps = ImageSteps(torch.tensor([[0.5]]), torch.tensor([[0.0, 1.0]]), (False,))
    at = torch.tensor([[1.0, 3.0]])
    assert steps(at).tolist() == [[1.0, 1.0]]
    assert steps.agrees(at, torch.tensor([[0.0, 1.0]])).all()  # 1.0 is at the threshold
    assert steps.agrees(at, torch.tensor([[0.0, 0.0]])).tolist() == [[True, False]]

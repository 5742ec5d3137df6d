"""A hard activation quantizer as the function that a file says, and as a module that applies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from qbench.deployment.image_steps import ImageSteps, image_steps
from qbench.deployment.steps import (
    DependsOnOthersError,
    NoStepFunctionError,
    StepTable,
    step_table,
)

StepFunction = StepTable | ImageSteps
"""Steps at fixed numbers, or at multiples of the mean size of each image."""


def step_function(quantizer: nn.Module, shape: Sequence[int]) -> StepFunction:
    """Derive the step function of a hard quantizer.

    Args:
        quantizer: Quantizer in evaluation mode.
        shape: Shape of its input for one image, without the batch.

    Raises:
        NoStepFunctionError: The quantizer is no step function.
    """
    try:
        return step_table(quantizer, shape)
    except DependsOnOthersError as error:
        try:
            return image_steps(quantizer, shape)
        except NoStepFunctionError as more:
            raise NoStepFunctionError(
                f"{error}, and its thresholds are no multiples of the mean size of an image"
            ) from more


class Steps(nn.Module):
    """Activation quantizer that applies a step function.

    Args:
        function: The function.
    """

    thresholds: Tensor
    levels: Tensor

    def __init__(self, function: StepFunction) -> None:
        super().__init__()
        self._function = function
        self.register_buffer("thresholds", function.thresholds)
        self.register_buffer("levels", function.levels)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, (N, …), float32."""
        return replace(self._function, thresholds=self.thresholds, levels=self.levels)(x)

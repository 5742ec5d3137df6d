"""What differs between ONNX and QONNX: the operators of a model, and what executes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qbench.deployment.emitters import Emitter
from qbench.deployment.function import StepFunction
from qbench.deployment.nodes import Nodes, Run
from qbench.deployment.weights import PackedWeight

BuildWeight = Callable[[Nodes], Any]


@dataclass(frozen=True)
class Dialect:
    """Operators that a model is written with, and what executes it.

    Attributes:
        opsets: Versions of the operators, by domain.
        emitter_of: Returns the nodes of a step function for a batch with a number of dimensions, or
            raises NoStepFunctionError.
        weight_nodes: Returns what adds the nodes of a packed weight of a module and returns their
            output, and how the weight is written, in words. Raises QbenchError if it cannot be
            written.
        run: Executes a model, or a part of it.
        logits: Executes the model in a file on images, and returns the logits, (N, classes), by
            what computed them. The first one computes without optimizations.
        moving: What quantizes biases if batch normalization is folded. Its
            predictions are reported and not judged.
    """

    opsets: Mapping[str, int]
    emitter_of: Callable[[StepFunction, int], Emitter]
    weight_nodes: Callable[[PackedWeight, nn.Module], tuple[BuildWeight, str]]
    run: Run
    logits: Callable[[Path, Tensor], Mapping[str, Tensor]]
    moving: tuple[str, ...] = ()

"""Step functions as nodes of ONNX.

The emitters of a function are tried in order, the fastest first. One is accepted only if
onnxruntime computes the function with it at every probe: at the numbers around each threshold, and
at random ones. So nothing here needs to know what a method does.

1. ``QDQ``: QuantizeLinear and DequantizeLinear, which round x / s half to even.
2. ``QDQ between Mul and Div``: levels i/n.
3. ``QDQ between Sub and Add``: levels with an offset.
4. ``comparisons``: a chain of Where, up to 7 steps.
5. ``counts``: the number of thresholds that are reached, and a Gather of the level, up to 15 steps.
6. ``search``: a binary search for the threshold by Gather.
7. ``comparisons for each image``: comparisons with multiples of its mean size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from qbench.deployment.function import StepFunction
from qbench.deployment.image_steps import ImageSteps
from qbench.deployment.nodes import Nodes, Run, channels_of, run_alone, run_in_onnxruntime
from qbench.deployment.steps import NoStepFunctionError, StepTable
from qbench.deployment.weights import offset_of, scale_of

_CHAIN, _COUNTS = 7, 15  # steps
Build = Callable[[Nodes, Any], Any]


@dataclass(frozen=True)
class Emitter:
    """A way to say a step function in ONNX.

    Attributes:
        name: Its name, as in this module's description.
        build: Adds its nodes, from the input to the output.
    """

    name: str
    build: Build


def first_exact(
    emitters: Iterable[Emitter], steps: StepFunction, rank: int, run: Run
) -> Emitter | None:
    """Return the first of some emitters that computes a step function, or None.

    Args:
        emitters: The emitters.
        steps: The step function.
        rank: Number of dimensions of a batch.
        run: Runs a model.
    """
    x, expected = steps.probed(rank)
    for emitter in emitters:
        if np.array_equal(run_alone(emitter.build, x.numpy(), run), expected.numpy()):
            return emitter
    return None


def emitter_of(steps: StepFunction, rank: int) -> Emitter:
    """Return the first emitter that computes a step function in onnxruntime.

    Args:
        steps: The step function.
        rank: Number of dimensions of a batch.

    Raises:
        NoStepFunctionError: None does.
    """
    emitters: Iterable[Emitter]
    if isinstance(steps, ImageSteps):
        emitters = [Emitter("comparisons for each image", partial(for_each_image, steps))]
        reason = "onnxruntime computes other thresholds"
    else:
        emitters = _emitters(steps, rank)
        reason = (
            f"channels have up to {steps.thresholds.shape[1]} steps of their own, and up to "
            f"{_COUNTS} can be written to ONNX"
        )
    found = first_exact(emitters, steps, rank, run_in_onnxruntime)
    if found is None:
        raise NoStepFunctionError(reason)
    return found


def _emitters(table: StepTable, rank: int) -> Iterator[Emitter]:
    levels = table.levels[0]
    steps = table.thresholds.shape[1]
    if table.axis is None and steps and bool((levels.diff() > 0).all()):
        yield from _uniform(levels, steps)
    if steps <= _CHAIN or (table.axis is not None and steps <= _COUNTS):
        yield Emitter("comparisons", partial(_chain, table, rank))
    if table.axis is None:
        if steps <= _COUNTS:
            yield Emitter("counts", partial(_counts, table))
        else:
            yield Emitter("search", partial(_search, table))


def _uniform(levels: torch.Tensor, steps: int) -> Iterator[Emitter]:
    if (found := even_codes(levels)) is not None:
        yield Emitter("QDQ", partial(_qdq, *found))
    if torch.equal(levels, torch.arange(steps + 1.0) / steps) and steps <= 255:
        yield Emitter("QDQ between Mul and Div", partial(_between_mul_and_div, steps))
    if steps <= 255 and (offset := offset_of(levels, steps + 1)) is not None:
        yield Emitter(
            "QDQ between Sub and Add",
            partial(_between_sub_and_add, float(offset[0]), float(offset[1]), steps),
        )


def even_codes(levels: torch.Tensor) -> tuple[float, int, int] | None:
    """Return a scale and the first and the last of the consecutive integers that it gives levels.

    Args:
        levels: The levels, ascending, (n,).

    Returns:
        None if there are none, or more than 256 levels.
    """
    scale = scale_of(levels[None], map(float, range(-255, 256)))
    if scale is None:
        return None
    positive = scale[0].abs()  # the range of codes is symmetric
    codes = (levels / positive).round()
    low, high = int(codes[0]), int(codes[-1])
    return (float(positive), low, high) if high - low == len(levels) - 1 <= 255 else None


def _qdq(scale: float, low: int, high: int, nodes: Nodes, x: Any) -> Any:
    """Clip to the range of the codes, quantize and dequantize.

    Signed codes are uint8 too: on x86, onnxruntime cannot load an int8 pair that its optimizer has
    moved behind a Transpose.
    """
    signed = -128 <= low < 0 and high <= 127
    zero = 128 if signed else -min(low, 0)
    s = np.float32(scale)
    if (low + zero, high + zero) != (0, 255):
        ends = [
            nodes.constant(name, np.float32(code) * s)
            for name, code in (("low", low), ("high", high))
        ]
        x = nodes.add("Clip", x, *ends)
    scale_value, zero_value = nodes.constant("scale", s), nodes.constant("zero", np.uint8(zero))
    codes = nodes.add("QuantizeLinear", x, scale_value, zero_value)
    return nodes.add("DequantizeLinear", codes, scale_value, zero_value)


def _between_mul_and_div(steps: int, nodes: Nodes, x: Any) -> Any:
    n = nodes.constant("n", np.float32(steps))
    return nodes.add("Div", _qdq(1.0, 0, steps, nodes, nodes.add("Mul", x, n)), n)


def _between_sub_and_add(scale: float, base: float, steps: int, nodes: Nodes, x: Any) -> Any:
    offset = nodes.constant("offset", np.float32(base))
    return nodes.add("Add", _qdq(scale, 0, steps, nodes, nodes.add("Sub", x, offset)), offset)


def _chain(table: StepTable, rank: int, nodes: Nodes, x: Any) -> Any:
    shape = channels_of(table.axis, rank)

    def constant(name: str, column: torch.Tensor) -> Any:
        return nodes.constant(name, column.numpy().reshape(shape))

    y = constant("level.0", table.levels[:, 0])
    for step in range(table.thresholds.shape[1]):
        threshold = constant(f"threshold.{step}", table.thresholds[:, step])
        reached = nodes.add("GreaterOrEqual", x, threshold)
        y = nodes.add("Where", reached, constant(f"level.{step + 1}", table.levels[:, step + 1]), y)
    if not table.thresholds.shape[1]:  # one level, of the shape of the input
        return nodes.add("Expand", y, nodes.add("Shape", x))
    return y


def for_each_image(steps: ImageSteps, nodes: Nodes, x: Any) -> Any:
    """Add a chain of Where with thresholds that are multiples of mean|x| of each image.

    Args:
        steps: The step function.
        nodes: What to add to.
        x: The input.
    """
    axes = nodes.constant("axes", np.arange(1, len(x.shape)))
    size = nodes.add("ReduceMean", nodes.add("Abs", x), axes)
    y = nodes.constant("level.0", steps.levels[0, 0].numpy())
    rows = zip(steps.thresholds[0].numpy(), steps.levels[0, 1:].numpy(), steps.above, strict=True)
    for step, (factor, level, above) in enumerate(rows):
        threshold = nodes.add("Mul", nodes.constant(f"factor.{step}", factor), size)
        reached = nodes.add("Greater" if above else "GreaterOrEqual", x, threshold)
        y = nodes.add("Where", reached, nodes.constant(f"level.{step + 1}", level), y)
    return y


def _counts(table: StepTable, nodes: Nodes, x: Any) -> Any:
    count = None
    for step, threshold in enumerate(table.thresholds[0].numpy()):
        reached = nodes.add("GreaterOrEqual", x, nodes.constant(f"threshold.{step}", threshold))
        one = nodes.add("Cast", reached, to=_int32())
        count = one if count is None else nodes.add("Add", count, one)
    return nodes.add("Gather", nodes.constant("table", table.levels[0].numpy()), count)


def _search(table: StepTable, nodes: Nodes, x: Any) -> Any:
    size = 2 ** math.ceil(math.log2(table.levels.shape[1]))
    thresholds = np.full(size, np.inf, np.float32)
    thresholds[: table.thresholds.shape[1]] = table.thresholds[0].numpy()
    levels = np.full(size, table.levels[0, -1], np.float32)
    levels[: table.levels.shape[1]] = table.levels[0].numpy()
    found, half = None, size // 2
    while half:
        at = np.minimum(np.arange(size) + half - 1, size - 1)
        if found is None:
            threshold = nodes.constant(f"threshold.{half}", thresholds[half - 1])
        else:
            threshold = nodes.add(
                "Gather", nodes.constant(f"threshold.{half}", thresholds[at]), found
            )
        reached = nodes.add("Cast", nodes.add("GreaterOrEqual", x, threshold), to=_int32())
        step = nodes.add("Mul", reached, nodes.constant(f"half.{half}", np.int32(half)))
        found = step if found is None else nodes.add("Add", found, step)
        half //= 2
    return nodes.add("Gather", nodes.constant("table", levels), found)


def _int32() -> int:
    return 6  # onnx.TensorProto.INT32

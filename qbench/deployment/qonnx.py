"""QONNX: the interchange of FINN and hls4ml, executed by the package ``qonnx``.

Weights stay floats in the file. An operator ``Quant`` or ``BipolarQuant`` behind them says which
integers they are. The operators of a step function are tried in order, and the first is taken that
computes it in qonnx's executor at its probes:

1. ``BipolarQuant``: two levels of opposite sign, with the threshold 0.
2. ``Quant``: rounds x / s + z half to even, with a ``Clip`` where codes do not fill the integer, or
   for a wider integer without z.
3. ``Quant between Mul and Div``: levels i/n.
4. ``MultiThreshold``: any thresholds, also for each channel, with evenly spaced levels.
5. ``Quant of comparisons for each image``: comparisons with multiples of its mean size, which are
   operators of ONNX, and ``Quant`` behind them, which says which integers the levels are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench.deployment.dialect import BuildWeight, Dialect
from qbench.deployment.emitters import Emitter, even_codes, first_exact, for_each_image
from qbench.deployment.extra import library
from qbench.deployment.function import StepFunction
from qbench.deployment.graph import INPUT, OUTPUT
from qbench.deployment.image_steps import ImageSteps
from qbench.deployment.nodes import Nodes
from qbench.deployment.standard import integers_of
from qbench.deployment.steps import NoStepFunctionError, StepTable
from qbench.deployment.weights import PackedWeight, offset_of
from qbench.errors import QbenchError
from qbench.quant.exchange.transposed import output_first
from qbench.spec.granularity import PerChannel, PerGroup

_DOMAIN = "qonnx.custom_op.general"
_OPSET = 23  # of the other operators
_BATCH = 64


def run_in_qonnx(model: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model in qonnx's executor, and return its outputs by name."""
    onnx = library("onnx")
    wrapper = library("qonnx.core.modelwrapper").ModelWrapper(onnx.load_from_string(model))
    for name, x in inputs.items():
        wrapper.set_tensor_shape(name, list(x.shape))
    wrapper = wrapper.transform(library("qonnx.transformation.infer_shapes").InferShapes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = library("qonnx.core.onnx_exec").execute_onnx(wrapper, dict(inputs))
    return dict(found)


def _logits(path: Path, images: Tensor) -> dict[str, Tensor]:
    model = path.read_bytes()
    parts = [run_in_qonnx(model, {INPUT: x.numpy()})[OUTPUT] for x in images.split(_BATCH)]
    return {"qonnx": torch.from_numpy(np.concatenate(parts))}


def emitter_of(steps: StepFunction, rank: int) -> Emitter:
    """Return the first operator that computes a step function in qonnx's executor.

    Args:
        steps: The step function.
        rank: Number of dimensions of a batch.

    Raises:
        NoStepFunctionError: None does.
    """
    emitters = _of_images(steps) if isinstance(steps, ImageSteps) else _emitters(steps, rank)
    found = first_exact(emitters, steps, rank, run_in_qonnx)
    if found is None:
        raise NoStepFunctionError(
            "its levels are not evenly spaced and rising, and QONNX has no lookup"
        )
    return found


def _emitters(table: StepTable, rank: int) -> Iterator[Emitter]:
    levels, steps = table.levels, table.thresholds.shape[1]
    if table.axis is None and steps == 1 and float(levels[0, 0]) == -float(levels[0, 1]) < 0:
        yield Emitter("BipolarQuant", partial(_bipolar, float(levels[0, 1])))
    if bool((levels != levels[:1]).any()) or not bool((levels[0].diff() > 0).all()) or not steps:
        return  # levels of their own for each channel, or falling ones
    even = even_codes(levels[0])
    if table.axis is None and even is not None:
        yield Emitter("Quant", partial(_quant, *even))
        yield Emitter("Quant of a wider integer", partial(_quant, *even, wider=True))
    if table.axis is None and torch.equal(levels[0], torch.arange(steps + 1.0) / steps):
        yield Emitter("Quant between Mul and Div", partial(_between_mul_and_div, steps))
    if steps <= 255 and (table.axis != -1 or rank == 2):
        offset = offset_of(levels[0], steps + 1)
        if even is not None:
            yield Emitter("MultiThreshold", partial(_thresholds, table, even[0], even[1] * even[0]))
        if offset is not None:
            scale, base = map(float, offset)
            yield Emitter("MultiThreshold", partial(_thresholds, table, scale, base))


def _of_images(steps: ImageSteps) -> Iterator[Emitter]:
    even = even_codes(steps.levels[0])
    if even is not None:
        yield Emitter("Quant of comparisons for each image", partial(_quant_of_image, steps, even))


def _quant_of_image(steps: ImageSteps, even: tuple[float, int, int], nodes: Nodes, x: Any) -> Any:
    return _quant(*even, nodes, for_each_image(steps, nodes, x))


def _bipolar(scale: float, nodes: Nodes, x: Any) -> Any:
    return nodes.add("BipolarQuant", x, nodes.constant("scale", np.float32(scale)), domain=_DOMAIN)


def _thresholds(table: StepTable, scale: float, base: float, nodes: Nodes, x: Any) -> Any:
    return nodes.add(
        "MultiThreshold",
        x,
        nodes.constant("thresholds", table.thresholds.numpy()),
        domain=_DOMAIN,
        out_dtype="FLOAT32",
        out_scale=scale,
        out_bias=base,
    )


def _quant(scale: float, low: int, high: int, nodes: Nodes, x: Any, wider: bool = False) -> Any:
    """Clip to the range of the codes, and quantize.

    Args:
        scale: The scale.
        low: Smallest code.
        high: Largest code.
        nodes: What to add to.
        x: The input.
        wider: Whether to take a signed integer with more bits instead of a zero point. ``Quant``
            rounds x / s + z, so that an odd zero point takes ties to the other side.
    """
    s = np.float32(scale)
    bits, zero, signed = _integer(low, high, max(1, (high - low).bit_length()))
    if wider:
        bits, zero, signed = 1 + max(high, -low - 1).bit_length(), 0, True
    least = -(2 ** (bits - 1)) if signed else 0
    if (low + zero, high + zero) != (least, least + 2**bits - 1):
        ends = [
            nodes.constant(name, np.float32(code) * s)
            for name, code in (("low", low), ("high", high))
        ]
        x = nodes.add("Clip", x, *ends)
    return _quantized(nodes, x, np.asarray(s), bits, zero, signed)


def _between_mul_and_div(steps: int, nodes: Nodes, x: Any) -> Any:
    n = nodes.constant("n", np.float32(steps))
    return nodes.add("Div", _quant(1.0, 0, steps, nodes, nodes.add("Mul", x, n)), n)


def _quantized(nodes: Nodes, x: Any, scale: np.ndarray, bits: int, zero: int, signed: bool) -> Any:
    numbers = [
        nodes.constant("scale", scale.astype(np.float32)),
        nodes.constant("zero", np.float32(zero)),
        nodes.constant("bits", np.float32(bits)),
    ]
    return nodes.add(
        "Quant", x, *numbers, domain=_DOMAIN, signed=int(signed), narrow=0, rounding_mode="ROUND"
    )


def _integer(low: int, high: int, bits: int) -> tuple[int, int, bool]:
    """Return the bits of an integer for codes, its zero point, and whether it is signed.

    Args:
        low: Smallest code.
        high: Largest code.
        bits: Bits of the codes. If they fit no integer of so many bits, it is wider.
    """
    while True:
        if low >= 0 and high < 2**bits:
            return bits, 0, False
        if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1):
            return bits, 0, True
        if high - low < 2**bits:
            return bits, -low, False
        bits += 1


def weight_nodes(packed: PackedWeight, module: nn.Module) -> tuple[BuildWeight, str]:
    """Return what adds the nodes of a packed weight, and how it is written.

    Args:
        packed: The weight.
        module: The module that it belongs to.

    Raises:
        QbenchError: No operator gives the weight.
    """
    if isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups != 1:
        raise QbenchError("it belongs to a transposed convolution with groups")
    if isinstance(packed.granularity, PerGroup):
        raise QbenchError("QONNX has no scale for each group of weights of a channel")
    found = integers_of(packed)
    if found is None:
        raise QbenchError("its levels are no integers times a scale, to the bit")
    codes, scales = found
    shape = [1] * codes.ndim
    if isinstance(packed.granularity, PerChannel):
        shape[packed.granularity.axis] = -1
    scale = output_first(module, torch.from_numpy(scales.reshape(shape))).numpy()
    values = output_first(module, packed.weight()).contiguous().numpy()
    if set(np.unique(codes)) <= {-1, 1} and (scales > 0).all():
        return partial(_bipolar_weight, values, scale), "BipolarQuant"
    bits, zero, signed = _integer(int(codes.min()), int(codes.max()), packed.bits)
    return partial(_quant_weight, values, scale, bits, zero, signed), f"Quant, {bits} bits"


def _bipolar_weight(values: np.ndarray, scale: np.ndarray, nodes: Nodes) -> Any:
    inputs = nodes.constant("float", values), nodes.constant("scale", scale)
    return nodes.add("BipolarQuant", *inputs, domain=_DOMAIN)


def _quant_weight(
    values: np.ndarray, scale: np.ndarray, bits: int, zero: int, signed: bool, nodes: Nodes
) -> Any:
    return _quantized(nodes, nodes.constant("float", values), scale, bits, zero, signed)


QONNX = Dialect({"": _OPSET, _DOMAIN: 1}, emitter_of, weight_nodes, run_in_qonnx, _logits)
"""QONNX, with the operators of ONNX of opset 23."""

"""ONNX as onnxruntime runs it: weights as integers or codes with a table, and quantizers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench.deployment.dialect import BuildWeight, Dialect
from qbench.deployment.emitters import emitter_of
from qbench.deployment.nodes import (
    OPSET,
    OPTIMIZATIONS,
    Nodes,
    open_session,
    run_in_onnxruntime,
)
from qbench.deployment.weights import PackedWeight, group_numbers
from qbench.errors import QbenchError
from qbench.quant.exchange.transposed import output_first
from qbench.spec.granularity import PerChannel, PerGroup, PerTensor

_INTEGERS = (
    *(("INT2", -2, 1), ("UINT2", 0, 3), ("INT4", -8, 7), ("UINT4", 0, 15)),
    *(("INT8", -128, 127), ("UINT8", 0, 255)),
)
_BATCH = 64


def weight_nodes(packed: PackedWeight, module: nn.Module) -> tuple[BuildWeight, str]:
    """Return what builds the nodes of a weight, and how they are described."""
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    if transposed and module.groups != 1:
        raise QbenchError("it belongs to a transposed convolution with groups")
    integers = integers_of(packed)
    if integers is not None and not (transposed and isinstance(packed.granularity, PerGroup)):
        codes, scales = integers
        kind, zero = _integer_type(codes)
        if kind and _has_axis(packed):
            codes = output_first(module, torch.from_numpy(codes)).numpy()
            build = partial(_dequantized, packed, codes, scales, kind, zero, transposed)
            return build, f"{kind} × scale"
    kind = next(kind for kind, _, high in _INTEGERS[1::2] if high >= 2**packed.bits - 1)
    table_codes = output_first(module, packed.codes).numpy()
    numbers = group_numbers(packed.codes, packed.granularity).contiguous()
    groups = output_first(module, numbers).numpy()
    return partial(_looked_up, packed, table_codes, groups, kind), f"{kind} → table"


def integers_of(packed: PackedWeight) -> tuple[np.ndarray, np.ndarray] | None:
    """Return integer codes and the scale of each group, if the form has them."""
    grid = np.array(packed.grid)
    if packed.form not in ("constants", "scale", "zero_point") or (grid != grid.round()).any():
        return None
    groups = group_numbers(packed.codes, packed.granularity).numpy()
    codes = grid[packed.codes.numpy()].astype(np.int64)
    if packed.form == "constants":
        return codes, np.ones(len(packed.numbers), np.float32)
    if packed.form == "zero_point":
        codes -= packed.numbers[:, 1].numpy().astype(np.int64)[groups]
    return codes, packed.numbers[:, 0].numpy()


def _integer_type(codes: np.ndarray) -> tuple[str, int]:
    """Return the smallest type of codes, and the zero point that it needs; '' if there is none."""
    low, high = int(codes.min()), int(codes.max())
    for kind, least, most in _INTEGERS:
        if least <= low and high <= most:
            return kind, 0
    return ("UINT8", -low) if high - low <= 255 else ("", 0)


def _has_axis(packed: PackedWeight) -> bool:
    """Return whether DequantizeLinear knows the groups of a weight."""
    granularity = packed.granularity
    if isinstance(granularity, PerGroup):
        return bool(packed.codes[0].numel() % granularity.size == 0)
    return isinstance(granularity, PerTensor | PerChannel)


def _dequantized(
    packed: PackedWeight,
    codes: np.ndarray,
    scales: np.ndarray,
    kind: str,
    zero: int,
    transposed: bool,
    nodes: Nodes,
) -> Any:
    granularity, shape = packed.granularity, codes.shape
    attributes: dict[str, Any] = {}
    match granularity:
        case PerTensor():
            scales = scales.reshape(())
        case PerChannel(axis):
            attributes = {"axis": 1 - axis if transposed else axis}
        case PerGroup(size):
            codes = codes.reshape(len(codes), -1)
            scales = scales.reshape(len(codes), -1)
            attributes = {"axis": 1, "block_size": size}
    inputs = [nodes.constant("codes", codes + zero, kind), nodes.constant("scale", scales)]
    if zero:
        inputs.append(nodes.constant("zero", np.full(scales.shape, zero), kind))
    value = nodes.add("DequantizeLinear", *inputs, **attributes)
    if isinstance(granularity, PerGroup) and len(shape) > 2:
        value = nodes.add("Reshape", value, nodes.constant("shape", np.array(shape)))
    return value


def _looked_up(
    packed: PackedWeight, codes: np.ndarray, groups: np.ndarray, kind: str, nodes: Nodes
) -> Any:
    levels = packed.levels()
    at = nodes.add("Cast", nodes.constant("codes", codes.astype(np.int64), kind), to=6)  # int32
    if len(levels) > 1:
        first = groups.astype(np.int32) * levels.shape[1]
        for axis in range(first.ndim):  # one number where a dimension has the same
            one = np.take(first, [0], axis)
            if (first == one).all():
                first = one
        at = nodes.add("Add", at, nodes.constant("first", first))
    return nodes.add("Gather", nodes.constant("levels", levels.numpy().ravel()), at)


def run_onnx(path: Path, images: Tensor, optimizations: str, threads: int = 1) -> Tensor:
    """Return the logits of a model on images, (N, classes).

    Args:
        path: The model.
        images: Images, (N, C, H, W).
        optimizations: One of `qbench.deployment.nodes.OPTIMIZATIONS`.
        threads: Number of threads.
    """
    session = open_session(str(path), optimizations, threads)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: x.numpy()})[0] for x in images.split(_BATCH)]
    return torch.from_numpy(np.concatenate(parts))


def _logits(path: Path, images: Tensor) -> dict[str, Tensor]:
    return {_named(how): run_onnx(path, images, how) for how in OPTIMIZATIONS}


def _named(how: str) -> str:
    return f"onnxruntime, optimizations: {how}"


ONNX = Dialect({"": OPSET}, emitter_of, weight_nodes, run_in_onnxruntime, _logits, (_named("all"),))
"""ONNX of opset 25."""

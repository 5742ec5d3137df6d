"""Fold batch normalization into the scales and biases of an ONNX model.

The integers of a weight stay what they are: the factor of each channel goes into the scale behind
them, γ s / √(σ² + ε), so that a weight stays on its levels. A weight that is looked up, or whose
scales are for groups or input channels, has no such scale, and its normalization stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from qbench.deployment.extra import library
from qbench.deployment.network import HardNetwork


def fold(graph: Any, network: HardNetwork) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Fold every batch normalization that directly follows a convolution.

    Args:
        graph: The graph, with the weights of the network written. It is changed in place.
        network: The network.

    Returns:
        The factors of the output channels, (channels,), by name of the weight, and the names of
        the weights whose normalization stays because no scale of theirs can take it.
    """
    folded: dict[str, torch.Tensor] = {}
    kept = []
    for norm in [node for node in graph if node.op_type == "BatchNormalization"]:
        layer = norm.inputs[0].producer()
        if layer is None or layer.op_type != "Conv" or len(norm.inputs[0].uses()) > 1:
            continue
        name = layer.inputs[1].name.removesuffix(".values")
        module = network.model.get_submodule(name.rpartition(".")[0])
        normalization = network.model.get_submodule(norm.inputs[1].name.rpartition(".")[0])
        factor, bias = _folded(normalization, getattr(module, "bias", None))
        if not _scale(graph, layer.inputs[1], factor):
            kept.append(name)
            continue
        out, old = layer.outputs[0], norm.outputs[0]
        added = _constant(graph, f"{name}.folded_bias", bias)
        layer.resize_inputs(3)
        layer.replace_input_with(2, added)
        for user, index in list(old.uses()):
            user.replace_input_with(index, out)
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = out
        graph.remove(norm, safe=True)
        folded[name] = torch.from_numpy(factor)
    return folded, kept


def _folded(norm: nn.Module, bias: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the factor and the bias of each channel, float32."""
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)  # noqa: S101
    assert norm.running_mean is not None  # noqa: S101
    assert norm.running_var is not None  # noqa: S101
    mean, variance = (x.double().numpy() for x in (norm.running_mean, norm.running_var))
    gamma, beta = (x.detach().double().numpy() for x in (norm.weight, norm.bias))
    factor = gamma / np.sqrt(variance + norm.eps)
    own = 0.0 if bias is None else bias.detach().double().numpy()
    return factor.astype(np.float32), (beta + (own - mean) * factor).astype(np.float32)


def _scale(graph: Any, weight: Any, factor: np.ndarray) -> bool:
    """Multiply the output channels of a weight; return whether it has a place for the factors."""
    node = weight.producer()
    if node is None:  # of full precision
        values = weight.const_value.numpy()
        _set(weight, values * factor.reshape(-1, *[1] * (values.ndim - 1)))
        return True
    if node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return False
    scale, zero = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    values = scale.const_value.numpy()
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    if values.ndim and axis:
        return False
    _set(scale, np.broadcast_to(values, factor.shape) * factor)
    if zero is not None:
        zeros = zero.const_value.numpy()
        _set(zero, np.ascontiguousarray(np.broadcast_to(zeros, factor.shape)))
    node.attributes["axis"] = library("onnx_ir").AttrInt64("axis", 0)
    return True


def _set(value: Any, array: np.ndarray) -> None:
    ir = library("onnx_ir")
    value.const_value = ir.Tensor(array, dtype=value.dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def _constant(graph: Any, name: str, array: np.ndarray) -> Any:
    ir = library("onnx_ir")
    made = ir.Value(
        name=name,
        const_value=ir.Tensor(array, name=name),
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(array.shape),
    )
    graph.register_initializer(made)
    return made

"""Compare the layers of an ONNX model with those of torch on integers, where nothing is rounded.

Each activation quantizer of the file receives what it received in torch, and its integer codes must
be those of torch. From the codes and the integers of the weight, torch and onnxruntime both compute
the layer's sums of products as integers (torch in float64, which is exact below 2^53; onnxruntime
with ``ConvInteger`` and ``MatMulInteger``), and no sum may differ.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench.deployment.extra import library
from qbench.deployment.graph import Written
from qbench.deployment.network import HardNetwork
from qbench.deployment.nodes import open_session
from qbench.deployment.proof import activations_of
from qbench.deployment.standard import integers_of

_IMAGES = 256
_LAYERS = ("Conv", "Gemm")


@dataclass
class Integers:
    """Comparison of layers on integers.

    Attributes:
        codes: Number of codes of activations that were compared.
        sums: Number of sums of products that were compared, by layer.
        left_out: Layers that have no integers on both sides, each with the reason.
        wrong: The first layer where an integer differs, in words, or an empty string.
    """

    codes: int = 0
    sums: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    wrong: str = ""

    @property
    def text(self) -> str:
        """The comparison in a sentence."""
        rest = "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())
        return (
            f"on integers: {self.codes} codes and {sum(self.sums.values())} sums of products in "
            f"{len(self.sums)} layers {'differ' if self.wrong else 'are the same'}"
            + (f"; not compared: {rest}" if rest else "")
        )


@torch.no_grad()
def compare_integers(
    network: HardNetwork, path: Path, written: Written, images: Tensor
) -> Integers:
    """Compare the layers of a model with those of its network on integers.

    Args:
        network: The network in torch.
        path: Its ONNX model.
        written: How it was written.
        images: Images, (N, C, H, W). The first 256 are used.

    Returns:
        The comparison.
    """
    onnx = library("onnx")
    model = onnx.load(path)
    received, levels, _ = activations_of(network, images[:_IMAGES])
    found = Integers()
    for layer, place, nodes in _layers(network, model, written, found):
        mine = _codes(levels[place], nodes.scale)
        theirs, sums = _run(onnx, model, nodes, received[place])
        if not np.array_equal(mine + nodes.zero, theirs):
            found.wrong = f"codes of the activation at '{place}' differ"
        found.codes += mine.size
        packed = integers_of(network.weights[f"{layer}.weight"])
        assert packed is not None  # noqa: S101
        expected = _sums(network.model.get_submodule(layer), mine, packed[0])
        if not np.array_equal(expected, sums):
            found.wrong = found.wrong or f"sums of products of '{layer}' differ"
        found.sums[layer] = expected.size
        if found.wrong:
            break
    return found


@dataclass(frozen=True)
class _Integer:
    """The nodes of a layer with integers on both sides.

    Attributes:
        node: The convolution or linear layer.
        quantize: The node that makes the codes of its input.
        source: Name of what the quantizer receives.
        scale: Scale of the codes.
        zero: Their zero point.
        weight: Integers of the weight, in the shape of the node, without its zero point.
    """

    node: Any
    quantize: Any
    source: str
    scale: np.float32
    zero: int
    weight: np.ndarray


def _layers(
    network: HardNetwork, model: Any, written: Written, found: Integers
) -> Iterator[tuple[str, str, _Integer]]:
    """Yield layers with the places of their quantizers. Others are noted as left out."""
    onnx = library("onnx")
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    places = {output: (place, source) for (place, output), source in written.inputs.items()}
    parameters = {name for name, _ in network.model.named_parameters(remove_duplicate=False)}
    for node in model.graph.node:
        if node.op_type not in _LAYERS:
            continue
        name = node.input[1].removesuffix(".values")
        if name not in parameters:
            continue  # a filter that belongs to no layer
        layer = name.rpartition(".")[0]
        weight, x = made.get(node.input[1]), made.get(node.input[0])
        if name not in written.weights or node.input[0] not in places:
            found.left_out[layer] = "its weight or its input is of full precision"
            continue
        place, source = places[node.input[0]]
        if place in (p for p, output in written.inputs if output != f"{p}.levels"):
            found.left_out[layer] = "its quantizer is called more than once"
        elif weight is None or weight.op_type != "DequantizeLinear":
            found.left_out[layer] = "the values of its weight are looked up"
        elif x is None or x.op_type != "DequantizeLinear":
            found.left_out[layer] = f"its input is written as {written.activations[place]}"
        elif any(each.name == "block_size" for each in weight.attribute):
            found.left_out[layer] = "its weight has a scale for each group"
        else:
            codes = constants[weight.input[0]].astype(np.int64)
            zero = constants[weight.input[2]].astype(np.int64) if len(weight.input) > 2 else 0
            zero = np.reshape(zero, (-1, *[1] * (codes.ndim - 1))) if np.ndim(zero) else zero
            quantize = made[x.input[0]]
            yield (
                layer,
                place,
                _Integer(
                    node,
                    quantize,
                    source,
                    constants[x.input[1]],
                    int(constants[x.input[2]]),
                    codes - zero,
                ),
            )


def _codes(levels: Tensor, scale: np.float32) -> np.ndarray:
    """Return the integers that levels are times a scale."""
    return np.round(levels.double().numpy() / float(scale)).astype(np.int64)


def _sums(module: nn.Module, codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return a layer's sums of products of integers, computed by torch."""
    layer: Any = copy.deepcopy(module).double()
    if getattr(layer, "bias", None) is not None:
        layer.bias = None
    layer._parameters["weight"] = nn.Parameter(torch.from_numpy(weight).double())
    return type(layer).forward(layer, torch.from_numpy(codes).double()).numpy().astype(np.int64)


def _run(onnx: Any, model: Any, layer: _Integer, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes and the sums of a layer, computed by onnxruntime."""
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {each.name: each for each in model.graph.initializer}
    wanted = [layer.quantize.output[0]]
    nodes: list[Any] = []
    used: list[Any] = []
    while wanted:
        name = wanted.pop()
        if name in constants:
            used.append(constants[name])
        elif name != layer.source:
            nodes.insert(0, made[name])
            wanted += list(made[name].input)
    codes = layer.quantize.output[0]
    low, high = int(layer.weight.min()), int(layer.weight.max())
    kind, zero = (np.int8, 0) if low >= -128 and high <= 127 else (np.uint8, -low)
    weight = (layer.weight + zero).astype(kind)
    make = onnx.helper.make_node
    if layer.node.op_type == "Gemm":
        last = make("MatMulInteger", [codes, "w", "x_zero", "w_zero"], ["sums"])
        weight = np.ascontiguousarray(weight.T)
    else:
        last = make("ConvInteger", [codes, "w", "x_zero", "w_zero"], ["sums"])
        last.attribute.extend(layer.node.attribute)
    of_x, integers = constants[layer.quantize.input[2]], onnx.numpy_helper
    x_zero = integers.from_array(integers.to_array(of_x), "x_zero")
    graph = onnx.helper.make_graph(
        [*nodes, last],
        "integers",
        [onnx.helper.make_tensor_value_info(layer.source, onnx.TensorProto.FLOAT, None)],
        [
            onnx.helper.make_tensor_value_info(codes, of_x.data_type, None),
            onnx.helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, None),
        ],
        [
            *{each.name: each for each in used}.values(),
            integers.from_array(weight, "w"),
            x_zero,
            integers.from_array(np.array(zero, kind), "w_zero"),
        ],
    )
    part = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    session = open_session(part.SerializeToString(), "none")
    got, sums = session.run(None, {layer.source: x.numpy()})
    return got.astype(np.int64), sums.astype(np.int64)

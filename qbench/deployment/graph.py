"""Write a hardened network as an ONNX model.

The network is exported without optimizations, which would fold batch normalization into weights so
that these are no longer k-bit. Activation quantizers leave a mark in the exported graph, which the
nodes of their emitter replace; weights are replaced by their codes and what makes them values.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench.deployment.dialect import Dialect
from qbench.deployment.extra import library
from qbench.deployment.folding import fold
from qbench.deployment.network import Activation, HardNetwork
from qbench.deployment.nodes import IR_VERSION, Nodes, run_alone
from qbench.deployment.steps import NoStepFunctionError
from qbench.errors import QbenchError
from qbench.files import write_atomic

_EXPORTED = 23  # torch writes this opset; nodes of the later one are added afterwards
_DOMAIN, _MARK = "qbench", "Steps"
_MULTIPLYING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_MOVING = (  # nodes that move values and change none of them
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Slice"),
    *("Split", "Concat", "Pad", "Expand", "Gather"),
)
INPUT, OUTPUT = "images", "logits"


@dataclass
class Written:
    """Record of writing a network to ONNX.

    Attributes:
        weights: Type of the codes of each weight, and what makes them values, by its name.
        activations: Name of the emitter of each activation quantizer, by its place.
        inputs: Name of the value that each activation quantizer receives, by its place and the
            name of the value that it returns. A place that is passed twice has two.
        outputs: Name of the values of each weight, by its name.
        folded: Factors of the output channels, (channels,), of the weights that batch
            normalization is folded into, by name.
        kept: Names of the weights whose batch normalization could not be folded.
        size: Size of the file in bytes.
        full: The network in full precision as an ONNX model: without quantizers, with float
            weights.
    """

    weights: dict[str, str] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, str], str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    folded: dict[str, Tensor] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    size: int = 0
    full: bytes = field(default=b"", repr=False)


def write_onnx(
    network: HardNetwork,
    path: Path,
    images: Tensor,
    dialect: Dialect,
    fold_batch_norm: bool = False,
) -> Written:
    """Write a network to an ONNX model.

    Args:
        network: The network.
        path: The file. Its folder must exist.
        images: Batch of inputs, (N, …), at least two. The batch of the model is of any size.
        dialect: The operators to write it with.
        fold_batch_norm: Whether to fold batch normalization into scales and biases.

    Returns:
        How its parts were written.

    Raises:
        QbenchError: A part cannot be expressed, or torch cannot export the network.
    """
    for each in network.activations:
        if each.steps is None:
            raise QbenchError(f"the activation quantizer at '{each.name}': {each.reason}")
    ir = library("onnx_ir")
    written = Written()
    with _marked(network.activations):
        model = _exported(network.model, images)
    graph = model.graph
    _drop_zero_biases(graph, network.model)
    remove_unused = library("onnx_ir.passes.common").RemoveUnusedNodesPass()
    remove_unused(model)
    written.full = _without_marks(ir.to_proto(model))
    for name in network.weights:
        _write_weight(graph, name, network, written, dialect)
    for node in list(graph):
        if node.domain == _DOMAIN:
            _write_activation(graph, node, network, written, dialect)
    _keep_inputs(graph, network, written)
    if fold_batch_norm:
        written.folded, written.kept = fold(graph, network)
        remove_unused(model)
    _strip(model)
    model.opset_imports.clear()
    model.opset_imports.update(dialect.opsets)
    model.ir_version = IR_VERSION
    with write_atomic(path) as scratch:
        ir.save(model, scratch)
    written.size = path.stat().st_size
    return written


class _Mark(nn.Module):
    """Stands for an activation quantizer in an exported graph.

    Args:
        name: Name of its place.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Mark ``x``."""
        marked: Tensor = torch.onnx.ops.symbolic(
            f"{_DOMAIN}::{_MARK}",
            [x],
            attrs={"place": self.name},
            dtype=x.dtype,
            shape=x.shape,
            version=1,
        )
        return marked


@contextmanager
def _marked(activations: tuple[Activation, ...]) -> Iterator[None]:
    """Context manager in which marks stand for activation quantizers."""
    before = [(m, name, getattr(m, name)) for each in activations for m, name in each.seats]
    for each in activations:
        for module, name in each.seats:
            setattr(module, name, _Mark(each.name))
    try:
        yield
    finally:
        for module, name, quantizer in before:
            setattr(module, name, quantizer)


def _exported(model: nn.Module, images: Tensor) -> Any:
    library("onnxscript")
    dimensions: Any = {0: torch.export.Dim("batch", min=1)}
    kinds = [each.kind for each in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # quantizers sit at its own additions
        dimensions = (dimensions,)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (images[:2].contiguous(),),
                dynamo=True,
                opset_version=_EXPORTED,
                optimize=False,
                verbose=False,
                dynamic_shapes=(dimensions,),
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
    except Exception as error:  # of any kind: it traces the model's own code
        first = str(error.__cause__ or error).strip().splitlines()[0]
        raise QbenchError(f"torch cannot export the network: {first}") from error
    assert program is not None  # noqa: S101
    return program.model


def _without_marks(proto: Any) -> bytes:
    """Return an exported model without activation quantizers."""
    marks = [node for node in proto.graph.node if node.domain == _DOMAIN]
    source = {node.output[0]: node.input[0] for node in marks}
    for node in marks:
        proto.graph.node.remove(node)
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            while name in source:
                name = source[name]
            node.input[index] = name
    for domain in [each for each in proto.opset_import if each.domain == _DOMAIN]:
        proto.opset_import.remove(domain)
    serialized: bytes = proto.SerializeToString()
    return serialized


def _write_activation(
    graph: Any, node: Any, network: HardNetwork, written: Written, dialect: Dialect
) -> None:
    place = node.attributes["place"].value
    steps = next(each.steps for each in network.activations if each.name == place)
    assert steps is not None  # noqa: S101
    x, y = node.inputs[0], node.outputs[0]
    try:
        emitter = dialect.emitter_of(steps, len(x.shape))
    except NoStepFunctionError as error:
        raise QbenchError(f"the activation quantizer at '{place}': {error}") from error
    calls = sum(name == place for name, _ in written.inputs)
    again = f".{calls}" if calls else ""  # a module called twice
    nodes = Nodes(f"{place}{again}.")
    out = emitter.build(nodes, x)
    if out.producer().op_type == "DequantizeLinear" and _meets_float_weight(y, written):
        # Otherwise onnxruntime quantizes the weight to 8 bits.
        out = _between_ends(nodes, out, steps.levels)
    out.name = f"{place}{again}.levels"
    written.inputs[place, out.name] = x.name
    _put(graph, nodes, out, y, node)
    graph.remove(node, safe=True)
    written.activations[place] = emitter.name


def _meets_float_weight(levels: Any, written: Written) -> bool:
    """Return whether levels are multiplied by a weight that no DequantizeLinear gives."""
    values, seen = [levels], set()
    while values:
        value = values.pop()
        for node, index in value.uses():
            if node.op_type in _MULTIPLYING and index == 0:
                weight = node.inputs[1]
                while (made := weight.producer()) is not None and made.op_type == "Transpose":
                    weight = made.inputs[0]
                made = weight.producer()
                if weight.is_initializer() or (
                    weight.name in written.outputs.values() and made.op_type != "DequantizeLinear"
                ):
                    return True
            elif node.op_type in _MOVING and node not in seen:
                seen.add(node)
                values += node.outputs
    return False


def _put(graph: Any, nodes: Nodes, out: Any, old: Any, before: Any) -> None:
    """Insert nodes, and let all others that read a value read their output."""
    out.type, out.shape = old.type, old.shape
    for constant in nodes.constants:
        graph.register_initializer(constant)
    graph.insert_before(before, nodes.nodes)
    for user, index in list(old.uses()):
        if user not in nodes.nodes:
            user.replace_input_with(index, out)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = out


def _write_weight(
    graph: Any, name: str, network: HardNetwork, written: Written, dialect: Dialect
) -> None:
    packed = network.weights[name]
    owners = {id(m._parameters.get("weight")): m for m in network.model.modules()}
    parameter = network.model.get_parameter(name)
    module = owners[id(parameter)]
    names = [n for n, p in network.model.named_parameters(remove_duplicate=False) if p is parameter]
    found = next((each for each in names if each in graph.initializers), None)
    if found is None:
        raise QbenchError(f"the weight '{name}' is not in the graph that torch exports")
    try:
        build, how = dialect.weight_nodes(packed, module)
    except QbenchError as error:
        raise QbenchError(f"the weight '{name}': {error}") from error
    values = run_alone(lambda nodes, _: build(nodes), None, dialect.run)
    if not np.array_equal(values, parameter.detach().numpy()):
        raise QbenchError(f"other values of the weight '{name}' are read from its codes")
    nodes = Nodes(f"{name}.")
    out = build(nodes)
    out.name = f"{name}.values"
    value = graph.initializers[found]
    _put(graph, nodes, out, value, value.uses()[0][0] if value.uses() else graph[0])
    graph.initializers.pop(found)
    written.weights[name], written.outputs[name] = how, out.name


def _keep_inputs(graph: Any, network: HardNetwork, written: Written) -> None:
    """Put a Clip behind each weight that MatMul multiplies by floats.

    onnxruntime makes MatMulNBits of DequantizeLinear and MatMul, which by default quantizes the
    other factor to 8 bits.
    """
    values = {value.name: value for node in graph for value in node.outputs}
    for name, output in written.outputs.items():
        value = values[output]
        if value.producer().op_type == "DequantizeLinear" and _meets_floats(value):
            first, nodes = value.uses()[0][0], Nodes(f"{name}.")
            out = _between_ends(nodes, value, network.model.get_parameter(name).detach())
            _put(graph, nodes, out, value, first)


def _between_ends(nodes: Nodes, x: Any, levels: Tensor) -> Any:
    """Add a Clip that changes no level."""
    ends = (("least", levels.min()), ("most", levels.max()))
    return nodes.add("Clip", x, *(nodes.constant(name, end.numpy()) for name, end in ends))


def _meets_floats(weight: Any) -> bool:
    """Return whether MatMul multiplies a weight by values that no DequantizeLinear gives."""
    values = [weight]
    while values:
        value = values.pop()
        for node, index in value.uses():
            if node.op_type == "Transpose":
                values += node.outputs
            elif node.op_type == "MatMul" and index == 1:
                factor = node.inputs[0]
                while (made := factor.producer()) is not None and made.op_type in _MOVING:
                    factor = made.inputs[0]
                if made is None or made.op_type != "DequantizeLinear":
                    return True
    return False


def _drop_zero_biases(graph: Any, model: nn.Module) -> None:
    """Let convolutions have no bias where torch exports a chain of nodes that computes zeros."""
    for node in graph:
        if node.op_type == "Conv" and len(node.inputs) == 3:
            owner = node.inputs[1].name.rpartition(".")[0]
            if getattr(model.get_submodule(owner), "bias", None) is None:
                node.resize_inputs(2)


def _strip(model: Any) -> None:
    """Remove notes of the exporter, which are most of a small file."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()

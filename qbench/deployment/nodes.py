"""Build parts of an ONNX graph, and run them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qbench.deployment.extra import library
from qbench.errors import QbenchError

OPSET = 25  # the first with 2-bit integers
IR_VERSION = 13
Run = Callable[[bytes, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Runs a model on inputs by name, and returns its outputs by name."""


class Nodes:
    """Nodes and constants with names of one prefix.

    Args:
        prefix: Start of the names of all values.
    """

    def __init__(self, prefix: str) -> None:
        self._ir, self._prefix = library("onnx_ir"), prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any, kind: str = "") -> Any:
        """Add a constant.

        Args:
            name: Name after the prefix.
            value: The value, anything that numpy takes.
            kind: Name of its type in ONNX, such as ``INT4``. Default: that of the array.

        Raises:
            OverflowError: An integer does not fit the type.
        """
        array = np.array(value)
        if kind:
            stored = array.astype(self._ir.DataType[kind].numpy())
            if not (stored.astype(array.dtype) == array).all():  # ml_dtypes wraps silently
                raise OverflowError(f"{self._prefix}{name} does not fit {kind}")
            array = stored
        dtype = self._ir.DataType[kind] if kind else self._ir.DataType.from_numpy(array.dtype)
        made = self._ir.Value(
            name=self._prefix + name,
            const_value=self._ir.Tensor(array, dtype=dtype, name=self._prefix + name),
            type=self._ir.TensorType(dtype),
            shape=self._ir.Shape(array.shape),
        )
        self.constants.append(made)
        return made

    def add(self, kind: str, *inputs: Any, domain: str = "", **attributes: Any) -> Any:
        """Add a node with one output, and return the output."""
        node = self._ir.node(kind, list(inputs), attributes=attributes or None, domain=domain)
        node.outputs[0].name = f"{self._prefix}{kind}.{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]


def run_in_onnxruntime(model: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model in onnxruntime without optimizations, and return its outputs by name."""
    session = open_session(model, "none")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def run_alone(
    build: Callable[[Nodes, Any], Any], x: np.ndarray | None, run: Run = run_in_onnxruntime
) -> np.ndarray:
    """Run a part of a graph.

    Args:
        build: Adds the part to nodes, from its input to its output. The input is None if there is
            none.
        x: The input, float32; None if there is none.
        run: Runs a model. Default: onnxruntime, without optimizations.

    Returns:
        The output.
    """
    ir = library("onnx_ir")
    nodes = Nodes("part.")
    value = None
    if x is not None:
        shape = ir.Shape(["n", *x.shape[1:]])
        value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
    output = build(nodes, value)
    output.type = ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [] if value is None else [value],
        [output],
        nodes=nodes.nodes,
        initializers=nodes.constants,
        opset_imports={"": OPSET, **{node.domain: 1 for node in nodes.nodes if node.domain}},
        name="part",
    )
    model = ir.Model(graph, ir_version=IR_VERSION)
    found = run(ir.to_proto(model).SerializeToString(), {} if x is None else {"x": x})
    return found[output.name]


OPTIMIZATIONS = {
    "none": ("ORT_DISABLE_ALL", ()),
    "all": ("ORT_ENABLE_ALL", ()),
    "all without WeightBiasQuantization": ("ORT_ENABLE_ALL", ("WeightBiasQuantization",)),
}
"""Ways to run a model: the level of optimizations, and optimizers that are switched off."""


def open_session(model: str | bytes, optimizations: str, threads: int = 1) -> Any:
    """Open a session of onnxruntime on the CPU.

    Args:
        model: Path of a file, or its content.
        optimizations: One of `OPTIMIZATIONS`.
        threads: Number of threads of an operator.

    Raises:
        QbenchError: onnxruntime cannot load the model.
    """
    runtime = library("onnxruntime")
    level, disabled = OPTIMIZATIONS[optimizations]
    options = runtime.SessionOptions()
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(disabled),
        )
    except Exception as error:  # those of onnxruntime have no common class
        raise QbenchError(
            f"onnxruntime cannot load the model (optimizations: {optimizations}): "
            f"{' '.join(str(error).split())}"
        ) from error


def channels_of(axis: int | None, rank: int) -> tuple[int, ...]:
    """Return the shape, but for its −1, of a constant for each channel of a tensor.

    Args:
        axis: Dimension of the channels: 1 or −1. None for one constant.
        rank: Number of dimensions of the tensor.
    """
    if axis is None:
        return ()
    return (-1,) if axis == -1 or rank == 2 else (-1, *[1] * (rank - 2))

"""Check each part of an ONNX file on its own: the values of weights, and the step functions.

A wrong scale, zero point, axis or rounding may change no prediction on the images at hand. So the
nodes of each activation quantizer are cut out of the file and run at the probes of its step
function, and the nodes of each weight are run and compared with the hardened weight.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qbench.deployment.extra import library
from qbench.deployment.graph import Written
from qbench.deployment.network import HardNetwork
from qbench.deployment.nodes import Run

_ROUNDING = 2.0**-22  # of code × (scale × factor), relative


def wrong_part(network: HardNetwork, path: Path, written: Written, run: Run) -> str:
    """Return which part of a model computes something else than its network, or ''.

    Args:
        network: The network in torch.
        path: Its ONNX model.
        written: How it was written.
        run: Runs a model.
    """
    model = library("onnx").load(path)
    for name in written.weights:
        weight = network.model.get_parameter(name).detach().numpy()
        output = written.outputs[name]
        part = cut(model, None, output)
        got = None if part is None else run(part, {})[output]
        if got is None or not _is_weight(got, weight, written.folded.get(name)):
            return f"the values of '{name}' in the file are not the hardened weight"
    places = {each.name: each for each in network.activations}
    for (place, output), source in written.inputs.items():
        each = places[place]
        assert each.steps is not None  # noqa: S101
        x, levels = each.steps.probed(len(each.shape) + 1)
        part = cut(model, source, output)
        if part is None:
            return f"the quantizer at '{place}' in the file reads other values than its input"
        got = run(part, {source: x.numpy()})[output]
        if not np.array_equal(got, levels.numpy()):
            at = tuple(int(i) for i in np.argwhere(got != levels.numpy())[0])
            return (
                f"the quantizer at '{place}' in the file gives {got[at]:.9g} at {float(x[at]):.9g},"
                f" and the hardened one {float(levels[at]):.9g}"
            )
    return ""


def _is_weight(got: np.ndarray, weight: np.ndarray, factors: Tensor | None) -> bool:
    """Return whether values are a weight, times the factors of its channels up to rounding."""
    if factors is None:
        return np.array_equal(got, weight)
    expected = weight.astype(np.float64) * factors.numpy().reshape(-1, *[1] * (weight.ndim - 1))
    return np.allclose(got, expected, rtol=_ROUNDING, atol=0)


def cut(model: Any, source: str | None, target: str) -> bytes | None:
    """Cut the nodes between two values out of a model.

    Args:
        model: The model, as protobuf.
        source: Name of the value that the nodes read; None if they read constants only.
        target: Name of the value that they compute.

    Returns:
        A model with one input, if a source is given, and one output, or None if the nodes read
        other values too.
    """
    onnx = library("onnx")
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {each.name: each for each in model.graph.initializer}
    wanted, nodes, initializers = [target], {}, {}
    while wanted:
        name = wanted.pop()
        if name in constants:
            initializers[name] = constants[name]
        elif name in made and name != source:
            nodes[name] = made[name]
            wanted += [each for each in made[name].input if each not in nodes]
        elif name and name != source:
            return None
    order = [node for node in model.graph.node if any(nodes.get(n) is node for n in node.output)]
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        order,
        "part",
        [] if source is None else [onnx.helper.make_tensor_value_info(source, kind, None)],
        [onnx.helper.make_tensor_value_info(target, kind, None)],
        list(initializers.values()),
    )
    part = onnx.helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    serialized: bytes = part.SerializeToString()
    return serialized


__all__ = ["cut", "wrong_part"]

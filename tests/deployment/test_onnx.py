"""ONNX models: the same network in onnxruntime, and faults that are planted are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qbench
from qbench.deployment.emitters import emitter_of
from qbench.deployment.graph import Written, write_onnx
from qbench.deployment.network import HardNetwork, describe
from qbench.deployment.nodes import Nodes
from qbench.deployment.proof import prove
from qbench.deployment.steps import step_table
from qbench.errors import QbenchError
from tests.helpers.hardened import images, trained

ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")
X = images(48)


class Function(nn.Module):
    """Any function as a quantizer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def rounded(x: Tensor) -> Tensor:
    return (x / 0.3).round().clamp(0, 3) * 0.3


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (rounded, "QDQ"),
        (lambda x: (x / 0.01).round().clamp(-100, 120) * 0.01, "QDQ"),
        (lambda x: (x.clamp(0, 1) * 31).round() / 31, "QDQ between Mul and Div"),
        (lambda x: ((x + 0.7) / 0.3).round().clamp(0, 7) * 0.3 - 0.7, "QDQ between Sub and Add"),
        (lambda x: (x / 0.3 + 0.5).floor().clamp(0, 3) * 0.3, "comparisons"),
        (lambda x: (x / 0.3 + 0.5).floor().clamp(0, 15) * 0.3, "counts"),
        (lambda x: (x / 0.3 + 0.5).floor().clamp(0, 200) * 0.3, "search"),
        (lambda x: torch.where(x >= torch.tensor([[0.1], [0.2]]), 1.0, -1.0), "comparisons"),
    ],
)  # fmt: skip
def test_the_first_emitter_that_is_exact_is_chosen(
    function: Callable[[Tensor], Tensor], name: str
) -> None:
    """Rounding half up is not QuantizeLinear, which rounds half to even: the ties tell."""
    table = step_table(Function(function), (2, 3))
    assert emitter_of(table, 3).name == name


@pytest.fixture(scope="module")
def network() -> HardNetwork:
    return describe(trained("ste", "4/4"), X)


@pytest.fixture
def deployed(network: HardNetwork, tmp_path: Path) -> tuple[Path, Written, Tensor]:
    path = tmp_path / "net.onnx"
    written = write_onnx(network, path, X)
    with torch.no_grad():
        return path, written, network.model(X)


def test_a_model_is_the_network_that_was_hardened(
    network: HardNetwork, deployed: tuple[Path, Written, Tensor]
) -> None:
    path, written, expected = deployed
    proof = prove(network, path, written, X, expected)
    assert proof.reason == ""
    assert set(written.weights.values()) == {"INT4 × scale"}
    assert set(written.activations.values()) == {"QDQ"}
    model = ir.load(path)
    assert model.opset_imports == {"": 25}
    assert not any(node.metadata_props for node in model.graph)


@pytest.mark.parametrize(("method", "bits"), [("lq_nets", "2/2"), ("react_net", "1/1")])
def test_levels_that_are_not_even_are_looked_up(method: str, bits: str, tmp_path: Path) -> None:
    handle = trained(method, bits)
    qbench.deploy(handle, tmp_path / "net.onnx", X, to="onnx")
    network = describe(handle, X)
    written = write_onnx(network, tmp_path / "net.onnx", X)
    with torch.no_grad():
        assert prove(network, tmp_path / "net.onnx", written, X, handle.model(X)).reason == ""


def zero_point(model: Any) -> None:
    nodes = Nodes("fault.")
    zero = nodes.constant("zero", np.uint8(1))
    model.graph.register_initializer(zero)
    node = next(n for n in model.graph if n.outputs[0].name == "3.levels")
    node.replace_input_with(2, zero)


def next_channel(model: Any) -> None:
    change(model, "3.weight.scale", lambda scale: np.roll(scale, 1))


def other_axis(model: Any) -> None:
    node = next(n for n in model.graph if n.outputs[0].name == "8.weight.values")
    scale = model.graph.initializers["8.weight.scale"]
    long = np.resize(scale.const_value.numpy(), 16)
    change(model, "8.weight.scale", lambda _: long)
    node.attributes["axis"] = ir.AttrInt64("axis", 1)


def rounding(model: Any) -> None:
    """Round down, as a runtime that truncates does: half a step lower."""
    node = next(
        n for n in model.graph if n.op_type == "QuantizeLinear" and "3." in n.outputs[0].name
    )
    half = model.graph.initializers["3.scale"].const_value.numpy() / 2
    nodes = Nodes("fault.")
    lower = nodes.add("Sub", node.inputs[0], nodes.constant("half", half))
    model.graph.register_initializer(nodes.constants[0])
    model.graph.insert_before(node, nodes.nodes)
    node.replace_input_with(0, lower)


def change(model: Any, name: str, function: Callable[[Any], Any]) -> None:
    value = model.graph.initializers[name]
    new = function(value.const_value.numpy()).astype(value.const_value.numpy().dtype)
    value.const_value = ir.Tensor(new, dtype=value.dtype, name=name)
    value.shape = ir.Shape(new.shape)


@pytest.mark.parametrize("fault", [zero_point, next_channel, other_axis, rounding])
def test_a_planted_fault_is_red(
    fault: Callable[[Any], None],
    network: HardNetwork,
    deployed: tuple[Path, Written, Tensor],
) -> None:
    path, written, expected = deployed
    model = ir.load(path)
    fault(model)
    ir.save(model, path)
    assert prove(network, path, written, X, expected).reason


def test_what_is_no_step_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match="at '0': the level of a value depends on other values"):
        qbench.deploy(trained("tbn", "1/2"), tmp_path / "net.onnx", X, to="onnx")

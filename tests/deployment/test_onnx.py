"""ONNX models: the same network in onnxruntime, and faults that are planted are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qbench
from qbench.deployment.emitters import emitter_of
from qbench.deployment.exact import compare_integers
from qbench.deployment.graph import Written, write_onnx
from qbench.deployment.network import HardNetwork, describe
from qbench.deployment.nodes import Nodes, open_session, run_in_onnxruntime
from qbench.deployment.parts import wrong_part
from qbench.deployment.proof import activations_of, exact_values, prove
from qbench.deployment.standard import ONNX
from qbench.deployment.steps import step_table
from qbench.errors import QbenchError
from qbench.method import Binary, Layer, Method
from qbench.models.vit import VisionTransformerTiny
from qbench.quant.options import build_method
from tests.helpers.hardened import images, trained

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")
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
        (lambda x: (x / 0.3).round().clamp(-8, 7) * 0.3, "QDQ"),
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


@pytest.fixture(scope="module")
def deployed(
    network: HardNetwork, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Written, Tensor]:
    path = tmp_path_factory.mktemp("deployed") / "net.onnx"
    written = write_onnx(network, path, X, ONNX)
    with torch.no_grad():
        return path, written, network.model(X)


def test_a_model_is_the_network_that_was_hardened(
    network: HardNetwork, deployed: tuple[Path, Written, Tensor]
) -> None:
    path, written, expected = deployed
    proof = prove(network, path, written, X, expected, ONNX)
    assert proof.reason == ""
    assert set(written.weights.values()) == {"INT4 × scale"}
    assert set(written.activations.values()) == {"QDQ"}
    model = ir.load(path)
    assert model.opset_imports == {"": 25}
    assert not any(node.metadata_props for node in model.graph)
    added = {"Clip", "QuantizeLinear", "DequantizeLinear"}
    full = ir.from_proto(onnx.load_from_string(written.full)).graph
    kinds = [node.op_type for node in full]  # nothing else may differ, or latencies do not compare
    assert kinds == [node.op_type for node in model.graph if node.op_type not in added]


class Residual(nn.Module):
    """A block whose shortcut halves the image, with one ReLU that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 4, 1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.norm(self.depthwise(x)) + self.down(x))
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("method", "bits", "placement", "emitters"),
    [
        ("lsq", "4/4", "after_activation_and_add", {"QDQ"}),
        ("lq_nets", "2/3", "after_activation", {"comparisons"}),
        ("react_net", "1/1", None, {"comparisons"}),
        ("apot", "4/4", None, {"counts"}),
        ("tbn", "1/2", None, {"comparisons for each image"}),
        (build_method("xnor", {"scale_map": True}), "1/1", None, {"comparisons"}),
    ],
)
def test_residual_networks_and_levels_that_are_not_even_are_exported(
    method: Any, bits: str, placement: Any, emitters: set[str], tmp_path: Path
) -> None:
    handle = trained(method, bits, Residual(), placement=placement)
    network = describe(handle, X)
    written = write_onnx(network, tmp_path / "net.onnx", X, ONNX)
    assert set(written.activations.values()) == emitters
    with torch.no_grad():
        assert prove(network, tmp_path / "net.onnx", written, X, handle.model(X), ONNX).reason == ""


@pytest.mark.parametrize(
    ("bits", "weights", "options"),
    [
        ("2/2", "dorefa", {}),  # looked up
        ("32/4", "ste", {}),  # of floats
        ("4/4", "ste", {"granularity": "per_group(3)"}),
    ],
)
def test_onnxruntime_quantizes_no_weight_again(
    bits: str, weights: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """It does by default where Q/DQ of activations meets a weight that is not dequantized."""
    network = describe(trained(weights, bits, **options), X)
    written = write_onnx(network, tmp_path / "net.onnx", X, ONNX)
    assert set(written.activations.values()) == {"QDQ"}
    with torch.no_grad():
        expected = network.model(X)
    proof = prove(network, tmp_path / "net.onnx", written, X, expected, ONNX)
    assert proof.reason == ""
    for got in proof.logits.values():
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_signed_activations_may_be_transposed_before_a_layer_reads_them(tmp_path: Path) -> None:
    """Onnxruntime moves Q/DQ pairs, and cannot load int8 pairs that it has moved."""
    x = images(48, size=14)
    handle = trained("lsq", "4/4", VisionTransformerTiny(10, 1, width=8, depth=1, heads=2), x)
    network = describe(handle, x)
    written = write_onnx(network, tmp_path / "net.onnx", x, ONNX)
    assert set(written.activations.values()) == {"QDQ"}
    with torch.no_grad():
        proof = prove(network, tmp_path / "net.onnx", written, x, handle.model(x), ONNX)
    assert proof.reason == ""


class Across(nn.Module):
    """Attention of learned queries to the tokens of an image, some of which are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 16, 4, stride=2, padding=1)
        self.queries = nn.Parameter(torch.randn(1, 5, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.linear = nn.Linear(16, 10)
        self.register_buffer("mask", torch.full((5, 49), -1e9).triu(30))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(input=x).flatten(2).transpose(1, 2)
        queries = self.queries.expand(x.shape[0], -1, -1)
        x = self.attention(queries, x, x, need_weights=False, attn_mask=self.mask)[0]
        return self.linear(x.mean(1))


@pytest.mark.parametrize(
    "layers",
    ["all", ["*", "!block1.attention.*"], ["linear", "attention.*"]],
    ids=["all", "attention of floats", "queries of their own and a mask"],
)
def test_rounding_bounds_hold_and_are_narrow(layers: Any) -> None:
    x = images(48, size=14)
    torch.manual_seed(0)
    across = "linear" in layers
    model = Across() if across else VisionTransformerTiny(10, 1, width=32, depth=1, heads=2)
    network = describe(trained("lsq", "8/8", model, x, layers=layers), x)
    with torch.no_grad():
        inputs, levels, order = activations_of(network, x)
        found = exact_values(network, x, levels)
        for call in order:
            each = found[call]
            assert ((inputs[call].double() - each.exact).abs() <= each.bound).all()
            assert each.bound.max() < 3e-4 * each.exact.abs().max()


class Again(nn.Module):
    """A layer that is called a number of times, between layers of full precision.

    Args:
        calls: The number.
    """

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.again = nn.Conv2d(32, 32, 3, padding=1)
        self.then = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        for _ in range(self.calls):
            x = self.again(x).relu()
        x = self.then(x).relu()
        return self.last(x.mean((2, 3)))


def shifted(model: bytes, inputs: Any) -> Any:
    """Run a model on images that are larger by a few units, which moves some levels."""
    if "images" in inputs:
        inputs = {"images": inputs["images"] * np.float32(1 + 2**-20)}
    return run_in_onnxruntime(model, inputs)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_fault_behind_a_difference_by_rounding_is_red(calls: int, tmp_path: Path) -> None:
    x, path = images(96, size=12), tmp_path / "net.onnx"
    network = describe(trained("lsq", "8/8", Again(calls), x, layers=["again", "then"]), x)
    written = write_onnx(network, path, x, ONNX)
    moving = replace(ONNX, run=shifted)
    with torch.no_grad():
        expected = network.model(x)
    proof = prove(network, path, written, x, expected, moving)
    assert proof.reason == ""
    assert proof.first is not None
    assert proof.first.count > proof.first.unexplained == 0
    model = ir.load(path)
    change(model, "last.bias", lambda bias: bias + 0.01)  # which changes no prediction
    ir.save(model, path)
    reason = prove(network, path, written, x, expected, moving).reason
    assert "logits are not what rounding explains" in reason


@pytest.mark.parametrize(("method", "bits"), [("ste", "8/32"), ("lsq_plus", "8/8")])
def test_onnxruntime_quantizes_no_factor_of_a_weight(
    method: str, bits: str, tmp_path: Path
) -> None:
    """It does by default where MatMul reads a dequantized weight and floats (MatMulNBits)."""
    x = images(48, size=14)
    handle = trained(method, bits, VisionTransformerTiny(10, 1, width=32, depth=1, heads=2), x)
    network = describe(handle, x)
    written = write_onnx(network, tmp_path / "net.onnx", x, ONNX)
    with torch.no_grad():
        expected = network.model(x)
    logits = prove(network, tmp_path / "net.onnx", written, x, expected, ONNX).logits
    plain, *optimized = logits.values()
    for got in optimized:
        torch.testing.assert_close(got, plain, rtol=0, atol=1e-5)


def zero_point(model: Any) -> None:
    nodes = Nodes("fault.")
    zero = nodes.constant("zero", np.uint8(1))
    model.graph.register_initializer(zero)
    next(n for n in model.graph if n.outputs[0].name == "3.levels").replace_input_with(2, zero)


def weight_zero_point(model: Any) -> None:
    change(model, "8.weight.codes", lambda codes: np.clip(codes.astype(int) + 1, -8, 7))


def next_scale(model: Any) -> None:
    change(model, "3.weight.scale", lambda scale: np.nextafter(scale, np.float32(9)))


def next_step(model: Any) -> None:
    change(model, "3.scale", lambda scale: np.nextafter(scale, np.float32(9)))


def next_channel(model: Any) -> None:
    change(model, "3.weight.scale", lambda scale: np.roll(scale, 1))


def other_axis(model: Any) -> None:
    node = next(n for n in model.graph if n.outputs[0].name == "8.weight.values")
    scale = model.graph.initializers["8.weight.scale"]
    long = np.resize(scale.const_value.numpy(), 16)
    change(model, "8.weight.scale", lambda _: long)
    node.attributes["axis"] = ir.AttrInt64("axis", 1)


def half_up(model: Any) -> None:
    """Round half up instead of to even, which only ties tell apart."""
    node = next(n for n in model.graph if n.outputs[0].name == "3.levels").inputs[0].producer()
    nodes = Nodes("fault.")
    scale = model.graph.initializers["3.scale"]
    steps = nodes.add("Div", node.inputs[0], scale)
    half = nodes.add("Add", steps, nodes.constant("half", np.float32(0.5)))
    codes = nodes.add("Mul", nodes.add("Floor", half), scale)
    model.graph.register_initializer(nodes.constants[0])
    model.graph.insert_before(node, nodes.nodes)
    node.replace_input_with(0, codes)


def change(model: Any, name: str, function: Callable[[Any], Any]) -> None:
    value = model.graph.initializers[name]
    new = function(value.const_value.numpy()).astype(value.const_value.numpy().dtype)
    value.const_value = ir.Tensor(new, dtype=value.dtype, name=name)
    value.shape = ir.Shape(new.shape)


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        (zero_point, "quantizer at '3'"), (next_step, "quantizer at '3'"),
        (half_up, "quantizer at '3'"), (weight_zero_point, "'8.weight'"),
        (next_scale, "'3.weight'"), (next_channel, "'3.weight'"), (other_axis, "'8.weight'"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_red_whatever_the_images_are(
    fault: Callable[[Any], None],
    part: str,
    network: HardNetwork,
    deployed: tuple[Path, Written, Tensor],
    tmp_path: Path,
) -> None:
    path, written, expected = deployed
    model = ir.load(path)
    fault(model)
    faulty = tmp_path / "faulty.onnx"
    ir.save(model, faulty)
    assert part in prove(network, faulty, written, X[:4], expected[:4], ONNX).reason


@pytest.mark.parametrize(("method", "kept"), [("jacob", []), ("apot", ["0.weight", "3.weight"])])
def test_batch_normalization_is_folded_where_a_scale_takes_it(
    method: str, kept: list[str], tmp_path: Path
) -> None:
    network = describe(trained(method, "4/32"), X)
    path = tmp_path / "net.onnx"
    written = write_onnx(network, path, X, ONNX, fold_batch_norm=True)
    assert written.kept == kept
    assert set(written.folded) == {"0.weight", "3.weight"} - set(kept)
    model = ir.load(path)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("BatchNormalization") == len(kept)
    with torch.no_grad():
        expected = network.model(X)
    assert prove(network, path, written, X, expected, ONNX).reason == ""
    if not kept:  # the integers are those of the packed weight
        codes = model.graph.initializers["3.weight.codes"].const_value.numpy()
        whole = write_onnx(network, path, X, ONNX)
        assert whole.weights == written.weights
        unfolded = ir.load(path).graph.initializers["3.weight.codes"].const_value.numpy()
        assert np.array_equal(codes, unfolded)
        change(model, "3.weight.scale", lambda scale: np.roll(scale, 1))
        ir.save(model, path)
        assert "'3.weight'" in prove(network, path, written, X[:4], expected[:4], ONNX).reason


def test_layers_are_the_same_on_integers(
    network: HardNetwork, deployed: tuple[Path, Written, Tensor], tmp_path: Path
) -> None:
    path, written, _ = deployed
    found = compare_integers(network, path, written, X)
    assert found.wrong == ""
    assert found.sums == {"0": 48 * 4 * 36, "3": 48 * 4 * 36, "8": 48 * 3}
    assert found.codes == 48 * (36 + 4 * 36 + 16)
    assert found.left_out == {}
    model = ir.load(path)
    change(model, "3.weight.codes", lambda codes: np.roll(codes.astype(int), 1))
    ir.save(model, tmp_path / "faulty.onnx")
    wrong = compare_integers(network, tmp_path / "faulty.onnx", written, X).wrong
    assert wrong == "sums of products of '3' differ"


def next_factor(model: Any) -> None:
    change(model, "3.factor.1", lambda factor: np.nextafter(factor, np.float32(9)))


def at_threshold(model: Any) -> None:
    node = next(n for n in model.graph if n.outputs[0].name == "3.levels").inputs[0].producer()
    node.op_type = "GreaterOrEqual"


@pytest.mark.parametrize("fault", [next_factor, at_threshold])
def test_a_planted_fault_of_steps_for_each_image_is_red(
    fault: Callable[[Any], None], tmp_path: Path
) -> None:
    network = describe(trained("tbn", "1/2"), X)
    path = tmp_path / "net.onnx"
    written = write_onnx(network, path, X, ONNX)
    assert wrong_part(network, path, written, run_in_onnxruntime) == ""
    model = ir.load(path)
    fault(model)
    ir.save(model, path)
    assert "quantizer at '3'" in wrong_part(network, path, written, run_in_onnxruntime)


class LargestOfImage(nn.Module):
    """Steps at half of the largest value of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > x.flatten(1).amax(1).view(-1, *[1] * (x.dim() - 1)) / 2).float()


class OwnMethod(Method):
    """A method of a plugin whose levels depend on the image."""

    activations = Binary(required=True)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        return LargestOfImage()


def test_what_is_no_step_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match="at '0': the level of a value depends on other values"):
        qbench.deploy(trained(OwnMethod(), "32/1"), tmp_path / "net.onnx", X, to="onnx")


def test_a_model_that_onnxruntime_cannot_load_is_refused_with_its_reason() -> None:
    told = r"onnxruntime cannot load the model \(optimizations: all\): \[ONNXRuntimeError\] .+"
    with pytest.raises(QbenchError, match=told):
        open_session(b"no model", "all")

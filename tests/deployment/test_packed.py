"""Packed files: what is written is read, to the bit, and nothing else is."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qbench
from qbench import registry
from qbench.data.digits import Digits
from qbench.deployment.network import Architecture, HardNetwork, describe
from qbench.deployment.packed import (
    Index,
    PackedSizes,
    load_packed,
    pack_codes,
    read_index,
    unpack_codes,
    write_packed,
    wrong_part,
)
from qbench.errors import QbenchError
from qbench.method import Integers, Layer, Method
from qbench.quant.options import build_method
from qbench.quant.preparation import preparation_of
from qbench.report.cost import cost, multiply_adds
from qbench.spec.bits import BitWidths
from qbench.train.building import ExecutionEnvironment
from qbench.train.trial import rebuild
from tests.helpers import training
from tests.helpers.hardened import convnet, images, trained
from tests.helpers.methods import FEW, NAMES
from tests.helpers.transformers import tiny_vit

WIDTHS = ("1/1", "2/2", "1/2", "3/32", "4/4", "8/8", "32/2")
CELLS = [
    (name, next(b for b in order if built.supports(BitWidths.parse(b), "classification") is None))
    for name in NAMES
    for built in [build_method(name, FEW.get(name, {}))]
    for order in (WIDTHS, WIDTHS[::-1])
    if any(built.supports(BitWidths.parse(b), "classification") is None for b in WIDTHS)
]


class Halves(nn.Module):
    """Rounds to halves, as a plugin that no other module knows may."""

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).round().clamp(-1, 1) / 2


class OwnMethod(Method):
    """A method of a plugin."""

    weights = Integers(bits=(2,), symmetric=True)
    activations = Integers(bits=(2,), symmetric=True)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        return Halves()

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        return Halves()


def test_codes_are_packed_with_the_lowest_bit_first() -> None:
    codes = torch.tensor([[5, 1], [7, 2]], dtype=torch.uint8)
    data = pack_codes(codes, 3)
    assert data == bytes([0b11_001_101, 0b0000_010_1])
    assert torch.equal(unpack_codes(data, 4, 3), codes.flatten())


@pytest.mark.parametrize(("name", "bits"), dict.fromkeys(CELLS))
def test_every_method_is_reloaded_to_the_bit_at_the_size_of_its_row(
    name: str, bits: str, tmp_path: Path
) -> None:
    check_reloaded(build_method(name, FEW.get(name, {})), bits, tmp_path / "net.safetensors")


def test_outputs_that_depend_on_the_input_are_reloaded_to_the_bit(tmp_path: Path) -> None:
    """K of XNOR-Net is a part of the network that the method prepares."""
    check_reloaded(build_method("xnor", {"scale_map": True}), "1/1", tmp_path / "net.safetensors")


def check_reloaded(method: Method, bits: str, file: Path) -> None:
    x = images(8, size=8)

    def build() -> nn.Module:
        torch.manual_seed(0)
        return registry.build_model("convnet_tiny", 10, 1)

    handle = trained(method, bits, build(), x)
    prepared = preparation_of(method, BitWidths.parse(bits), build)
    own = Architecture(model="convnet_tiny", num_classes=10, in_channels=1, prepared=prepared)
    network = describe(handle, x)
    sizes = write_packed(network, file, own)
    assert network.undeclared == []
    loaded = load_packed(file)
    for parameter, value in network.parameters.items():
        assert torch.equal(loaded.get_parameter(parameter), value)
    for parameter in network.weights:
        assert torch.equal(loaded.get_parameter(parameter), handle.model.get_parameter(parameter))
    with torch.no_grad():
        assert torch.equal(loaded(x), handle.model(x))
        assert torch.equal(loaded.train().eval()(3 * x), handle.model(3 * x))
    assert sizes.payload == table_size(handle.layers, network.model)
    assert sizes.file == file.stat().st_size


def table_size(layers: list[Layer], model: nn.Module) -> int:
    """Return the size that tables print, of a network whose quantizers are left out."""
    bare = nn.Module()
    attached = [name for name, m in model.named_modules() if hasattr(m, "_attached_by_qbench")]
    for name, parameter in model.named_parameters():
        if not any(name.startswith(f"{each}.") for each in attached):
            bare.register_parameter(name.replace(".", "-"), parameter)
    counted = multiply_adds(model, Digits())
    return cost(bare, layers, counted).weight_bits // 8


@pytest.mark.parametrize("placement", ["after_activation", "after_activation_and_add"])
def test_quantizers_between_layers_are_reloaded(placement: Any, tmp_path: Path) -> None:
    x = images(8, size=8)
    handle = trained(
        "lsq", "2/2", registry.build_model("resnet_tiny", 10, 1), x, placement=placement
    )
    qbench.deploy(
        handle, tmp_path / "net", x,
        architecture=Architecture(model="resnet_tiny", num_classes=10, in_channels=1),
    )  # fmt: skip
    with torch.no_grad():
        assert torch.equal(load_packed(tmp_path / "net")(x), handle.model(x))


def test_the_memory_format_is_kept(tmp_path: Path) -> None:
    """Convolutions round otherwise in another format."""
    model = convnet().to(memory_format=torch.channels_last)
    handle = trained("lsq", "4/4", model)
    qbench.deploy(handle, tmp_path / "net", images())
    loaded = load_packed(tmp_path / "net", convnet())
    for name, parameter in loaded.named_parameters():
        assert parameter.stride() == handle.model.get_parameter(name).stride()
    with torch.no_grad():
        assert torch.equal(loaded(images()), handle.model(images()))


def test_a_method_of_a_plugin_is_not_needed_to_load(tmp_path: Path) -> None:
    handle = trained(OwnMethod(), "2/2")
    sizes = qbench.deploy(handle, tmp_path / "net", images())
    assert isinstance(sizes, PackedSizes)
    assert sizes.payload == (36 + 36 + 48) // 4 + 3 * 4 + 4 * (8 + 8 + 4 + 3)
    loaded = load_packed(tmp_path / "net", convnet())
    with torch.no_grad():
        assert torch.equal(loaded(images()), handle.model(images()))
    assert "OwnMethod" not in (tmp_path / "net").read_bytes().decode("latin1")


def test_transposed_convolutions_attention_and_shared_weights_are_reloaded(tmp_path: Path) -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ConvTranspose2d(4, 6, 3, groups=2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 24, bias=False),
            nn.Linear(24, 24, bias=False),
            nn.Linear(24, 3),
        )
        model[5].weight = model[4].weight
        return model

    handle = trained("lsq_plus", "3/4", network())
    qbench.deploy(handle, tmp_path / "net", images())
    with torch.no_grad():
        assert torch.equal(
            load_packed(tmp_path / "net", network())(images()), handle.model(images())
        )


@pytest.mark.parametrize("name", ["lsq", "rep_q_vit"])
def test_a_transformer_is_reloaded(tmp_path: Path, name: str) -> None:
    x = images(4, channels=3, size=8)
    handle = trained(name, "4/4", tiny_vit(), x, layers="skip_first_last", steps=1)
    qbench.deploy(handle, tmp_path / "net", x)
    with torch.no_grad():
        assert torch.equal(load_packed(tmp_path / "net", tiny_vit())(x), handle.model(x))


def test_a_finished_trial_is_rebuilt_from_its_weights() -> None:
    what = training.trial("lsq", recipe=training.RECIPE.model_copy(update={"epochs": 1}))
    result, weights = training.train(what)
    assert weights is not None
    assert result.predictions is not None
    loop = rebuild(what, weights, ExecutionEnvironment())
    with torch.no_grad():
        found = torch.cat([loop.handle.model(x).argmax(1) for x, _ in loop.evaluation])
    assert found.tolist() == result.predictions.values


def other_zero_point(index: Index, blob: bytearray) -> None:
    at = index.weights[0].numbers + 4  # s, z
    blob[at : at + 4] = struct.pack("<f", struct.unpack("<f", blob[at : at + 4])[0] + 1)


def next_scale(index: Index, blob: bytearray) -> None:
    blob[index.weights[0].numbers] ^= 1  # the last bit


def other_axis(index: Index, blob: bytearray) -> None:
    index.weights[1].granularity = "per_channel(1)"


def half_up(index: Index, blob: bytearray) -> None:
    """Let the level of a tie be the upper one where rounding half to even takes the lower."""
    at = index.activations[0].thresholds
    ties = np.frombuffer(blob, np.float32, index.activations[0].steps, at)
    blob[at : at + 4] = np.nextafter(ties[0], np.float32(-np.inf)).tobytes()


def next_factor(index: Index, blob: bytearray) -> None:
    blob[index.activations[0].thresholds] ^= 1  # the last bit


def at_threshold(index: Index, blob: bytearray) -> None:
    index.activations[0].above = (False, False)


@pytest.mark.parametrize("fault", [next_factor, at_threshold])
def test_a_planted_fault_of_steps_for_each_image_is_named(fault: Any, tmp_path: Path) -> None:
    file = tmp_path / "net"
    network = describe(trained("tbn", "1/2"), images())
    write_packed(network, file)
    index, blob = read_index(file), bytearray(stored(file))
    fault(index, blob)
    rewrite(file, index.model_dump_json(), blob)
    assert wrong_part(network, file) == (
        "the steps at '0' in the file are not those of its quantizer"
    )


@pytest.mark.parametrize("fault", [other_zero_point, next_scale, other_axis, half_up])
def test_a_planted_fault_is_named(fault: Any, tmp_path: Path) -> None:
    file = tmp_path / "net"
    network = planted()
    write_packed(network, file)
    assert wrong_part(network, file) == ""
    index = read_index(file)
    blob = bytearray(stored(file))
    fault(index, blob)
    rewrite(file, index.model_dump_json(), blob)
    place = f"'{network.activations[0].name}'" if fault is half_up else ".weight'"
    assert place in wrong_part(network, file)


@cache
def planted() -> HardNetwork:
    """A network whose weights have zero points, and scales for each channel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(1))
    return describe(trained("jacob", "8/8", model, granularity="per_channel"), images())


def test_a_network_that_the_file_does_not_name_must_be_given(tmp_path: Path) -> None:
    file = tmp_path / "net"
    qbench.deploy(trained("twn", "2/32"), file, images())
    with pytest.raises(QbenchError, match="it does not say how to build its network"):
        load_packed(file)
    with pytest.raises(QbenchError, match=r"damaged, or of another network: .* no attribute `3`"):
        load_packed(file, nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(1, 1)))
    more = nn.Sequential(*convnet(), nn.Linear(3, 3))
    with pytest.raises(QbenchError, match=r"the file has no '9\.bias'"):
        load_packed(file, more)
    other = convnet()
    other[0] = nn.Conv2d(1, 4, 5, bias=False)
    with pytest.raises(QbenchError, match=r"'0\.weight' is \(4, 1, 3, 3\).* in the file"):
        load_packed(file, other)


def test_a_file_that_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "net"
    with pytest.raises(QbenchError, match="net: cannot be read"):
        load_packed(file, convnet())
    file.write_bytes(b"no network")
    with pytest.raises(QbenchError, match="net: it is no packed network, or damaged"):
        load_packed(file, convnet())
    qbench.deploy(trained("twn", "2/32"), file, images())
    index = read_index(file)
    index.weights[0].codes = 10**9
    rewrite(file, index.model_dump_json())
    with pytest.raises(QbenchError, match="byte 1000000009 of"):
        load_packed(file, convnet())
    rewrite(file, json.dumps({"version": 2}))
    with pytest.raises(QbenchError, match="version"):
        load_packed(file, convnet())


def stored(file: Path) -> bytes:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        blob: bytes = opened.get_tensor("blob").numpy().tobytes()
        return blob


def rewrite(file: Path, index: str, blob: bytearray | None = None) -> None:
    from safetensors.torch import save_file

    blob = bytearray(stored(file)) if blob is None else blob
    save_file({"blob": torch.frombuffer(blob, dtype=torch.uint8)}, str(file), {"qbench": index})


def test_importing_qbench_imports_neither_onnx_nor_safetensors() -> None:
    import subprocess
    import sys

    code = (
        "import sys, qbench; qbench.deploy; qbench.load_packed; "
        "print([m for m in ('onnx', 'onnxruntime', 'safetensors') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

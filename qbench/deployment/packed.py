"""Packed files: a hardened network in one safetensors file.

The file has one tensor, ``blob``, of bytes, and a JSON index in its metadata under ``qbench``. All
numbers are little-endian. The blob begins with the payload: the float32 parameters, the float32
numbers of levels, and the codes, code i of a weight at bits i·k to (i+1)·k − 1, the lowest bit of a
byte first. Buffers such as running statistics follow, then the tables of activation quantizers.

Nothing in a file is executed. The network is built from the name of its model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from qbench.deployment.extra import library
from qbench.deployment.function import StepFunction, Steps
from qbench.deployment.image_steps import ImageSteps
from qbench.deployment.network import Architecture, HardNetwork
from qbench.deployment.steps import StepTable
from qbench.deployment.weights import Form, PackedWeight
from qbench.errors import QbenchError
from qbench.files import write_atomic
from qbench.quant.attach import insert_input_quantizer, insert_output_module
from qbench.quant.exchange.modules import exchange, restore
from qbench.quant.exchange.transposed import TRANSPOSED, output_first
from qbench.quant.handle import Hardened
from qbench.quant.placement.insert import Insertion
from qbench.quant.placement.sites import Point, Site
from qbench.quant.state import ATTACHED
from qbench.spec.findings import plain
from qbench.spec.granularity import parse_granularity
from qbench.spec.result import PlainData

_KEY = "qbench"
_ALIGNED = 8  # bytes
_DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
    )
}


class TensorEntry(PlainData):
    """A tensor of the blob: its name, shape and type, and where it begins, in bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    offset: int


class WeightEntry(PlainData):
    """A packed weight.

    Attributes:
        name: Name of the parameter.
        shape: Its shape, output channels first.
        bits: Bits of a code.
        granularity: Groups of weights with levels of their own.
        form: How levels follow from numbers, see `qbench.deployment.weights`.
        grid: Which of the index' ``grids`` has the codes g of the form.
        groups: Number of groups.
        count: Number of numbers of a group.
        numbers: Where the numbers begin, (groups, count), float32.
        codes: Where the codes begin.
    """

    name: str
    shape: tuple[int, ...]
    bits: int = Field(ge=1, le=8)
    granularity: str
    form: Form
    grid: int
    groups: int = Field(ge=1)
    count: int = Field(ge=0)
    numbers: int
    codes: int


class ActivationEntry(PlainData):
    """The steps of an activation quantizer.

    Attributes:
        modules: Names of the modules whose input it quantizes.
        points: Points between layers that it quantizes.
        axis: Dimension of a batch whose channels have a row each; None for one row.
        rows: Number of rows.
        steps: Steps of a row.
        thresholds: Where the thresholds begin, (rows, steps), float32.
        above: If thresholds are to be multiplied by mean|x| of each image: for each step, whether
            it is above its threshold. Empty if they are numbers, at which steps are.
        levels: Where the levels begin, (rows, steps + 1), float32.
    """

    modules: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    axis: Literal[1, -1] | None = None
    rows: int = Field(ge=1)
    steps: int = Field(ge=0)
    above: tuple[bool, ...] = ()
    thresholds: int
    levels: int


class Index(PlainData):
    """The index of a packed file.

    Attributes:
        version: Version of the format.
        network: How to build the network; None if the loader is to be given one.
        about: Where the network comes from, for readers.
        payload: Bytes of the payload, which begins the blob.
        buffers_end: End of the buffers, which follow the payload.
        layers: Names of the quantized layers.
        grids: Codes g of forms.
        weights: The packed weights.
        parameters: Parameters of full precision.
        buffers: Buffers, such as running statistics.
        activations: Steps of activation quantizers.
        sites: All sites of the model, if quantizers sit between layers.
        scales: Factors of outputs, by layer.
        channels_last: Whether convolutions are in channels-last memory format.
    """

    version: Literal[1] = 1
    network: Architecture | None = None
    about: dict[str, Any] = Field(default_factory=dict)
    payload: int = 0
    buffers_end: int = 0
    layers: tuple[str, ...] = ()
    grids: list[list[float]] = Field(default_factory=list)
    weights: list[WeightEntry] = Field(default_factory=list)
    parameters: list[TensorEntry] = Field(default_factory=list)
    buffers: list[TensorEntry] = Field(default_factory=list)
    activations: list[ActivationEntry] = Field(default_factory=list)
    sites: tuple[Site, ...] = ()
    scales: dict[str, float] = Field(default_factory=dict)
    channels_last: bool = False


@dataclass(frozen=True)
class PackedSizes:
    """Sizes of a packed file in bytes.

    Attributes:
        payload: Codes, numbers of levels, and parameters of full precision: the packed size that
            tables print.
        buffers: Buffers, such as running statistics.
        activations: Steps of activation quantizers.
        header: Everything else: the index.
    """

    payload: int
    buffers: int
    activations: int
    header: int

    @property
    def file(self) -> int:
        """Size of the file."""
        return self.payload + self.buffers + self.activations + self.header


def write_packed(
    network: HardNetwork,
    path: Path,
    architecture: Architecture | None = None,
    about: Mapping[str, Any] | None = None,
) -> PackedSizes:
    """Write a network to a packed file.

    Args:
        network: The network.
        path: The file. Its folder must exist.
        architecture: How to build the network again. None: `load_packed` is to be given one.
        about: Where the network comes from: plain values, by name.

    Returns:
        The sizes of the file.

    Raises:
        QbenchError: An activation quantizer is no step function.
    """
    blob = bytearray()
    index = Index(
        network=architecture,
        about=dict(about or {}),
        layers=network.layers,
        sites=network.sites,
        scales=dict(network.scales),
        channels_last=network.channels_last,
        parameters=[_put(blob, name, x) for name, x in network.parameters.items()],
    )
    _put_weights(blob, index, network)
    index.payload = len(blob)
    _align(blob)
    index.buffers = [_put(blob, name, x) for name, x in network.buffers.items()]
    index.buffers_end = len(blob)
    for each in network.activations:
        if each.steps is None:
            raise QbenchError(
                f"the activation quantizer at '{each.name}' cannot be packed: {each.reason}"
            )
        _align(blob)
        rows, steps = each.steps.thresholds.shape
        thresholds, levels = (_put(blob, "", x) for x in (each.steps.thresholds, each.steps.levels))
        index.activations.append(
            ActivationEntry(
                modules=each.modules,
                points=each.points,
                axis=each.steps.axis,
                rows=rows,
                steps=steps,
                above=each.steps.above,
                thresholds=thresholds.offset,
                levels=levels.offset,
            )
        )
    text = index.model_dump_json(exclude_defaults=True)
    tensor = torch.frombuffer(blob or bytearray(1), dtype=torch.uint8)
    with write_atomic(path) as scratch:
        library("safetensors.torch").save_file({"blob": tensor}, str(scratch), {_KEY: text})
    buffers, activations = index.buffers_end - index.payload, len(blob) - index.buffers_end
    header = path.stat().st_size - len(tensor)
    return PackedSizes(index.payload, buffers, activations, header)


def _put(blob: bytearray, name: str, x: Tensor) -> TensorEntry:
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise QbenchError(f"'{name}' is of {dtype}, which cannot be packed")
    entry = TensorEntry(name=name, shape=tuple(x.shape), dtype=dtype, offset=len(blob))
    blob += x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return entry


def _align(blob: bytearray) -> None:
    blob += bytes(-len(blob) % _ALIGNED)


def _put_weights(blob: bytearray, index: Index, network: HardNetwork) -> None:
    for name, packed in network.weights.items():
        grid = list(packed.grid)
        if grid not in index.grids:
            index.grids.append(grid)
        groups, count = packed.numbers.shape
        index.weights.append(
            WeightEntry(
                name=name,
                shape=tuple(packed.codes.shape),
                bits=packed.bits,
                granularity=str(packed.granularity),
                form=packed.form,
                grid=index.grids.index(grid),
                groups=groups,
                count=count,
                numbers=_put(blob, name, packed.numbers).offset,
                codes=0,
            )
        )
    for entry, packed in zip(index.weights, network.weights.values(), strict=True):
        entry.codes = len(blob)
        blob += pack_codes(packed.codes, packed.bits)


def pack_codes(codes: Tensor, bits: int) -> bytes:
    """Pack codes, the lowest bit of a byte first.

    Args:
        codes: Codes below 2^bits, uint8, any shape.
        bits: Bits of a code.

    Example:
        >>> pack_codes(torch.tensor([1, 3, 2], dtype=torch.uint8), 2).hex()
        '2d'
    """
    each = (codes.flatten().numpy()[:, None] >> np.arange(bits)) & 1
    return np.packbits(each.astype(np.uint8), bitorder="little").tobytes()


def unpack_codes(data: bytes, count: int, bits: int) -> Tensor:
    """Return the codes that `pack_codes` packed, uint8, (count,)."""
    each = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * bits]
    return torch.from_numpy((each.reshape(count, bits) << np.arange(bits)).sum(1).astype(np.uint8))


def load_packed(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Build a network from a packed file. It computes what the hardened network did, bit for bit.

    Nothing in the file is executed. The code of a plugin must be loaded if the model is its, or if
    its method changes the network.

    Args:
        path: A file that ``qbench deploy --to packed`` or `qbench.deploy` wrote.
        model: The network to fill, of the same architecture. Needed if the file does not say how
            to build it. It is changed in place.

    Returns:
        The network, in evaluation mode.

    Raises:
        QbenchError: The file is no packed file, is damaged, or does not fit the network.
    """
    path = Path(path)
    index, blob = _read(path)
    if model is None:
        if index.network is None:
            raise QbenchError(f"{path}: it does not say how to build its network: pass a model")
        model = index.network.build()
    try:
        return _fill(model, index, blob)
    except (AttributeError, KeyError, RuntimeError, ValueError, IndexError) as error:
        raise QbenchError(f"{path}: it is damaged, or of another network: {error}") from error


def wrong_part(network: HardNetwork, path: str | Path) -> str:
    """Return which part of a packed file is not that of a network, or an empty string.

    Args:
        network: The network.
        path: The file.

    Raises:
        QbenchError: It is no packed file, or is damaged.
    """
    index, blob = _read(Path(path))
    for entry in index.weights:
        expected = network.weights[entry.name].weight()
        if not torch.equal(_weight(index, entry, blob).weight(), expected):
            return f"the values of '{entry.name}' in the file are not the hardened weight"
    floats = {**network.parameters, **network.buffers}
    for tensor in (*index.parameters, *index.buffers):
        if not torch.equal(_get(blob, tensor), floats[tensor.name]):
            return f"'{tensor.name}' in the file has other values"
    for each, activation in zip(network.activations, index.activations, strict=True):
        found, wanted = _steps(activation, blob), each.steps
        assert wanted is not None  # noqa: S101
        if not (
            torch.equal(found.thresholds, wanted.thresholds)
            and torch.equal(found.levels, wanted.levels)
            and found.axis == wanted.axis
            and found.above == wanted.above
        ):
            return f"the steps at '{each.name}' in the file are not those of its quantizer"
    return ""


def read_index(path: str | Path) -> Index:
    """Return the index of a packed file.

    Args:
        path: The file.

    Raises:
        QbenchError: It is no packed file, or is damaged.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[Index, bytes]:
    safetensors = library("safetensors")
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise QbenchError(f"{path}: it is no packed network of qbench")
            return Index.model_validate_json(text), file.get_tensor("blob").numpy().tobytes()
    except OSError as error:
        raise QbenchError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise QbenchError(f"{path}: its index cannot be used: {where}: {plain(first)}") from error
    except safetensors.SafetensorError as error:
        raise QbenchError(f"{path}: it is no packed network, or damaged: {error}") from error


@torch.no_grad()
def _fill(model: nn.Module, index: Index, blob: bytes) -> nn.Module:
    exchange(model)
    restore(model, [model.get_submodule(name) for name in index.layers])
    for module in model.modules():
        if isinstance(module, TRANSPOSED):
            module.restore()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    there = {weight.name for weight in index.weights}
    there |= {tensor.name for tensor in (*index.parameters, *index.buffers)}
    missing = (parameters.keys() | buffers.keys()) - there
    if missing:
        raise ValueError(f"the file has no '{min(missing)}'")
    owners = {id(module._parameters.get("weight")): module for module in model.modules()}
    for entry in index.weights:
        parameter = parameters[entry.name]
        weight = _weight(index, entry, blob).weight()
        _assign(parameter, output_first(owners[id(parameter)], weight), entry.name)
    for each in index.parameters:
        _assign(parameters[each.name], _get(blob, each), each.name)
    for each in index.buffers:
        _assign(buffers[each.name], _get(blob, each), each.name)
    for name, scale in index.scales.items():
        insert_output_module(model.get_submodule(name), _attached(OutputScale(scale)))
    points: dict[Point, nn.Module] = {}
    for activation in index.activations:
        quantizer = Hardened(Steps(_steps(activation, blob)))
        for name in activation.modules:
            insert_input_quantizer(model.get_submodule(name), quantizer)
        points |= dict.fromkeys(activation.points, quantizer)
    if points:
        Insertion(model, index.sites, points)
    if index.channels_last:
        model.to(memory_format=torch.channels_last)
    return model.eval()


class OutputScale(nn.Module):
    """Output of a layer times a number.

    Args:
        scale: The number.
    """

    scale: Tensor

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x``, any shape."""
        return self.scale * x


def _attached(module: nn.Module) -> nn.Module:
    setattr(module, ATTACHED, True)
    return module


def _assign(target: Tensor, value: Tensor, name: str) -> None:
    if target.shape != value.shape or target.dtype != value.dtype:
        raise ValueError(
            f"'{name}' is {tuple(value.shape)} {value.dtype} in the file, and "
            f"{tuple(target.shape)} {target.dtype} in the network"
        )
    target.copy_(value)


def _bytes(blob: bytes, offset: int, size: int) -> bytes:
    if offset < 0 or offset + size > len(blob):
        raise ValueError(f"byte {offset + size} of {len(blob)} is missing")
    return blob[offset : offset + size]


def _get(blob: bytes, entry: TensorEntry) -> Tensor:
    dtype = _DTYPES[entry.dtype]
    size = math.prod(entry.shape) * dtype.itemsize
    data = bytearray(_bytes(blob, entry.offset, size))
    if not data:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(entry.shape)


def _floats(blob: bytes, offset: int, *shape: int) -> Tensor:
    return _get(blob, TensorEntry(name="", shape=shape, offset=offset))


def _weight(index: Index, entry: WeightEntry, blob: bytes) -> PackedWeight:
    count = math.prod(entry.shape)
    data = _bytes(blob, entry.codes, -(-count * entry.bits // 8))
    codes = unpack_codes(data, count, entry.bits).reshape(entry.shape)
    return PackedWeight(
        codes,
        entry.bits,
        parse_granularity(entry.granularity),
        entry.form,
        tuple(index.grids[entry.grid]),
        _floats(blob, entry.numbers, entry.groups, entry.count),
    )


def _steps(entry: ActivationEntry, blob: bytes) -> StepFunction:
    thresholds = _floats(blob, entry.thresholds, entry.rows, entry.steps)
    levels = _floats(blob, entry.levels, entry.rows, entry.steps + 1)
    if entry.above:
        return ImageSteps(thresholds, levels, entry.above)
    return StepTable(thresholds, levels, entry.axis)

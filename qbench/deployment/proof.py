"""Prove that an ONNX model computes what a network in torch does.

Sums in another order change the last bits of what a quantizer receives, and a value next to a
threshold then gets the next level. Such a difference is no fault. So the first activation whose
level differs is computed again in float64: with the same quantized values before it, both float32
numbers must be within the rounding bound of the exact one. Otherwise the model is another network.
"""

from __future__ import annotations

import copy
import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qbench.deployment.dialect import Dialect
from qbench.deployment.extra import library
from qbench.deployment.graph import INPUT, Written
from qbench.deployment.latency import processor
from qbench.deployment.network import HardNetwork
from qbench.deployment.nodes import Run
from qbench.deployment.parts import wrong_part
from qbench.quant.layers import quantizable_layers

_UNIT = 2.0**-24  # of rounding in float32
_SAFETY = 4.0
_TOGETHER = 256  # images whose levels are compared at once, at most
_VALUES = 2**25  # levels that are compared at once, since memory is finite
_TOLERANCE = 1e-4  # of logits after the last quantizer, relative to the largest


@dataclass(frozen=True)
class FirstDifference:
    """The first activation quantizer whose levels differ.

    Attributes:
        place: Name of its place.
        count: Number of values whose level differs there.
        values: Number of values there.
        unexplained: How many of them are not within the rounding bound of a threshold.
        example: One of them in words.
    """

    place: str
    count: int
    values: int
    unexplained: int
    example: str


@dataclass(frozen=True)
class Proof:
    """Comparison of an ONNX model with its network in torch.

    Attributes:
        logits: Logits by what computed them, (N, classes).
        first: The first activation quantizer whose levels differ; None if all are the same.
        reason: Why the model is another network, or an empty string.
    """

    logits: Mapping[str, Tensor]
    first: FirstDifference | None
    reason: str


def prove(
    network: HardNetwork,
    path: Path,
    written: Written,
    images: Tensor,
    expected: Tensor,
    dialect: Dialect,
) -> Proof:
    """Run a model on images, and compare it with its network.

    Args:
        network: The network in torch.
        path: Its ONNX model.
        written: How it was written.
        images: Images, (N, C, H, W).
        expected: Logits of the network, (N, classes).
        dialect: What it was written with.

    Returns:
        The comparison. The model is another network if a weight has other values or a quantizer
        has other steps (`qbench.deployment.parts`); if a level differs by more than rounding
        explains; if all levels are the same and logits differ by more than rounding; or if more
        predictions differ than 2 of 10,000, but one where levels differ by rounding.
    """
    logits = dialect.logits(path, images)
    first = None
    of_image = sum(math.prod(each.shape) for each in network.activations)
    for part in images.split(max(1, min(_TOGETHER, _VALUES // max(1, of_image)))):
        first = first or first_difference(network, path, written, part, dialect.run)
    wrong = wrong_part(network, path, written, dialect.run)
    judged = {how: x for how, x in logits.items() if not (written.folded and how in dialect.moving)}
    return Proof(logits, first, wrong or _reason(judged, first, expected))


def _reason(logits: Mapping[str, Tensor], first: FirstDifference | None, expected: Tensor) -> str:
    if first is not None and first.unexplained:
        return (
            f"the levels at '{first.place}' are others than rounding explains, for "
            f"{first.unexplained} of {first.values} values: {first.example}"
        )
    allowed = max(2 * len(expected) // 10_000, int(first is not None))
    for how, got in logits.items():
        flips = int((got.argmax(1) != expected.argmax(1)).sum())
        if flips > allowed:
            return f"{flips} of {len(expected)} predictions differ ({how})"
    difference = float((next(iter(logits.values())) - expected).abs().max())
    if first is None and difference > _TOLERANCE * float(expected.abs().max()):
        return f"logits differ by {difference:.2g} though all levels are the same"
    return ""


def environment(to: str) -> dict[str, str]:
    """Return the versions that a proof depends on, and what executes the model.

    Args:
        to: The format.
    """
    names = ("onnx", "onnxruntime", "torch", *(["qonnx"] if to == "qonnx" else []))
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        **versions,
        "provider": "CPUExecutionProvider",
        "processor": processor(),
        "threads of the comparison": "1",
    }


@torch.no_grad()
def first_difference(
    network: HardNetwork, path: Path, written: Written, images: Tensor, run: Run
) -> FirstDifference | None:
    """Find and explain the first activation quantizer whose levels differ.

    Args:
        network: The network in torch.
        path: Its ONNX model.
        written: How it was written.
        images: Images, (N, C, H, W). A few hundred suffice.
        run: Runs a model, without optimizations.

    Returns:
        The difference, or None if all levels are the same.
    """
    inputs, levels, order = activations_of(network, images)
    sources = {place: written.inputs[place, f"{place}.levels"] for place in order}
    theirs = _of_onnx(path, order, images, sources, run)
    for place in order:
        differs = levels[place] != theirs[f"{place}.levels"]
        if differs.any():
            return _explained(network, images, place, order, levels, inputs[place], theirs, differs)
    return None


def _seats(network: HardNetwork) -> dict[str, list[str]]:
    """Return the names of the modules that quantize at each place."""
    names = {module: name for name, module in network.model.named_modules()}
    return {
        each.name: [names[getattr(m, name)] for m, name in each.seats[:1]]
        for each in network.activations
    }


def activations_of(
    network: HardNetwork, images: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Return what activation quantizers receive and return in torch.

    Args:
        network: The network.
        images: Images, (N, C, H, W).

    Returns:
        What they receive and what they return at their first call, by place, and the places in the
        order of the calls.
    """
    inputs: dict[str, Tensor] = {}
    levels: dict[str, Tensor] = {}
    order: list[str] = []

    def noted(place: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if place not in inputs:
                order.append(place)
                inputs[place], levels[place] = args[0].clone(), output.clone()

        return hook

    hooks = [
        network.model.get_submodule(name).register_forward_hook(noted(place))
        for place, names in _seats(network).items()
        for name in names
    ]
    try:
        network.model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs, levels, order


def _of_onnx(
    path: Path, order: list[str], images: Tensor, sources: Mapping[str, str], run: Run
) -> dict[str, Tensor]:
    """Return the levels at each place, and what the quantizers receive, by name of the value."""
    ir = library("onnx_ir")
    model = ir.load(path)
    values = {v.name: v for node in model.graph for v in node.outputs}
    values |= {v.name: v for v in model.graph.inputs}
    wanted = [f"{place}.levels" for place in order]
    wanted += [sources[place] for place in order]
    found = [values[name] for name in dict.fromkeys(wanted)]
    own = list(model.graph.outputs)
    model.graph.outputs.extend(v for v in found if v not in own and v not in model.graph.inputs)
    got = run(ir.to_proto(model).SerializeToString(), {INPUT: images.numpy()})
    every = {name: torch.from_numpy(value) for name, value in got.items()}
    every |= {v.name: images for v in model.graph.inputs}
    return {
        **{f"{place}.levels": every[f"{place}.levels"] for place in order},
        **{f"{place}.input": every[sources[place]] for place in order},
    }


def _explained(
    network: HardNetwork,
    images: Tensor,
    place: str,
    order: list[str],
    levels: Mapping[str, Tensor],
    mine: Tensor,
    theirs: Mapping[str, Tensor],
    differs: Tensor,
) -> FirstDifference:
    """Compare the values that differ with exact ones, computed from the same levels before them."""
    exact, bound = _exact(network, images, place, order, levels)
    steps = next(each.steps for each in network.activations if each.name == place)
    assert steps is not None  # noqa: S101
    other = theirs[f"{place}.input"]
    good = (mine.double() - exact).abs() <= bound
    good &= (other.double() - exact).abs() <= bound
    # The quantizer of ONNX itself must have these steps: only a mean size is rounded.
    good &= steps.agrees(other, theirs[f"{place}.levels"])
    wrong = differs & ~good
    at = tuple((wrong if wrong.any() else differs).nonzero()[0].tolist())
    example = (
        f"at {list(at)} torch quantizes {float(mine[at]):.9g} to {float(levels[place][at]):.9g}, "
        f"onnxruntime {float(other[at]):.9g} to {float(theirs[f'{place}.levels'][at]):.9g}; "
        f"exactly it is {float(exact[at]):.12g}, and rounding changes it by {float(bound[at]):.2g}"
    )
    return FirstDifference(place, int(differs.sum()), differs.numel(), int(wrong.sum()), example)


class _Forced(nn.Module):
    """Returns given levels, and keeps what it receives.

    Args:
        levels: The levels.
    """

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.levels = levels.double()
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the levels, whatever ``x`` is."""
        self.seen = x
        return self.levels


def _exact(
    network: HardNetwork,
    images: Tensor,
    place: str,
    order: list[str],
    levels: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Return what a quantizer receives in float64, and how much rounding in float32 may change it.

    The outputs of layers are exact up to n u Σ|w x|, where n is the number of products of a sum.
    How far that moves what the quantizer receives is measured by adding it to the outputs. Products
    and softmax of attention are moved too.
    """
    model = copy.deepcopy(network.model).double()
    seats = _seats(network)
    forced = {name: _Forced(levels[name]) for name in order}
    for name, modules in seats.items():
        for module in modules:
            if name in forced:
                model.set_submodule(module, forced[name])
    moved: list[Tensor] = []
    for sign in (0.0, 1.0, -1.0):
        hooks = [
            layer.register_forward_hook(_moving(sign))
            for layer in quantizable_layers(model).values()
        ]
        with _MovedAttention(sign):
            model(images.double())
        for hook in hooks:
            hook.remove()
        seen = forced[place].seen
        assert seen is not None  # noqa: S101
        moved.append(seen)
    exact, up, down = moved
    bound = torch.maximum((up - exact).abs(), (down - exact).abs())
    return exact, _SAFETY * (bound + _UNIT * exact.abs()) + 1e-30


class _MovedAttention(TorchFunctionMode):
    """Adds the bounds of rounding, times a sign, to the products and the softmax of attention.

    A product is exact up to n u Σ|q k|. Scores that are moved by up to δ change a softmax y by up
    to 2 δ y, and the sum of its m terms by m u y more. A common change of all scores of a row
    cancels, so that the δ of the last product is applied to y itself.

    Args:
        sign: The sign, or 0 to change nothing.
    """

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.relative = 0.0  # the bound of the last product, over its largest value

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, and move what it returns."""
        out = func(*args, **(kwargs or {}))
        if not self.sign:
            return out
        if func in (torch.matmul, Tensor.matmul, Tensor.__matmul__):
            moved = args[0].shape[-1] * _UNIT * (args[0].abs() @ args[1].abs())
            self.relative = float(moved.max() / out.abs().max().clamp(min=1e-30))
            return out + self.sign * moved
        if func in (torch.softmax, Tensor.softmax):
            scores = args[0][args[0].isfinite()]  # masked ones are not
            share = 2 * self.relative * scores.abs().max() + (out.shape[-1] + 4) * _UNIT
            return out * (1 + self.sign * share)
        return out


def _moving(sign: float) -> Any:
    """Return a hook that adds the bound of rounding, times a sign, to the output of a layer."""

    def hook(layer: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if sign == 0:
            return output
        weight, bias = layer.weight, layer.bias
        layer.weight = nn.Parameter(weight.abs())
        layer.bias = None if bias is None else nn.Parameter(bias.abs())
        size = layer.forward(args[0].abs())
        layer.weight, layer.bias = weight, bias
        terms = weight[0].numel() + 1
        return output + sign * terms * _UNIT * size

    return hook

"""Prove that an ONNX model computes what a network in torch does.

Sums in another order change the last bits of what a quantizer receives, and a value next to a
threshold then gets the next level. Such a difference is no fault, but all that follows it differs.
So the network is computed again in float64 with the levels of the model itself: what each of its
quantizers receives, and its logits, must be within the rounding bound of the exact numbers, whether
a level differs or not. Otherwise the model is another network.
"""

from __future__ import annotations

import copy
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from qbench.deployment.dialect import Dialect
from qbench.deployment.extra import library
from qbench.deployment.function import StepFunction
from qbench.deployment.graph import INPUT, OUTPUT, Written
from qbench.deployment.latency import processor
from qbench.deployment.network import HardNetwork
from qbench.deployment.nodes import Run
from qbench.deployment.parts import wrong_part
from qbench.deployment.rounding import Exact, Rounding, in_operations

_PROBES = 16  # passes in which results are moved, at most
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
        unexplained: How many of them are not within the rounding bound of the exact value.
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
        has other steps (`qbench.deployment.parts`); if a level, what a quantizer receives, or a
        logit differs by more than rounding explains, on the first images and where a level differs
        first; if all levels are the same and logits differ by more than rounding; or if more
        predictions differ than 2 of 10,000, but one where levels differ by rounding.
    """
    logits = dialect.logits(path, images)
    first, moved = None, ""
    of_image = sum(math.prod(each.shape) for each in network.activations)
    parts = images.split(max(1, min(_TOGETHER, _VALUES // max(1, of_image))))
    for number, part in enumerate(parts):
        if first is None:
            first, text = compare_levels(network, path, written, part, dialect.run, number == 0)
            moved = moved or text
    wrong = wrong_part(network, path, written, dialect.run)
    judged = {how: x for how, x in logits.items() if not (written.folded and how in dialect.moving)}
    return Proof(logits, first, wrong or _reason(judged, first, moved, expected))


def _reason(
    logits: Mapping[str, Tensor], first: FirstDifference | None, moved: str, expected: Tensor
) -> str:
    if first is not None and first.unexplained:
        return (
            f"the levels at '{first.place}' are others than rounding explains, for "
            f"{first.unexplained} of {first.values} values: {first.example}"
        )
    if moved:
        return moved
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
def compare_levels(
    network: HardNetwork,
    path: Path,
    written: Written,
    images: Tensor,
    run: Run,
    always: bool = True,
) -> tuple[FirstDifference | None, str]:
    """Compare what the quantizers of a model receive and return with its network.

    Args:
        network: The network in torch.
        path: Its ONNX model.
        written: How it was written.
        images: Images, (N, C, H, W). A few hundred suffice.
        run: Runs a model, without optimizations.
        always: Whether to compute the network in float64 even if all levels are the same.

    Returns:
        The first difference of a level, or None if all are the same; and where the model computes
        other numbers than rounding explains, or an empty string.
    """
    inputs, levels, order = activations_of(network, images)
    places = {output.removesuffix(".levels"): place for place, output in written.inputs}
    sources = {
        output.removesuffix(".levels"): source for (_, output), source in written.inputs.items()
    }
    order = [call for call in order if call in places]
    theirs = _of_onnx(path, order, images, sources, run)
    differs = {call: levels[call] != theirs[f"{call}.levels"] for call in order}
    differing = [call for call in order if differs[call].any()]
    if not (differing or always):
        return None, ""
    received = {call: theirs[f"{call}.input"] for call in order} | {OUTPUT: theirs[OUTPUT]}
    own = levels | {call: theirs[f"{call}.levels"] for call in order}
    explained = list(received.items())
    if differing:  # torch rounds otherwise
        call = differing[0]
        explained.append((call, torch.where(differs[call], inputs[call], received[call])))
    exact = exact_values(network, images, own, explained)
    first, text = None, ""
    if differing:
        call = differing[0]
        steps = next(each.steps for each in network.activations if each.name == places[call])
        assert steps is not None  # noqa: S101
        mine, its = (inputs[call], levels[call]), (received[call], own[call])
        first = _explained(steps, call, mine, its, exact[call])
    for call in (*order, OUTPUT):
        wrong = ~exact[call].explains(received[call])
        if wrong.any():
            at = tuple(wrong.nonzero()[0].tolist())
            what = "logits are" if call == OUTPUT else f"what the quantizer at '{call}' receives is"
            text = (
                f"{what} not what rounding explains, for {int(wrong.sum())} of {wrong.numel()} "
                f"values: at {list(at)} {float(received[call][at]):.9g}; exactly it is "
                f"{float(exact[call].exact[at]):.12g}, and rounding changes it by "
                f"{float(exact[call].bound[at]):.2g}"
            )
            break
    return first, text


def _seats(network: HardNetwork) -> dict[str, list[str]]:
    """Return the names of the submodules that quantize at each place."""
    names = {module: name for name, module in network.model.named_modules()}
    return {
        each.name: [f"{names[m]}.{name}".removeprefix(".") for m, name in each.seats]
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
        What they receive and what they return at each call, and the calls in their order. The name
        of the first call is that of its place; ``.1`` follows it at the second one, and so on.
    """
    inputs: dict[str, Tensor] = {}
    levels: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def noted(place: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            call = _call(place, counts.get(place, 0))
            counts[place] = counts.get(place, 0) + 1
            inputs[call], levels[call] = args[0].clone(), output.clone()

        return hook

    hooks = [
        network.model.get_submodule(seats[0]).register_forward_hook(noted(place))
        for place, seats in _seats(network).items()
    ]
    try:
        network.model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs, levels, list(inputs)


def _call(place: str, number: int) -> str:
    """Return the name of a call of a quantizer, as `qbench.deployment.graph` counts them."""
    return f"{place}.{number}" if number else place


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
        OUTPUT: every[OUTPUT],
    }


def _explained(
    steps: StepFunction,
    call: str,
    mine: tuple[Tensor, Tensor],
    its: tuple[Tensor, Tensor],
    exact: Exact,
) -> FirstDifference:
    """Compare the values that differ with exact ones, computed from the same levels before them.

    Args:
        steps: Steps of the quantizer.
        call: Name of the call.
        mine: What the quantizer receives and returns in torch.
        its: The same in ONNX.
        exact: What it receives, in float64.
    """
    (x, levels), (other, theirs) = mine, its
    differs = levels != theirs
    # The quantizer of ONNX itself must have these steps: only a mean size is rounded.
    good = exact.explains(x) & exact.explains(other) & steps.agrees(other, theirs)
    wrong = differs & ~good
    at = tuple((wrong if wrong.any() else differs).nonzero()[0].tolist())
    example = (
        f"at {list(at)} torch quantizes {float(x[at]):.9g} to {float(levels[at]):.9g}, "
        f"onnxruntime {float(other[at]):.9g} to {float(theirs[at]):.9g}; exactly it is "
        f"{float(exact.exact[at]):.12g}, and rounding changes it by {float(exact.bound[at]):.2g}"
    )
    return FirstDifference(call, int(differs.sum()), differs.numel(), int(wrong.sum()), example)


class _Forced(nn.Module):
    """Returns given levels, and keeps what it receives.

    Args:
        levels: The levels of each call.
    """

    def __init__(self, levels: Sequence[Tensor]) -> None:
        super().__init__()
        self.levels = [each.double() for each in levels]
        self.seen = [Exact() for _ in levels]
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the levels of the next call, whatever ``x`` is."""
        call = self.calls
        self.calls = (call + 1) % len(self.levels)
        with _disable_current_modes():
            self.seen[call].take(x)
        return self.levels[call]


def exact_values(
    network: HardNetwork,
    images: Tensor,
    levels: Mapping[str, Tensor],
    received: Sequence[tuple[str, Tensor]] | None = None,
) -> dict[str, Exact]:
    """Return what quantizers receive in float64, and how much rounding in float32 may change it.

    The bound is the largest change that a few passes with `Rounding` find.

    Args:
        network: The network.
        images: Images, (N, C, H, W).
        levels: Levels that quantizers return, by call.
        received: Numbers to explain, each with its call. No pass is made once all are. None: all
            passes are made.

    Returns:
        The numbers by call, and the logits.
    """
    model = copy.deepcopy(network.model).double()
    forced = {}
    for place, seats in _seats(network).items():
        calls = [_call(place, number) for number in range(len(levels))]
        if calls[0] in levels:
            its = [levels[call] for call in calls if call in levels]
            forced[place] = _Forced(its)
            for seat in seats:
                model.set_submodule(seat, forced[place])
    logits = Exact()
    found = {
        _call(place, number): each
        for place, module in forced.items()
        for number, each in enumerate(module.seen)
    } | {OUTPUT: logits}
    with in_operations():
        for probe in range(_PROBES + 1):
            if probe:
                with Rounding(probe):
                    y = model(images.double())
            else:
                y = model(images.double())
            logits.take(y)
            if (
                probe
                and received is not None
                and all(found[call].explains(x).all() for call, x in received)
            ):
                break
    return found

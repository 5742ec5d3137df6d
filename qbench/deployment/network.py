"""A hardened network as data: packed weights, step functions, and how to build the rest again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from qbench import registry
from qbench.deployment.function import StepFunction, step_function
from qbench.deployment.steps import NoStepFunctionError
from qbench.deployment.weights import PackedWeight, pack_weight
from qbench.errors import QbenchError
from qbench.method import Layer
from qbench.quant.exchange.transposed import output_first
from qbench.quant.handle import Handle
from qbench.quant.parametrizations import originals
from qbench.quant.placement.sites import Point, Site
from qbench.quant.preparation import prepare_as
from qbench.quant.state import ATTACHED
from qbench.spec.result import PlainData
from qbench.spec.trial import Preparation


class Architecture(PlainData):
    """What builds a network again, with initial weights.

    Attributes:
        model: Registered name of the model, or that of a model of torchvision.
        num_classes: Number of classes.
        in_channels: Number of channels of the images.
        prepared: Change of the network by a method; None if there is none.
    """

    model: str
    num_classes: int
    in_channels: int
    prepared: Preparation | None = None

    def build(self) -> nn.Module:
        """Return the network, with initial weights.

        Raises:
            QbenchError: The model, or the method that changes it, is unknown.
        """
        with torch.random.fork_rng(devices=[]):
            model = registry.build_model(self.model, self.num_classes, self.in_channels)
            return model if self.prepared is None else prepare_as(model, self.prepared)


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation quantizer of a hardened network.

    Attributes:
        name: Name of its place.
        modules: Names of the modules whose input it quantizes.
        points: Points between layers that it quantizes.
        seats: The submodules that contain it, with its name there.
        shape: Shape of what it receives, without the batch. Empty if no value passes through it.
        steps: Its step function; None if it is none.
        reason: Why it is none, or an empty string.
    """

    name: str
    modules: tuple[str, ...]
    points: tuple[Point, ...]
    seats: tuple[tuple[nn.Module, str], ...]
    shape: tuple[int, ...]
    steps: StepFunction | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class HardNetwork:
    """A hardened network, described without its method.

    Attributes:
        model: The network, in evaluation mode.
        layers: Names of its quantized layers.
        weights: Packed weights, output channels first, by the name of the parameter.
        activations: Activation quantizers, in the order of the model.
        sites: All sites of the model, if quantizers sit between layers.
        scales: Factor of the output of layers that have one.
        parameters: Parameters of full precision, by name.
        buffers: Buffers, such as running statistics, by name.
        undeclared: Weights that need more numbers than their method declares, each with the reason.
    """

    model: nn.Module
    layers: tuple[str, ...]
    weights: Mapping[str, PackedWeight]
    activations: tuple[Activation, ...]
    sites: tuple[Site, ...]
    scales: Mapping[str, float]
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    undeclared: list[str] = field(default_factory=list)

    @property
    def channels_last(self) -> bool:
        """Whether a convolution stores its weight in channels-last memory format.

        Their sums are then added in another order, and round differently.
        """
        return any(_is_channels_last(w) for w in self.model.parameters() if w.dim() == 4)


def _is_channels_last(weight: Tensor) -> bool:
    """Return whether the strides of a weight are those of channels-last alone."""
    formats = torch.channels_last, torch.contiguous_format
    empty = (torch.empty(weight.shape, memory_format=each, device="meta") for each in formats)
    last, contiguous = (each.stride() for each in empty)
    return weight.stride() == last != contiguous


@torch.no_grad()
def describe(handle: Handle, images: Any) -> HardNetwork:
    """Describe a network by its weights and its step functions.

    Args:
        handle: The attached method, after training. Its model is hardened if it is not yet.
        images: Batch of inputs. The model runs once, to tell the shapes of activations.

    Returns:
        The description.

    Raises:
        QbenchError: A weight has more levels than codes, a layer's output passes through more than
            a factor, or the model is not of float32 numbers on a CPU.
    """
    model = handle.harden().eval()
    names = {id(p): name for name, p in model.named_parameters()}
    attached = _attached(model)
    weights: dict[str, PackedWeight] = {}
    undeclared = []
    for layer in handle.hardened_layers:
        parameter = originals(layer.module)[0]
        name = names[id(parameter)]
        if name in weights:
            continue
        weights[name] = packed = _packed(layer, parameter)
        declared = layer.weight_levels.numbers(layer.weight_bits) if layer.weight_levels else 0
        if packed.numbers.shape[1] != declared:
            undeclared.append(
                f"{name} needs {packed.numbers.shape[1]} numbers for each group of levels, and its "
                f"method declares {declared}"
            )
    parameters = {n: p.detach() for n, p in model.named_parameters() if n not in weights}
    parameters = {n: p for n, p in parameters.items() if not _within(n, attached)}
    buffers = {n: b for n, b in model.named_buffers() if not _within(n, attached)}
    return HardNetwork(
        model,
        tuple(layer.name for layer in handle.layers),
        weights,
        _activations(handle, images),
        () if handle.insertion is None else handle.insertion.sites,
        _output_scales(handle),
        parameters,
        buffers,
        undeclared,
    )


def _attached(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if hasattr(module, ATTACHED)}


def _within(name: str, modules: set[str]) -> bool:
    """Return whether a parameter belongs to one of some modules."""
    parts = name.split(".")
    return any(".".join(parts[:n]) in modules for n in range(1, len(parts)))


def _packed(layer: Layer, parameter: Tensor) -> PackedWeight:
    assert layer.weight_levels is not None  # noqa: S101
    weight = output_first(layer.module, parameter)
    try:
        return pack_weight(weight, layer.weight_bits, layer.weight_levels)
    except QbenchError as error:
        raise QbenchError(f"the weight of '{layer.name}' cannot be packed: {error}") from error


def _activations(handle: Handle, images: Any) -> tuple[Activation, ...]:
    quantizers = {id(place.activation_quantizer): place for place in handle.places}
    shapes = _shapes(handle, images)
    modules = {module: name for name, module in handle.model.named_modules()}
    points: dict[int, list[Point]] = {}
    if handle.insertion is not None:
        for point, (slot, key) in handle.insertion.seats.items():
            points.setdefault(id(getattr(slot, key)), []).append(point)
    found = []
    for number, place in quantizers.items():
        quantizer, seats = place.activation_quantizer, tuple(handle.activation_seats[place])
        assert quantizer is not None  # noqa: S101
        at = tuple(points.get(number, ()))
        inputs = () if at else tuple(modules[module] for module, _ in seats)
        shape = tuple(shapes.get(place.name, ()))
        steps, reason = None, ""
        try:
            if not shape:
                raise NoStepFunctionError("no value passes through it")
            steps = step_function(quantizer, shape)
        except NoStepFunctionError as error:
            reason = str(error)
        found.append(Activation(place.name, inputs, at, seats, shape, steps, reason))
    return tuple(found)


def _shapes(handle: Handle, images: Any) -> dict[str, torch.Size]:
    """Return the shape of what each activation quantizer receives, without the batch."""
    found: dict[str, torch.Size] = {}

    def note(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.setdefault(name, args[0].shape[1:])

    hooks = [
        place.activation_quantizer.register_forward_pre_hook(partial(note, place.name))
        for place in handle.places
        if place.activation_quantizer is not None
    ]
    try:
        handle.model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _output_scales(handle: Handle) -> dict[str, float]:
    """Return the factors that the outputs of layers have, without those of 1.

    Raises:
        QbenchError: An output passes through more than a factor.
    """
    found: dict[str, float] = {}
    random = torch.Generator().manual_seed(0)
    for layer in handle.layers:
        after: Callable[[Tensor], Tensor] | None = getattr(layer.module, "output_module", None)
        if after is None:
            continue
        scale = after(torch.ones(1, 1))
        x = torch.randn(8, 64, generator=random)
        if not torch.equal(after(x), scale * x):
            raise QbenchError(
                f"the output of '{layer.name}' passes through a module that does more than "
                "multiply by a number, which cannot be deployed"
            )
        if float(scale) != 1:
            found[layer.name] = float(scale)
    return found

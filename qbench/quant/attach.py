"""Attach the quantizers of a method to a model.

A weight quantizer is a ``torch.nn.utils.parametrize`` parametrization of ``layer.weight``. An
activation quantizer is a submodule ``module.input_quantizer`` that a forward pre-hook runs; that
name is part of stored states. `qbench.quant.placement` inserts activation quantizers between
layers. What a method does to outputs is a submodule ``module.output_module`` that a forward hook
runs. The model stays the module it was: ``state_dict``, ``deepcopy``, DDP, ``torch.compile`` and
autocast keep working.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from qbench.errors import QbenchError, nearest
from qbench.method import Layer, Method, Place, Quantizer
from qbench.quant.calibration import (
    check_signed,
    clipped_share,
    evaluation_mode,
    explained,
    join_samples,
    no_calibration,
    sample_inputs,
)
from qbench.quant.coverage import Promise
from qbench.quant.exchange.modules import exchange, restore
from qbench.quant.handle import Attached, Handle
from qbench.quant.layers import (
    attention_places,
    check_shared_weights,
    declare_levels,
    quantizable_layers,
    rename_layers,
    select_layers,
)
from qbench.quant.loading import accept_float_states
from qbench.quant.options import build_method
from qbench.quant.parametrizations import computed_weight, originals, parametrization_count
from qbench.quant.placement.find import FoundPlaces, find_places
from qbench.quant.placement.insert import Insertion, quantize
from qbench.quant.placement.sites import Point
from qbench.quant.primitives.recomputed import release_weight
from qbench.quant.state import ATTACHED, check_attachable, check_finite, check_selection
from qbench.quant.undo import undone_on_error
from qbench.spec.bits import BitWidths
from qbench.spec.placement import LAYER_INPUTS, PLACEMENTS, Placement
from qbench.spec.policies import DEFAULT_LAYERS, LayerPolicy, policy_widths


def attach(
    model: nn.Module,
    method: str | Method,
    *,
    bits: str | BitWidths,
    calibration: Iterable[Any] = (),
    layers: LayerPolicy = DEFAULT_LAYERS,
    placement: Placement | None = None,
    task: str = "classification",
    state_dict: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Handle:
    """Attach a method's quantizers to a model, in place.

    Args:
        model: Any module. Its convolutions, transposed ones too, its linear layers and the
            projections of its attention are quantized.
        method: Name of a method (``qbench list methods``), or a method that is already built.
        bits: Bit-widths of weights/activations, such as ``'3(±4)/2'``.
        calibration: Batches of training data that initialise the quantizers of activations:
            tensors, or tuples whose first item is the input. Needed if activations are quantized.
        layers: Layers to quantize: ``'skip_first_last'`` (all but the first convolution and the
            last layer), ``'all'``, ``'all_but_image'`` (the input of the first layer stays at full
            precision), ``'first_last_8bit'``, ``'first_last_8bit_weights'`` (the inputs of both
            stay at full precision), a list of names, or a mapping from names to bit-widths. Names
            may be patterns such as ``'features.*'``; a name after ``!`` leaves its layers out
            again, as in ``['*', '!aux*']``.
        placement: Where quantizers of activations sit: ``'layer_inputs'``, at the input of each
            quantized layer; ``'after_activation'``, behind each ReLU, or behind the max-pooling
            that alone reads it, so that all that reads the values gets the same quantized ones;
            ``'after_activation_and_add'``, also at both inputs and the output of additions. A
            quantized layer that would still read unquantized values has a quantizer at its own
            input. None: what the method declares.
        task: Task of the model, for methods that support only some tasks.
        state_dict: Weights to load before quantizers are built, those of a model that
            `Method.prepare` has changed. By default, the model keeps its weights. Whether they fit
            cannot be known: a method that changes the order of blocks or their activations needs
            weights that were trained in the changed model.
        options: Options of the method, if ``method`` is a name.

    Returns:
        The handle through which training drives the method.

    Raises:
        QbenchError: The method, an option, a layer or the bit-widths are unknown or unsupported;
            the model has quantizers already, or values that are not initialized or not finite;
            layers that read the same values want them at different widths; or nothing is left to
            quantize.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> handle = attach(model, "twn", bits="2/32")
        >>> [layer.name for layer in handle.layers]
        ['2']
        >>> len(handle.harden()[2].weight.unique()) <= 3
        True
    """
    if isinstance(method, str):
        method = build_method(method, options)
    elif options:
        raise QbenchError(f"options go with a method's name, not with a {method.title} built")
    if isinstance(calibration, Tensor):
        raise QbenchError("calibration is one tensor: pass a list of batches, as in [images]")
    placement = method.placement if placement is None else placement
    if placement not in PLACEMENTS:
        raise QbenchError(f"'{placement}' is no placement{nearest(placement, PLACEMENTS)}")
    try:
        widths = bits if isinstance(bits, BitWidths) else BitWidths.parse(bits)
        wanted = policy_widths(layers, widths)
    except ValueError as error:
        raise QbenchError(str(error)) from error
    for each in wanted:
        if reason := method.supports(each, task):
            raise QbenchError(f"{method.name} cannot do {each}: {reason}")

    check_attachable(model)
    changes_values = state_dict is not None or type(method).prepare is not Method.prepare
    with undone_on_error(model, changes_values):
        prepared = prepare(model, method, widths, layers)
        if state_dict is not None:
            prepared.load_state_dict(state_dict)
            check_finite(prepared)
        if not widths.is_float:
            check_selection(prepared, method.layers)
        check_shared_weights(prepared, method.layers)
        attaching = _Attaching(prepared, method, _promise(prepared, method.layers, layers, widths))
        attaching.attach(calibration, placement, widths)
    return Handle(prepared, method, attaching.attached)


def prepare(model: nn.Module, method: Method, bits: BitWidths, layers: LayerPolicy) -> nn.Module:
    """Change a model as a method asks and set the layers of the method. `attach` begins with it.

    Args:
        model: Any module. It may be changed in place.
        method: The method. Its ``layers`` are set.
        bits: Bit-widths of weights and activations.
        layers: Layers to quantize, as in `attach`, with the names that ``model`` has.

    Returns:
        The model to quantize.

    Raises:
        QbenchError: A layer or a policy is unknown.
    """
    modules = dict(model.named_modules())
    prepared = method.prepare(model, bits)
    method.places = []
    exchange(prepared)
    method.layers = select_layers(prepared, rename_layers(layers, modules, prepared), bits)
    restore(prepared, [layer.module for layer in method.layers])
    declare_levels(method.layers, method)
    return prepared


def _promise(
    model: nn.Module, layers: Sequence[Layer], policy: LayerPolicy, bits: BitWidths
) -> Promise:
    """Return what a layer policy promises: all but what it leaves out, or the layers it names."""
    names = quantizable_layers(model).keys()
    return Promise(
        bits,
        names - {layer.name for layer in layers if not layer.weight_bits.is_float},
        names - {layer.name for layer in layers if not layer.activation_bits.is_float},
        others=not isinstance(policy, str),
    )


class _Attaching:
    """Put the quantizers of a method on a model.

    Args:
        model: The model, which the method has prepared.
        method: The method, with its layers.
        promise: What the layer policy promises to quantize.
    """

    def __init__(self, model: nn.Module, method: Method, promise: Promise) -> None:
        self.model = model
        self.method = method
        self.attached = Attached(promise)

    def attach(self, calibration: Iterable[Any], placement: Placement, widths: BitWidths) -> None:
        """Build the quantizers, put them on the model, and calibrate them."""
        model, method = self.model, self.method
        batches = self._remembered(
            batch[0] if isinstance(batch, list | tuple) else batch for batch in calibration
        )
        calibrates = type(method).calibrate is not Method.calibrate
        kept: Iterable[Any] = list(batches) if calibrates else batches
        inputs = [layer for layer in method.layers if not layer.activation_bits.is_float]
        found = FoundPlaces()
        if placement != LAYER_INPUTS and inputs:
            first, kept = _first_of(kept, inputs[0].name)
            with evaluation_mode(model), explained(model, first):
                found = find_places(
                    model, inputs, placement, widths.activations, first, method.replaces_activations
                )
            inputs = [layer for layer in inputs if layer.name in found.own_inputs]
            declare_levels(found.places, method)
        inside = attention_places(model, method.layers)
        declare_levels(inside, method)
        samples = sample_inputs(model, [*inputs, *inside], kept, found.points)
        for layer in method.layers:
            self.attached.training_hooks.append(accept_float_states(layer.module))
            self._attach_weight(layer)
            if layer in inputs:
                self._attach_input(layer, samples[layer.name])
            self._attach_output(layer)
        for place in inside:
            self.attached.training_hooks.append(accept_float_states(place.module))
            self._attach_input(place, samples[place.name])
        check_signed(model, method)
        self._attach_places(found, samples)
        if isinstance(kept, list):
            with evaluation_mode(model):
                method.calibrate(model, kept)

    def _remembered(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches, and keep two images of the first one."""
        for batch in batches:
            if self.attached.example is None and isinstance(batch, Tensor | list):
                two = batch[:2]
                self.attached.example = two.clone() if isinstance(two, Tensor) else two
            yield batch

    def _attach_weight(self, layer: Layer) -> None:
        if layer.weight_bits.is_float:
            return
        weight = layer.latent_weight
        for other in self.method.layers:  # one quantizer for a weight that layers share
            shared = originals(other.module)[0] is originals(layer.module)[0]
            if other.weight_quantizer is not None and shared:
                layer.weight_quantizer = other.weight_quantizer
                parametrize.register_parametrization(layer.module, "weight", other.weight_quantizer)
                self._release_weight(layer)
                return
        quantizer = self.method.weight_quantizer(layer, weight.detach().clone())
        if quantizer is None:
            return
        what = f"{self.method.name}'s weight quantizer"
        _check_module(quantizer, what, layer)
        quantizer.to(weight.device)
        _check_output(quantizer, weight.detach(), what, layer)
        setattr(quantizer, ATTACHED, True)
        parametrize.register_parametrization(layer.module, "weight", quantizer)
        layer.weight_quantizer = quantizer
        self._release_weight(layer)
        if _observes(quantizer):
            hook = layer.module.register_forward_hook(_observe_weight)
            self.attached.training_hooks.append(hook)

    def _release_weight(self, layer: Layer) -> None:
        hook = layer.module.register_forward_hook(_release_weight)
        self.attached.training_hooks.append(hook)

    def _attach_input(self, layer: Layer, sample: Tensor) -> None:
        quantizer = self._build_activation_quantizer(layer, sample)
        if quantizer is not None:
            self.attached.seats[layer] = [(layer.module, "input_quantizer")]
            self.attached.layer_hooks.append(insert_input_quantizer(layer.module, quantizer))

    def _attach_places(self, found: FoundPlaces, samples: Mapping[str, Tensor]) -> None:
        quantizers: dict[Point, nn.Module] = {}
        for place, points in zip(found.places, found.points_of, strict=True):
            sample = join_samples([samples[point.name] for point in points])
            quantizer = self._build_activation_quantizer(place, sample)
            if quantizer is not None:
                quantizers |= dict.fromkeys(points, quantizer)
        if not quantizers:
            return
        insertion = Insertion(self.model, found.sites, quantizers)
        self.attached.insertion = insertion
        for place, points in zip(found.places, found.points_of, strict=True):
            if place.activation_quantizer is not None:
                self.attached.seats[place] = [insertion.seats[point] for point in points]
                place.module = insertion.holders[points[0]]
        for module in dict.fromkeys(insertion.holders.values()):
            self.attached.training_hooks.append(accept_float_states(module))
        names = {place.name for place in found.places if place.activation_quantizer is not None}
        self.attached.arrivals = tuple(each for each in found.arrivals if each.place in names)

    def _build_activation_quantizer(self, place: Layer, sample: Tensor) -> nn.Module | None:
        quantizer = self.method.activation_quantizer(place, sample)
        if quantizer is None:
            return None
        what = f"{self.method.name}'s activation quantizer"
        _check_module(quantizer, what, place)
        quantizer.to(sample.device)
        _check_output(quantizer, sample[:1], what, place)
        replaces = isinstance(place, Place) and place.kind == "activation"
        if not (replaces and self.method.replaces_activations):
            place.clipped_share = clipped_share(quantizer, sample)
        setattr(quantizer, ATTACHED, True)
        place.activation_quantizer = quantizer
        self.method.places.append(place)
        return quantizer

    def _attach_output(self, layer: Layer) -> None:
        module = self.method.output_module(layer)
        if module is not None:
            setattr(module, ATTACHED, True)
            module.to(next(layer.module.parameters()).device)
            self.attached.layer_hooks.append(insert_output_module(layer.module, module))


def insert_input_quantizer(module: nn.Module, quantizer: nn.Module) -> RemovableHandle:
    """Insert a quantizer at the input of a module.

    Args:
        module: The module.
        quantizer: The quantizer, which becomes its submodule ``input_quantizer``.

    Returns:
        The hook that runs it.
    """
    module.input_quantizer = quantizer
    return module.register_forward_pre_hook(_quantize_input)


def insert_output_module(module: nn.Module, after: nn.Module) -> RemovableHandle:
    """Insert a module that the output of another passes through.

    Args:
        module: The module.
        after: What its output passes through, which becomes its submodule ``output_module``.

    Returns:
        The hook that runs it.
    """
    module.output_module = after
    return module.register_forward_hook(_pass_output)


def _first_of(batches: Iterable[Any], name: str) -> tuple[Any, Iterable[Any]]:
    """Return the first batch, and all of them.

    Raises:
        QbenchError: There is none.
    """
    if isinstance(batches, list):
        first, every = next(iter(batches), None), batches
    else:
        rest = iter(batches)
        first = next(rest, None)
        every = itertools.chain([first], rest)  # type: ignore[assignment]
    if first is None:
        raise no_calibration(name)
    return first, every


def _check_module(quantizer: object, what: str, layer: Layer) -> None:
    if not isinstance(quantizer, nn.Module):
        raise TypeError(
            f"{what} for '{layer.name}' is a {type(quantizer).__name__}: return an nn.Module"
        )


def _check_output(quantizer: nn.Module, x: Tensor, what: str, layer: Layer) -> None:
    with torch.no_grad():
        y = quantizer(x)
    if not isinstance(y, Tensor):
        raise TypeError(f"{what} returned {type(y).__name__} for '{layer.name}', not a tensor")
    if y.shape != x.shape or y.dtype != x.dtype:
        raise ValueError(
            f"{what} turned '{layer.name}' from {tuple(x.shape)} {x.dtype} into "
            f"{tuple(y.shape)} {y.dtype}; it must keep shape and dtype"
        )


def _observes(quantizer: nn.Module) -> bool:
    return isinstance(quantizer, Quantizer) and type(quantizer).observe is not Quantizer.observe


# Hooks are functions of this module, not closures, so that a model with them can be pickled.


def _release_weight(module: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, Tensor) and not torch.compiler.is_compiling():
        release_weight(output)


def _observe_weight(module: nn.Module, args: Any, output: Any) -> None:
    if module.training:
        own = parametrization_count(module) - 1
        quantizer: Any = module.parametrizations.weight[own]  # type: ignore[index, union-attr]
        with torch.no_grad():
            quantizer.observe(computed_weight(module, own) if own else originals(module)[0])


def _quantize_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer = module.input_quantizer
    assert isinstance(quantizer, nn.Module)  # noqa: S101
    return (quantize(quantizer, args[0], module.training), *args[1:])


def _pass_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    after = module.output_module
    assert isinstance(after, nn.Module)  # noqa: S101
    passed: Tensor = after(output)
    return passed

"""Attach, harden and remove the quantizers of a method.

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
from qbench.quant.coverage import Coverage, Promise, coverage_of
from qbench.quant.exchange.modules import exchange, restore
from qbench.quant.exchange.transposed import TRANSPOSED
from qbench.quant.layers import (
    attention_places,
    check_shared_weights,
    declare_levels,
    layer_weight,
    quantizable_layers,
    rename_layers,
    select_layers,
)
from qbench.quant.loading import accept_float_states
from qbench.quant.options import build_method
from qbench.quant.parametrizations import computed_weight, originals, parametrization_count
from qbench.quant.placement.find import FoundPlaces, find_places
from qbench.quant.placement.insert import Insertion, quantize
from qbench.quant.placement.plan import Arrival
from qbench.quant.placement.sites import Point
from qbench.quant.state import ATTACHED, check_attachable, check_finite, check_selection
from qbench.spec.bits import FULL_PRECISION, BitWidths
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
    model = prepare(model, method, widths, layers)
    if state_dict is not None:
        model.load_state_dict(state_dict)
        check_finite(model)
    if not widths.is_float:
        check_selection(model, method.layers)
    check_shared_weights(model, method.layers)
    handle = Handle(model, method)
    handle._promise = _promise(model, method.layers, layers, widths)
    batches = handle._remembered(
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
    try:
        for layer in method.layers:
            handle._training_hooks.append(accept_float_states(layer.module))
            handle._attach_weight(layer)
            if layer in inputs:
                handle._attach_input(layer, samples[layer.name])
            handle._attach_output(layer)
        for place in inside:
            handle._training_hooks.append(accept_float_states(place.module))
            handle._attach_input(place, samples[place.name])
        check_signed(model, method)
        handle._attach_places(found, samples)
        if isinstance(kept, list):
            with evaluation_mode(model):
                method.calibrate(model, kept)
    except BaseException:
        handle.remove()
        raise
    return handle


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


class Handle:
    """Attached method: drives it during training and hardens the model afterwards.

    Attributes:
        model: The model with quantizers. It is the one given to `attach`, unless the method
            replaced it.
        method: The method.
        layers: The quantized layers.
        places: All that has an activation quantizer.
        arrivals: Additions and poolings at which quantized values arrive.
    """

    def __init__(self, model: nn.Module, method: Method) -> None:
        self.model = model
        self.method = method
        self.arrivals: tuple[Arrival, ...] = ()
        self._insertion: Insertion | None = None
        self._seats: dict[Layer, list[tuple[nn.Module, str]]] = {}  # of activation quantizers
        self._promise = Promise(FULL_PRECISION)
        self._example: Any = None
        self._hardened: list[Layer] = []
        self._step = self._steps = 0
        self._training_hooks: list[RemovableHandle] = []  # of layers and optimizers
        self._layer_hooks: list[RemovableHandle] = []

    @property
    def layers(self) -> list[Layer]:
        """The quantized layers, in the order of the model."""
        return self.method.layers

    @property
    def places(self) -> list[Layer]:
        """All that has an activation quantizer: layers at their own input, then places between."""
        return self.method.places

    @property
    def quantizers(self) -> list[nn.Module]:
        """The attached quantizers, each once, in the order of the model."""
        every = (*self.layers, *self._between)
        pairs = ((each.weight_quantizer, each.activation_quantizer) for each in every)
        return list(dict.fromkeys(q for pair in pairs for q in pair if q is not None))

    def coverage(self, batch: Any = None) -> Coverage:
        """Measure which share of the weights and the multiply-adds is quantized.

        Args:
            batch: Inputs of the model; two images are enough. By default, images of the calibration
                data.

        Returns:
            The coverage of what runs in evaluation. It names the parameters that enter a matrix
            product or a convolution and are not quantized.

        Raises:
            QbenchError: There is neither a batch nor calibration data.

        Example:
            >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
            >>> found = attach(model, "twn", bits="2/32").coverage(torch.zeros(1, 8))
            >>> [(each.parameter, each.why) for each in found.left_out]
            [('0.weight', 'the layer policy leaves it out'), ('2.weight', 'the layer policy leaves it out')]
        """  # noqa: E501
        inputs = self._example if batch is None else batch
        if inputs is None:
            raise QbenchError(
                "coverage needs inputs, and no calibration data were given: pass a batch"
            )
        return coverage_of(
            self.model, inputs, self.layers, self.quantizers, self._hardened, self._promise
        )

    def _remembered(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches, and keep two images of the first one."""
        for batch in batches:
            if self._example is None and isinstance(batch, Tensor | list):
                self._example = batch[:2].clone() if isinstance(batch, Tensor) else batch[:2]
            yield batch

    def attach_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Run the hooks of the method around every step of an optimizer.

        Before a step, gradients have been computed and clipped. After it, the next step of the
        epoch starts.

        Args:
            optimizer: Optimizer over the groups of `parameter_groups`.
        """
        for layer in (*self.layers, *self._between):
            layer.optimizer = optimizer
        self._training_hooks += [
            optimizer.register_step_pre_hook(self._before_optimizer_step),
            optimizer.register_step_post_hook(self._after_optimizer_step),
        ]

    @torch.no_grad()
    def on_epoch_start(self, epoch: int, epochs: int, steps: int) -> None:
        """Call at the start of an epoch.

        Args:
            epoch: Number of the epoch, from 1.
            epochs: Number of epochs.
            steps: Number of optimizer steps in the epoch.

        Raises:
            ValueError: The epoch is not from 1 to ``epochs``.
        """
        if not 1 <= epoch <= epochs:
            raise ValueError(f"epoch {epoch} of {epochs}: epochs are numbered from 1")
        self.method.on_epoch_start(epoch, epochs)
        for quantizer, layer in self._with_hooks():
            quantizer.on_epoch_start(layer, epoch, epochs)
        self._step, self._steps = 0, steps
        self._start_step()

    def regularization_loss(self) -> Tensor:
        """Return the scalar that the method adds to the loss, zero for most methods."""
        found = [self.method.regularization_loss()]
        found += [q.regularization_loss(layer) for q, layer in self._with_hooks()]
        losses = [loss for loss in found if loss is not None]
        return torch.stack(losses).sum() if losses else torch.zeros(())

    def _start_step(self) -> None:
        if self._step < self._steps:
            self._step += 1
            self.method.on_step_start(self._step, self._steps)
            for quantizer, layer in self._with_hooks():
                quantizer.on_step_start(layer, self._step, self._steps)

    @torch.no_grad()
    def _before_optimizer_step(self, *_: Any) -> None:
        self.method.before_optimizer_step()
        for quantizer, layer in self._with_hooks():
            quantizer.before_optimizer_step(layer)

    @torch.no_grad()
    def _after_optimizer_step(self, *_: Any) -> None:
        self.method.after_optimizer_step()
        for quantizer, layer in self._with_hooks():
            quantizer.after_optimizer_step(layer)
        self._start_step()

    def _with_hooks(self) -> Iterator[tuple[Quantizer, Layer]]:
        """Yield the quantizers with hooks, once for each weight and each input they quantize."""
        weights = set()
        for layer in self.layers:
            original = originals(layer.module)[0]
            if isinstance(layer.weight_quantizer, Quantizer) and original not in weights:
                weights.add(original)
                with layer.latent_weight_may_change():
                    yield layer.weight_quantizer, layer
            if isinstance(layer.activation_quantizer, Quantizer):
                yield layer.activation_quantizer, layer
        for place in self._between:
            if isinstance(place.activation_quantizer, Quantizer):
                yield place.activation_quantizer, place

    @property
    def _between(self) -> list[Place]:
        return [place for place in self.places if isinstance(place, Place)]

    def parameter_groups(
        self, lr: float, weight_decay: float, other_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Group the parameters for a ``torch.optim`` optimizer: the network, then the quantizers.

        Args:
            lr: Learning rate of the network, and of the quantizers unless the method sets another.
            weight_decay: Weight decay of the network. The method decides for its quantizers.
            other_lr: Learning rate of the network except the weights and biases of quantized
                layers. None: ``lr``.

        Returns:
            Parameter groups as ``torch.optim`` takes them, each parameter once.
        """
        outputs = (getattr(layer.module, "output_module", None) for layer in self.layers)
        attached = (*self.quantizers, *(module for module in outputs if module is not None))
        own_of = (p for module in attached for p in module.parameters() if p.requires_grad)
        learned = list(dict.fromkeys(own_of))
        own = set(learned)
        network = [p for p in self.model.parameters() if p.requires_grad and p not in own]
        groups: list[dict[str, Any]] = [{"params": network, "weight_decay": weight_decay}]
        if other_lr is not None:
            of_layers = {p for m in self.layers for p in m.module.parameters()} - own
            both = [(p in of_layers, p) for p in network]
            groups = [
                {"params": [p for quantized, p in both if quantized], "lr": lr},
                {"params": [p for quantized, p in both if not quantized], "lr": other_lr},
            ]
            groups = [group | {"weight_decay": weight_decay} for group in groups]
        if learned:
            groups += [{"lr": lr, **group} for group in self.method.parameter_groups(learned, lr)]
        return groups

    def harden(self) -> nn.Module:
        """Make quantization final, in place.

        Every ``layer.weight`` becomes a plain parameter that holds only quantized values, and every
        input quantizer stays in its hard form whatever ``train()`` says.

        Returns:
            The model.
        """
        values: dict[nn.Parameter, Tensor] = {}
        quantized = [layer for layer in self.layers if layer.weight_quantizer is not None]
        for layer in quantized:
            layer.weight_quantizer.eval()  # type: ignore[union-attr]
            values.setdefault(originals(layer.module)[0], layer_weight(layer).detach().clone())
        self._hardened += quantized
        hardened = [(layer.module, values[originals(layer.module)[0]]) for layer in quantized]
        self._release_weights(keep_own=False)
        with torch.no_grad():
            for module, value in hardened:
                originals(module)[0].copy_(value)
        for place in self.places:
            if not isinstance(place.activation_quantizer, Hardened | None):
                place.activation_quantizer = Hardened(place.activation_quantizer)
                for module, name in self._seats[place]:
                    setattr(module, name, place.activation_quantizer)
        for layer in quantized:
            if isinstance(layer.module, TRANSPOSED):
                layer.module.restore()
        return self.model

    def remove(self) -> nn.Module:
        """Remove the quantizers and restore the latent weights.

        Returns:
            The model.
        """
        self._release_weights()
        for hook in self._layer_hooks:
            hook.remove()
        if self._insertion is not None:
            self._insertion.remove()
            self._insertion = None
        for place in self.places:
            if "input_quantizer" in place.module._modules:
                del place.module.input_quantizer
            place.activation_quantizer = None
        self.method.places = []
        for layer in self.layers:
            if hasattr(layer.module, "output_module"):
                del layer.module.output_module
        restore(self.model)
        return self.model

    def _release_weights(self, keep_own: bool = True) -> None:
        """Remove the weight quantizers and what drives them, and leave the latent weights.

        Args:
            keep_own: Whether to keep the parametrizations that layers have of their own.
        """
        for hook in self._training_hooks:
            hook.remove()
        for layer in self.layers:
            if layer.weight_quantizer is None:
                continue
            own = layer.own_parametrizations
            if own and keep_own:
                del layer.module.parametrizations.weight[-1]  # type: ignore[operator, union-attr]
            else:
                _own_class(layer.module)
                parametrize.remove_parametrizations(layer.module, "weight", own > 0)
                if "weight" in layer.module._buffers:  # if its computation passes no gradient
                    weight = layer.module._buffers.pop("weight")
                    layer.module.weight = nn.Parameter(weight)  # type: ignore[arg-type]
            layer.weight_quantizer = None

    def _attach_weight(self, layer: Layer) -> None:
        if layer.weight_bits.is_float:
            return
        weight = layer.latent_weight
        for other in self.layers:  # one quantizer for a weight that layers share
            shared = originals(other.module)[0] is originals(layer.module)[0]
            if other.weight_quantizer is not None and shared:
                layer.weight_quantizer = other.weight_quantizer
                parametrize.register_parametrization(layer.module, "weight", other.weight_quantizer)
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
        if _observes(quantizer):
            hook = layer.module.register_forward_hook(_observe_weight)
            self._training_hooks.append(hook)

    def _attach_input(self, layer: Layer, sample: Tensor) -> None:
        quantizer = self._build_activation_quantizer(layer, sample)
        if quantizer is not None:
            layer.module.input_quantizer = quantizer
            self._seats[layer] = [(layer.module, "input_quantizer")]
            self._layer_hooks.append(layer.module.register_forward_pre_hook(_quantize_input))

    def _attach_places(self, found: FoundPlaces, samples: Mapping[str, Tensor]) -> None:
        quantizers: dict[Point, nn.Module] = {}
        for place, points in zip(found.places, found.points_of, strict=True):
            sample = join_samples([samples[point.name] for point in points])
            quantizer = self._build_activation_quantizer(place, sample)
            if quantizer is not None:
                quantizers |= dict.fromkeys(points, quantizer)
        if not quantizers:
            return
        self._insertion = Insertion(self.model, found.sites, quantizers)
        for place, points in zip(found.places, found.points_of, strict=True):
            if place.activation_quantizer is not None:
                self._seats[place] = [self._insertion.seats[point] for point in points]
                place.module = self._insertion.holders[points[0]]
        for module in dict.fromkeys(self._insertion.holders.values()):
            self._training_hooks.append(accept_float_states(module))
        names = {place.name for place in found.places if place.activation_quantizer is not None}
        self.arrivals = tuple(each for each in found.arrivals if each.place in names)

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
            layer.module.output_module = module.to(next(layer.module.parameters()).device)
            self._layer_hooks.append(layer.module.register_forward_hook(_pass_output))


class Hardened(nn.Module):
    """Activation quantizer that stays in its hard form: ``train()`` does not soften it.

    Args:
        quantizer: The quantizer to wrap.
    """

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer
        setattr(self, ATTACHED, True)
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return self.quantizer(x)

    def train(self, mode: bool = True) -> Hardened:
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)


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


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    Copies of a parametrized module share the class that holds its ``weight`` property, and removing
    the parametrization from one takes the property from all.
    """
    shared = type(module)
    members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)


def _observes(quantizer: nn.Module) -> bool:
    return isinstance(quantizer, Quantizer) and type(quantizer).observe is not Quantizer.observe


# Hooks are functions of this module, not closures, so that a model with them can be pickled.


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

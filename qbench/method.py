"""The plugin interface: what a quantization method tells qbench.

A method is one class in one file. It declares its levels and builds its quantizers::

    import torch
    from qbench.functional import round_ste
    from qbench.method import Integers, Layer, Method, Quantizer

    class Halves(Method):
        '''Weights rounded to halves.'''

        title = "Halves"
        weights = Integers(bits=(8,), scales=0)
        step: float = 0.5  # an option: `halves: {step: 0.25}` in a suite

        def weight_quantizer(self, layer: Layer, weight: torch.Tensor) -> Quantizer:
            return RoundTo(self.step)

Annotated attributes are options: they are checked, recorded, and part of a trial's key. A quantizer
is any ``nn.Module`` from a tensor to a tensor of the same shape; ``training`` selects the form used
in training or the hard form used in evaluation. It is built from the tensor it will quantize, so
its constructor is its initialisation. State that moves during training, and what happens around an
optimizer step, belongs to the quantizer that holds the state: see `Quantizer`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, dataclass_transform

import pydantic
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from qbench.libraries import Library
from qbench.quant.parametrizations import (
    assign_weight,
    computed_weight,
    originals,
    parametrization_count,
)
from qbench.spec.bits import BitWidth, BitWidths
from qbench.spec.granularity import (
    Granularity,
    GranularityOption,
    PerChannel,
    PerGroup,
    PerTensor,
    ScopeOption,
)
from qbench.spec.levels import (
    Binary,
    BinaryBases,
    Fixed,
    Integers,
    Learned,
    Levels,
    Named,
    PowersOfTwo,
    SumsOfPowersOfTwo,
    Ternary,
    Uniform,
    describe_levels,
)
from qbench.spec.names import snake_case
from qbench.spec.placement import LAYER_INPUTS, PLACEMENTS, Placement
from qbench.spec.recipe import Recipe, Teacher
from qbench.spec.tunable import Tunable

_OPTIONS = ConfigDict(
    extra="forbid", validate_default=True, allow_inf_nan=False, arbitrary_types_allowed=True
)


@dataclass(eq=False)
class Layer:
    """One quantized layer, as a method sees it.

    Attributes:
        name: Name of the layer in the model, as in ``named_modules()``.
        module: The ``nn.Conv2d`` or ``nn.Linear``.
        weight_bits: Bit-width of the weight. If full precision, the weight is not quantized.
        activation_bits: Bit-width of the input. If full precision, the input is not quantized.
        weight_levels: Declared levels of the weight at its bit-width. None if it is not quantized.
        activation_levels: Declared levels of the input. None if it is not quantized.
        weight_quantizer: Quantizer of the weight, once attached. Layers that share a weight share
            its quantizer.
        activation_quantizer: Quantizer of the input, once attached.
        clipped_share: Share of the calibration inputs that are negative, if the quantizer treats
            negative values as zero or shifts them to levels of which none is negative; else 0.
        optimizer: Optimizer that trains the model, once it is attached. Its type tells a method
            whose authors scale gradients for SGD in another way than for Adam.

    Example:
        >>> layer = Layer("fc", nn.Linear(4, 2), BitWidth.parse("2"), BitWidth.parse("32"))
        >>> layer.weight_bits.count, layer.activation_bits.is_float
        (4, True)
    """

    name: str
    module: nn.Module
    weight_bits: BitWidth
    activation_bits: BitWidth
    weight_levels: Levels | None = None
    activation_levels: Levels | None = None
    weight_quantizer: nn.Module | None = field(default=None, repr=False)
    activation_quantizer: nn.Module | None = field(default=None, repr=False)
    clipped_share: float = 0.0
    optimizer: torch.optim.Optimizer | None = field(default=None, init=False, repr=False)
    _latent: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def latent_weight(self) -> Tensor:
        """The full-precision weight that is quantized, shape as ``module.weight``.

        It is the parameter that training updates. If the layer has a parametrization of its own,
        such as weight normalization, it is what that computes. A hook of a quantizer may change it
        in place; the change is then assigned through the parametrization.
        """
        if self.own_parametrizations == 0:
            return originals(self.module)[0]
        if self._latent is not None:
            return self._latent
        return computed_weight(self.module, self.own_parametrizations)

    @property
    def weight_parameters(self) -> list[nn.Parameter]:
        """Parameters that `latent_weight` is computed from: itself, if nothing computes it."""
        return originals(self.module)

    @property
    def own_parametrizations(self) -> int:
        """Number of parametrizations that the weight had before a quantizer was attached."""
        return parametrization_count(self.module) - (self.weight_quantizer is not None)

    @contextmanager
    def latent_weight_may_change(self) -> Iterator[None]:
        """Context manager in which changes of `latent_weight` are kept."""
        if self.own_parametrizations == 0:
            yield
            return
        self._latent = computed_weight(self.module, self.own_parametrizations)
        before = self._latent.detach().clone()
        try:
            yield
        finally:
            after, self._latent = self._latent.detach(), None
        if not torch.equal(before, after):
            assign_weight(self.module, self.own_parametrizations, after)


PlaceKind = Literal["activation", "pool_output", "add_input", "add_output", "attention"]


@dataclass(eq=False)
class Place(Layer):
    """Place between layers whose values are quantized, as a method sees it.

    It has the attributes of a `Layer` without a quantized weight. So a method builds the quantizer
    of a place as it builds that of a layer's input, unless it asks for more.

    Attributes:
        module: The module that the quantizer is a submodule of, such as the ``nn.ReLU``.
        kind: What is quantized: the output of an activation, of a max-pooling or of an addition, an
            input of an addition, or a tensor inside of attention.
        consumers: Names of the quantized layers, additions and poolings that receive the values.

    Example:
        >>> two, full = BitWidth.parse("2"), BitWidth.parse("32")
        >>> place = Place("relu:0", nn.ReLU(), full, two, kind="activation", consumers=("fc",))
        >>> place.activation_bits.count, place.consumers
        (4, ('fc',))
    """

    kind: PlaceKind = "activation"
    consumers: tuple[str, ...] = ()


class Quantizer(nn.Module):
    """Base class of quantizers that do more than quantize.

    A quantizer that has no hooks can be any ``nn.Module``. ``forward`` must be a pure function of
    its input and the module's state: a layer's weight is quantized again every time it is read.
    What changes over time changes in the hooks below. All but `regularization_loss` run without
    autograd. A hook of a quantizer that several layers share is called for each of them.

    Example:
        >>> import torch
        >>> class RunningMaximum(Quantizer):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("largest", torch.zeros(()))
        ...     def forward(self, x):
        ...         return x.clamp(-self.largest, self.largest)
        ...     def observe(self, x):
        ...         self.largest.copy_(torch.maximum(self.largest, x.abs().max()))
        >>> quantizer = RunningMaximum()
        >>> quantizer.observe(torch.tensor([0.5, -2.0]))
        >>> quantizer(torch.tensor([3.0, -1.0])).tolist()
        [2.0, -1.0]
    """

    def observe(self, x: Tensor) -> None:
        """Update running state from the tensor that was just quantized.

        Called once per training forward pass of the layer, after `forward`.

        Args:
            x: The full-precision tensor: the latent weight, or the input of the layer.
        """

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Set what changes by epoch: a temperature, a partition, a phase.

        Args:
            layer: The layer that is quantized; ``layer.latent_weight`` is its weight.
            epoch: Number of the epoch that starts, from 1.
            epochs: Number of epochs.
        """

    def on_step_start(self, layer: Layer, step: int, steps: int) -> None:
        """Set what changes by step.

        Args:
            layer: The layer that is quantized.
            step: Number of the step that starts, from 1 in every epoch.
            steps: Number of steps of the epoch.
        """

    def before_optimizer_step(self, layer: Layer) -> None:
        """Change gradients, which are already clipped, or the latent weight before a step.

        Args:
            layer: The layer that is quantized.
        """

    def after_optimizer_step(self, layer: Layer) -> None:
        """Change the latent weight, or the quantizer's own parameters, after a step.

        Args:
            layer: The layer that is quantized.
        """

    def regularization_loss(self, layer: Layer) -> Tensor | None:
        """Return a scalar to add to the loss, or None.

        Args:
            layer: The layer that is quantized.
        """
        return None


_UNDECLARED = "it declares no levels, as in `weights = Integers()`"


@dataclass_transform(kw_only_default=True)
class Method:
    """Base class of quantization methods. A subclass overrides the hooks that it needs.

    Class attributes:
        title: Name of the method in tables.
        paper: Its source, as ``Authors, venue year, arXiv:number``.
        trains: Whether it trains. A post-training method is attached, calibrated and evaluated.
        soft: Whether its quantizers have a soft form in training that approaches the hard one. Both
            are then evaluated after every epoch.
        elementwise: Whether the quantized value of a weight depends only on its own value and on
            what the weights of the layer share. The function can then be drawn.
        paper_recipe: Training recipe of its paper, for ``recipe: paper``; None if it has none. See
            also `paper_recipe_for`.
        paper_layers: Layer policy of its paper, for ``recipe: paper``.
        paper_options: Options of its paper where they are not the defaults, for ``recipe: paper``.
            Those that a suite sets take precedence.
        library: Library that it wraps, if any. Without it, the method supports no bit-widths.
        revision: Number of the method's arithmetic, from 1. Raise it when the method's numbers
            change: results of an older revision are stale.
        later_options: Options that were added after the first results were recorded. At its
            default such an option is left out of a trial's key, so that old results stay known.
        placement: Where quantizers of activations sit unless a trial says otherwise:
            ``layer_inputs`` (default), at the inputs of the quantized layers; ``after_activation``,
            behind each ReLU; or ``after_activation_and_add``.
        replaces_activations: Whether a quantizer that would be behind a ReLU takes its place. It
            receives what the ReLU would, so that its gradient also reaches negative values.
        keeps_weights: Whether weights of the unchanged network fit the one that `prepare` returns,
            because every parameter and the order of blocks stay as they are. Otherwise trials start
            from a changed network that is trained in full precision.
        networks: Models that the method quantizes in place of others: registered names, by the
            names that suites give. Declare a network that `prepare` cannot make, since trained
            weights would not fit it: the pre-activation ResNet for ``resnet18``, say. Its trials
            build that network, and start from it at full precision. See also `network_for`.

    Attributes:
        layers: The quantized layers, once attached.
        places: All that has an activation quantizer, once attached: layers with one at their own
            input, then places between layers.

    Annotated attributes of a subclass are its options. They become keyword arguments, which are
    checked: a bound goes with the type, as in ``Annotated[float, Field(ge=0, lt=1)]``. What types
    cannot say, ``__post_init__`` checks; it raises a ValueError.

    Raises:
        TypeError: The class has a `paper_recipe` that is no `Recipe`, or declares levels that are
            no `Levels`.
        pydantic.ValidationError: An instance is given an unknown option, or a value that its type
            or its bounds do not allow.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    trains: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    paper_recipe: ClassVar[Recipe | None] = None
    paper_layers: ClassVar[str] = "skip_first_last"
    paper_options: ClassVar[Mapping[str, Any]] = {}
    library: ClassVar[Library | None] = None
    revision: ClassVar[int] = 1
    later_options: ClassVar[frozenset[str]] = frozenset()
    keeps_weights: ClassVar[bool] = False
    placement: ClassVar[Placement] = LAYER_INPUTS
    replaces_activations: ClassVar[bool] = False
    networks: ClassVar[Mapping[str, str]] = MappingProxyType({})

    layers: list[Layer]
    places: list[Layer]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__dict__.get("name") or snake_case(cls.__name__)
        cls.title = cls.__dict__.get("title") or cls.__name__
        given: object = cls.paper_recipe  # the type is what a file says, not what it does
        if not isinstance(given, Recipe | None):
            kind = type(given).__name__
            raise TypeError(f"{cls.__name__}.paper_recipe must be a Recipe, not a {kind}")
        if cls.placement not in PLACEMENTS:
            raise TypeError(
                f"{cls.__name__}.placement must be one of {', '.join(PLACEMENTS)}, not "
                f"{cls.placement!r}"
            )
        for name in ("weights", "activations"):
            declared = cls.__dict__.get(name)
            if name in inspect.get_annotations(cls) or not isinstance(
                declared, Levels | property | None
            ):
                raise TypeError(
                    f"{cls.__name__}.{name} declares the levels of {name}, as in `{name} = "
                    f"Integers()`; it cannot be {declared!r}"
                )
        pydantic.dataclasses.dataclass(kw_only=True, eq=False, config=_OPTIONS)(cls)

    # What a method must answer ---------------------------------------------------------------

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module | None:
        """Build the quantizer of one layer's weight.

        Args:
            layer: The layer. ``layer.weight_bits`` is the bit-width to quantize to.
            weight: Its full-precision weight, (out, in, kh, kw) or (out, in), detached. Initialise
                the quantizer from it.

        Returns:
            A module from the latent weight to the quantized weight, of the same shape and dtype, or
            None to leave the weight at full precision.
        """
        return None

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module | None:
        """Build the quantizer of one layer's input, or of one place between layers.

        Args:
            layer: The layer, or a `Place` unless the placement is ``layer_inputs``.
                ``layer.activation_bits`` is the bit-width to quantize to.
            sample: What is quantized, on training data, (images, …), detached. Initialise the
                quantizer from it.

        Returns:
            A module from the input to the quantized input, of the same shape and dtype, or None to
            leave the values at full precision.
        """
        return None

    def output_module(self, layer: Layer) -> nn.Module | None:
        """Build a module that every output of a layer passes through.

        It serves what concerns neither weight nor input, such as a scale of the output.

        Args:
            layer: A layer with a quantized weight or input.

        Returns:
            A module from the output to one of the same shape and dtype, or None.
        """
        return None

    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Calibrate the quantizers once all are attached, if constructors cannot.

        Args:
            model: The model with its quantizers, in evaluation mode.
            batches: Inputs of the model, from training data.
        """

    # What it promises ------------------------------------------------------------------------

    @property
    def weights(self) -> Levels | None:
        """Declared levels of weights, usually a class attribute. None: weights stay float."""
        return None

    @property
    def activations(self) -> Levels | None:
        """Declared levels of activations, as `weights`. None: activations stay float."""
        return None

    @property
    def granularity(self) -> Granularity | None:
        """Granularity of weights that overrides the declared one, as an option does; or None."""
        return None

    @property
    def lr_factor(self) -> float:
        """Learning rate of quantizers divided by that of the network. Default: 1. Or an option."""
        return 1.0

    def supports(self, bits: BitWidths, task: str) -> str | None:
        """Return why the method does not support bit-widths, or None if it does.

        By default that follows from `library`, `weights` and `activations`. An override adds what
        they cannot say, and calls this one first.

        Args:
            bits: Bit-widths of weights and activations.
            task: ``'classification'`` or ``'detection'``.

        Returns:
            A reason as short as a footnote, which tables print beside a dash; None if supported.
        """
        if self.library is not None and (problem := self.library.problem()):
            return problem
        for levels, other, width, tensors in (
            (self.weights, self.activations, bits.weights, "weights"),
            (self.activations, self.weights, bits.activations, "activations"),
        ):
            if levels is None and not width.is_float:
                only = {"weights": "activations", "activations": "weights"}[tensors]
                return _UNDECLARED if other is None else f"it quantizes {only} only"
            if levels is not None and (reason := levels.refusal(width, tensors)):
                return reason
        return None

    def paper_recipe_for(self, bits: BitWidths) -> Recipe | None:
        """Return the training recipe of the method's paper for bit-widths, for ``recipe: paper``.

        Override it if the recipe depends on the bit-widths or on options.

        Args:
            bits: Bit-widths of weights and activations.

        Returns:
            The recipe, by default `paper_recipe`; None if the paper has none.
        """
        return self.paper_recipe

    def network_for(self, model: str, bits: BitWidths) -> str:
        """Return the name of the model that the method quantizes in place of one.

        Override it if the network depends on the bit-widths or on options.

        Args:
            model: Name of the model, as in a suite.
            bits: Bit-widths of weights and activations.

        Returns:
            The name of a registered model, by default that of `networks`; `model` if there is none.
        """
        return self.networks.get(model, model)

    def network_departure(self, model: str, bits: BitWidths) -> str:
        """Return how the network of a model departs from the one that the authors trained.

        Published numbers of another network get no verdict.

        Args:
            model: Name of the model, as in a suite.
            bits: Bit-widths of weights and activations.

        Returns:
            A reason as short as a footnote; empty, as by default, if it is the authors' network.
        """
        return ""

    def describe(self) -> str:
        """Describe what the method quantizes, from its declared levels."""
        pairs = (("weights", self.weights), ("activations", self.activations))
        found = (f"{name}: {text}" for name, each in pairs if (text := describe_levels(each)))
        return "; ".join(found)

    # Over time: what spans layers; what concerns one quantizer belongs to it ------------------

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Set what changes by epoch. Runs before the hooks of quantizers, as all of these do.

        Args:
            epoch: Number of the epoch that starts, from 1.
            epochs: Number of epochs.
        """

    def on_step_start(self, step: int, steps: int) -> None:
        """Set what changes by step.

        Args:
            step: Number of the step that starts, from 1 in every epoch.
            steps: Number of steps of the epoch.
        """

    def before_optimizer_step(self) -> None:
        """Change the clipped gradients before an optimizer step, outside autograd."""

    def after_optimizer_step(self) -> None:
        """Change the latent weights after an optimizer step, outside autograd."""

    def regularization_loss(self) -> Tensor | None:
        """Return a scalar to add to the loss, or None."""
        return None

    # Around the model ------------------------------------------------------------------------

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Change the model before quantizers are attached: its block order, its activations.

        A trial that starts from pretrained weights starts from those of the changed model: a
        full-precision trial calls this hook too, and trains what it returns. See `keeps_weights`.

        Args:
            model: The full-precision model. It may be changed in place.
            bits: Bit-widths of weights and activations.

        Returns:
            The model to quantize.
        """
        return model

    def parameter_groups(
        self, parameters: list[nn.Parameter], lr: float
    ) -> Iterable[dict[str, Any]]:
        """Group the parameters of a method (step sizes, scales) for the optimizer.

        Args:
            parameters: The parameters of all attached quantizers and output modules, each once.
            lr: Learning rate of the recipe.

        Returns:
            Parameter groups as ``torch.optim`` takes them. By default there is one, with a learning
            rate of `lr_factor` × ``lr`` and without weight decay: a scale has no reason to shrink
            to zero.
        """
        return [{"params": parameters, "weight_decay": 0.0, "lr": lr * self.lr_factor}]


__all__ = [
    "Binary",
    "BinaryBases",
    "BitWidth",
    "BitWidths",
    "Field",
    "Fixed",
    "Granularity",
    "GranularityOption",
    "Integers",
    "Layer",
    "Learned",
    "Levels",
    "Library",
    "Method",
    "Named",
    "PerChannel",
    "PerGroup",
    "PerTensor",
    "Place",
    "PlaceKind",
    "PowersOfTwo",
    "Quantizer",
    "Recipe",
    "ScopeOption",
    "SumsOfPowersOfTwo",
    "Teacher",
    "Ternary",
    "Tunable",
    "Uniform",
]

"""Drive the quantizers of a method during training, harden them, and remove them.

`qbench.quant.attach` puts them on a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from qbench.errors import QbenchError
from qbench.method import Layer, Method, Place, Quantizer
from qbench.quant.coverage import Coverage, Promise, coverage_of
from qbench.quant.exchange.modules import restore
from qbench.quant.exchange.transposed import TRANSPOSED
from qbench.quant.layers import layer_weight
from qbench.quant.parametrizations import originals
from qbench.quant.placement.insert import Insertion
from qbench.quant.placement.plan import Arrival
from qbench.quant.state import ATTACHED


@dataclass
class Attached:
    """What `attach` adds to a model, apart from what the layers of the method hold.

    Attributes:
        promise: What the layer policy promises to quantize.
        example: Inputs of the model, from the calibration data; None if there were none.
        seats: By place, the modules that its activation quantizer is a submodule of, and its name.
        insertion: Quantizers between layers, if there are any.
        arrivals: Additions and poolings at which quantized values arrive.
        training_hooks: Hooks of layers and optimizers that are removed when quantization is final.
        layer_hooks: Hooks that quantize inputs and pass outputs on.
    """

    promise: Promise
    example: Any = None
    seats: dict[Layer, list[tuple[nn.Module, str]]] = field(default_factory=dict)
    insertion: Insertion | None = None
    arrivals: tuple[Arrival, ...] = ()
    training_hooks: list[RemovableHandle] = field(default_factory=list)
    layer_hooks: list[RemovableHandle] = field(default_factory=list)


class Handle:
    """Attached method: drives it during training and hardens the model afterwards.

    Args:
        model: The model with quantizers.
        method: The method.
        attached: What is attached to the model.

    Attributes:
        model: The model with quantizers. It is the one given to `attach`, unless the method
            replaced it.
        method: The method.
    """

    def __init__(self, model: nn.Module, method: Method, attached: Attached) -> None:
        self.model = model
        self.method = method
        self._attached = attached
        self._hardened: list[Layer] = []
        self._step = self._steps = 0

    @property
    def layers(self) -> list[Layer]:
        """The quantized layers, in the order of the model."""
        return self.method.layers

    @property
    def places(self) -> list[Layer]:
        """All that has an activation quantizer: layers at their own input, then places between."""
        return self.method.places

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """Additions and poolings at which quantized values arrive."""
        return self._attached.arrivals

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
        inputs = self._attached.example if batch is None else batch
        if inputs is None:
            raise QbenchError(
                "coverage needs inputs, and no calibration data were given: pass a batch"
            )
        return coverage_of(
            self.model, inputs, self.layers, self.quantizers, self._hardened, self._attached.promise
        )

    def attach_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Run the hooks of the method around every step of an optimizer.

        Before a step, gradients have been computed and clipped. After it, the next step of the
        epoch starts.

        Args:
            optimizer: Optimizer over the groups of `parameter_groups`.
        """
        for layer in (*self.layers, *self._between):
            layer.optimizer = optimizer
        self._attached.training_hooks += [
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
    def insertion(self) -> Insertion | None:
        """Quantizers between layers; None if there are none."""
        return self._attached.insertion

    @property
    def hardened_layers(self) -> list[Layer]:
        """Layers whose weights hold quantized values, once the model is hardened."""
        return list(self._hardened)

    @property
    def activation_seats(self) -> dict[Layer, list[tuple[nn.Module, str]]]:
        """Submodules that contain each activation quantizer, with its name there."""
        return {place: list(self._attached.seats[place]) for place in self.places}

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

        Every ``layer.weight`` becomes a plain parameter that holds only quantized values, of which
        none is −0, and every input quantizer stays in its hard form whatever ``train()`` says.

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
                originals(module)[0].copy_(value + 0.0)  # −0 becomes 0
        for place in self.places:
            if not isinstance(place.activation_quantizer, Hardened | None):
                place.activation_quantizer = Hardened(place.activation_quantizer)
                for module, name in self._attached.seats[place]:
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
        for hook in self._attached.layer_hooks:
            hook.remove()
        if self._attached.insertion is not None:
            self._attached.insertion.remove()
            self._attached.insertion = None
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
        for hook in self._attached.training_hooks:
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


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    Copies of a parametrized module share the class that holds its ``weight`` property, and removing
    the parametrization from one takes the property from all.
    """
    shared = type(module)
    members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, members)

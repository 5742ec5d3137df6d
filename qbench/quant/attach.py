"""Put a method's quantizers on a model, harden them, take them off.

A weight quantizer is a ``torch.nn.utils.parametrize`` parametrization of ``layer.weight``; an input
quantizer is a submodule ``layer.input_quantizer`` that a forward pre-hook runs; what a method does
to outputs is a submodule ``layer.output_module`` that a forward hook runs. The model stays the
module it was: ``state_dict``, ``deepcopy``, DDP, ``torch.compile`` and autocast keep working.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from qbench import distributed, registry
from qbench.errors import QbenchError, nearest
from qbench.method import Layer, Method, Quantizer
from qbench.spec.bits import Bits
from qbench.spec.policies import (
    DEFAULT_LAYERS,
    POLICIES,
    LayerPolicy,
    eight_bits,
    policy_widths,
)

QUANTIZABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_SAMPLE_VALUES = 2**22


def attach(
    model: nn.Module,
    method: str | Method,
    *,
    bits: str | Bits,
    calibration: Iterable[Any] = (),
    layers: LayerPolicy = DEFAULT_LAYERS,
    task: str = "classification",
    **options: Any,
) -> Handle:
    """Attach a method's quantizers to a model, in place.

    Args:
        model: any module; its conv and linear layers are quantized.
        method: the name of a method (``qbench list methods``), or one already built.
        bits: widths as ``'3(±4)/2'``: weights / activations.
        calibration: batches of training data from which input quantizers are initialised: tensors,
            or tuples whose first item is the input. Needed where activations are quantized.
        layers: which layers: ``'skip_first_last'`` (all but the first conv and the last layer),
            ``'all'``, ``'first_last_8bit'``, a list of names, or a mapping from names to widths.
        task: what the model does, for methods that support only some.
        options: the method's options, where ``method`` is a name.

    Returns:
        The handle through which training drives the method.

    Raises:
        QbenchError: the method, an option, a layer or the widths are unknown or unsupported.
    """
    if isinstance(method, str):
        method = registry.build_method(method, options)
    elif options:
        raise QbenchError(f"options go with a method's name, not with a {method.title} built")
    try:
        widths = bits if isinstance(bits, Bits) else Bits.parse(bits)
        wanted = policy_widths(layers, widths)
    except ValueError as error:
        raise QbenchError(str(error)) from error
    for each in wanted:
        if reason := method.supports(each, task):
            raise QbenchError(f"{method.name} cannot do {each}: {reason}")

    model = prepare(model, method, widths, layers)
    handle = Handle(model, method)
    batches = (batch[0] if isinstance(batch, list | tuple) else batch for batch in calibration)
    calibrates = type(method).calibrate is not Method.calibrate
    kept = list(batches) if calibrates else batches
    samples = _sample_inputs(model, method.layers, kept)
    try:
        for layer in method.layers:
            handle._attach_weight(layer)
            if not layer.input_bits.is_float:
                handle._attach_input(layer, samples[layer.name])
            handle._attach_output(layer)
        if isinstance(kept, list):
            with _evaluating(model):
                method.calibrate(model, kept)
    except BaseException:
        handle.detach()
        raise
    return handle


def prepare(model: nn.Module, method: Method, bits: Bits, layers: LayerPolicy) -> nn.Module:
    """Change a model as a method asks, and give the method its layers: `attach` begins with it.

    Args:
        model: any module; may be changed in place.
        method: the method; its ``layers`` are set.
        bits: the widths asked for.
        layers: which layers, as in `attach`; names are those of the model that is given.

    Returns:
        The model to quantize.

    Raises:
        QbenchError: a layer or a policy is unknown.
    """
    modules = dict(model.named_modules())
    prepared = method.prepare(model, bits)
    method.layers = select_layers(prepared, _followed(layers, modules, prepared), bits)
    return prepared


class Handle:
    """What `attach` returns: drives a method during training and hardens it afterwards.

    Attributes:
        model: the model with quantizers; the one given to `attach` unless the method replaced it.
        method: the method.
        layers: the quantized layers.
    """

    def __init__(self, model: nn.Module, method: Method) -> None:
        self.model = model
        self.method = method
        self._update_hooks: list[RemovableHandle] = []
        self._layer_hooks: list[RemovableHandle] = []

    @property
    def layers(self) -> list[Layer]:
        """The quantized layers, in the model's order."""
        return self.method.layers

    @property
    def quantizers(self) -> list[nn.Module]:
        """Every quantizer attached, once, in the model's order."""
        pairs = ((layer.weight_quantizer, layer.input_quantizer) for layer in self.layers)
        return list(dict.fromkeys(q for pair in pairs for q in pair if q is not None))

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """Tell the method that an epoch starts.

        Args:
            epoch: counted from 1.
            epochs: how many there will be.
        """
        self.method.on_epoch_start(epoch, epochs)

    def on_step_start(self, step: int, steps: int) -> None:
        """Tell the method that a training step starts.

        Args:
            step: counted from 1 in every epoch.
            steps: how many the epoch has.
        """
        self.method.on_step_start(step, steps)

    def before_step(self) -> None:
        """Tell the method that gradients are there, clipped, and that the optimiser will step."""
        with torch.no_grad():
            self.method.before_step()

    def after_step(self) -> None:
        """Tell the method that the optimiser has stepped."""
        with torch.no_grad():
            self.method.after_step()

    def penalty(self) -> Tensor:
        """The scalar that the method adds to the loss; zero for most."""
        penalty = self.method.penalty()
        return torch.zeros(()) if penalty is None else penalty

    def parameter_groups(
        self, lr: float, weight_decay: float, other_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """Parameters for a ``torch.optim`` optimiser: the network's, then the quantizers'.

        Args:
            lr: learning rate of the network, which quantizers share unless the method says other.
            weight_decay: weight decay of the network; the method decides for its quantizers.
            other_lr: learning rate of all of the network but the quantized layers' weights and
                biases; None: ``lr``.
        """
        own_of = (p for q in self.quantizers for p in q.parameters() if p.requires_grad)
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
        for hook in self._update_hooks:
            hook.remove()
        for layer in self.layers:
            if layer.weight_quantizer is not None:
                layer.weight_quantizer.eval()
                _own_class(layer.module)
                parametrize.remove_parametrizations(layer.module, "weight")
                layer.weight_quantizer = None
            if not isinstance(layer.input_quantizer, Hardened | None):
                layer.input_quantizer = Hardened(layer.input_quantizer)
                layer.module.input_quantizer = layer.input_quantizer
        return self.model

    def detach(self) -> nn.Module:
        """Take the quantizers off again and leave the latent float weights.

        Returns:
            The model.
        """
        for hook in (*self._update_hooks, *self._layer_hooks):
            hook.remove()
        for layer in self.layers:
            if layer.weight_quantizer is not None:
                _own_class(layer.module)
                parametrize.remove_parametrizations(
                    layer.module, "weight", leave_parametrized=False
                )
                layer.weight_quantizer = None
            if layer.input_quantizer is not None:
                del layer.module.input_quantizer
                layer.input_quantizer = None
            if hasattr(layer.module, "output_module"):
                del layer.module.output_module
        return self.model

    def _attach_weight(self, layer: Layer) -> None:
        if layer.weight_bits.is_float:
            return
        weight = layer.module.weight
        assert isinstance(weight, Tensor)  # noqa: S101
        quantizer = self.method.weight_quantizer(layer, weight.detach().clone())
        if quantizer is None:
            return
        quantizer.to(weight.device)
        _check_output(quantizer, weight.detach(), f"{self.method.name}'s weight quantizer", layer)
        parametrize.register_parametrization(layer.module, "weight", quantizer)
        layer.weight_quantizer = quantizer
        if _learns_outside_autograd(quantizer):
            hook = layer.module.register_forward_hook(_update_weight_quantizer)
            self._update_hooks.append(hook)

    def _attach_input(self, layer: Layer, sample: Tensor) -> None:
        quantizer = self.method.input_quantizer(layer, sample)
        if quantizer is None:
            return
        quantizer.to(sample.device)
        _check_output(quantizer, sample[:1], f"{self.method.name}'s input quantizer", layer)
        layer.module.input_quantizer = quantizer
        layer.input_quantizer = quantizer
        self._layer_hooks.append(layer.module.register_forward_pre_hook(_quantize_input))

    def _attach_output(self, layer: Layer) -> None:
        module = self.method.output_module(layer)
        if module is not None:
            layer.module.output_module = module.to(next(layer.module.parameters()).device)
            self._layer_hooks.append(layer.module.register_forward_hook(_pass_output))


class Hardened(nn.Module):
    """An input quantizer that stays in its hard form: ``train()`` does not soften it.

    Args:
        quantizer: the quantizer to hold.
    """

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return self.quantizer(x)

    def train(self, mode: bool = True) -> Hardened:
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)


def select_layers(model: nn.Module, policy: LayerPolicy, bits: Bits) -> list[Layer]:
    """The layers that a policy quantizes, each with its widths.

    Args:
        model: any module.
        policy: as in `attach`.
        bits: the widths where the policy names no other.

    Raises:
        QbenchError: a name in the policy is no layer of the model, or no policy.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, QUANTIZABLE)}
    names = list(found)
    ends = {names[0], names[-1]} if names else set()
    widths: dict[str, Bits]
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise QbenchError(f"'{policy}' is no layer policy{nearest(policy, POLICIES)}")
        widths = {name: bits for name in names if policy != "skip_first_last" or name not in ends}
        if policy == "first_last_8bit":
            widths |= {name: eight_bits(bits) for name in ends}
    elif isinstance(policy, Mapping):
        widths = {name: Bits.parse(text) for name, text in policy.items()}
    else:
        widths = dict.fromkeys(policy, bits)
    for name in widths:
        if name not in found:
            raise QbenchError(
                f"the model has no conv or linear layer '{name}'{nearest(name, names)}"
            )
    return [
        Layer(name, found[name], widths[name].weights, widths[name].activations)
        for name in names
        if name in widths and not widths[name].is_float
    ]


def _followed(
    policy: LayerPolicy, modules: Mapping[str, nn.Module], prepared: nn.Module
) -> LayerPolicy:
    """A policy's names of layers as they are in a model that a method has rearranged."""
    now = {module: name for name, module in prepared.named_modules()}

    def name_of(layer: str) -> str:
        module = modules.get(layer)
        return layer if module is None else now.get(module, layer)

    if isinstance(policy, str):
        return policy
    if isinstance(policy, Mapping):
        return {name_of(name): widths for name, widths in policy.items()}
    return [name_of(name) for name in policy]


def _sample_inputs(
    model: nn.Module, layers: Sequence[Layer], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Inputs of every layer whose input is to be quantized, on the full-precision model."""
    wanted = [layer for layer in layers if not layer.input_bits.is_float]
    if not wanted:
        return {}
    seen: dict[str, list[Tensor]] = {layer.name: [] for layer in wanted}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            room = _SAMPLE_VALUES - sum(t.numel() for t in seen[name])
            x = args[0].detach()
            images = min(len(x), max(0, room) // x[0].numel())
            if images or not seen[name]:
                seen[name].append(x[: max(1, images)].clone())

        return hook

    hooks = [m.module.register_forward_pre_hook(keep(m.name)) for m in wanted]
    try:
        with torch.no_grad(), _evaluating(model):
            for batch in batches:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name, inputs in seen.items():
        if not inputs:
            raise QbenchError(
                f"'{name}' saw no calibration data, and quantizing its input needs some: pass "
                "calibration=batches of training images"
            )
    return {name: torch.cat(inputs) for name, inputs in seen.items()}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Have a model in evaluation mode for a while.

    Batch normalisation that has learned from no data yet, as in a network to be trained from
    scratch, takes each batch's own statistics, as it will in training: 0 and 1, from which running
    ones start, let activations grow or shrink from layer to layer.
    """
    modes = [(module, module.training) for module in model.modules()]
    fresh = [(norm, norm.running_mean, norm.running_var) for norm in _without_statistics(model)]
    model.eval()
    for norm, _, _ in fresh:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, mean, variance in fresh:
            norm.running_mean, norm.running_var = mean, variance
        for module, training in modes:
            module.training = training


def _without_statistics(model: nn.Module) -> list[_BatchNorm]:
    """Normalisations whose running statistics are what they start from."""

    def starts(mean: Tensor | None, variance: Tensor | None) -> bool:
        if mean is None or variance is None:
            return False
        return torch.equal(mean, torch.zeros_like(mean)) and torch.equal(
            variance, torch.ones_like(variance)
        )

    norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [norm for norm in norms if starts(norm.running_mean, norm.running_var)]


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


def _learns_outside_autograd(quantizer: nn.Module) -> bool:
    return isinstance(quantizer, Quantizer) and type(quantizer).update is not Quantizer.update


# Hooks are functions of this module, not closures, so that a model with them can be pickled.


def _update_weight_quantizer(module: nn.Module, args: Any, output: Any) -> None:
    if module.training:
        weight: Any = module.parametrizations.weight  # type: ignore[union-attr]
        with torch.no_grad():
            weight[0].update(weight.original)


def _quantize_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer = module.input_quantizer
    assert isinstance(quantizer, nn.Module)  # noqa: S101
    x = args[0]
    y = quantizer(x)
    if module.training and isinstance(quantizer, Quantizer):
        with torch.no_grad():
            quantizer.update(distributed.gather(x.detach()))
    return (y, *args[1:])


def _pass_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    after = module.output_module
    assert isinstance(after, nn.Module)  # noqa: S101
    passed: Tensor = after(output)
    return passed

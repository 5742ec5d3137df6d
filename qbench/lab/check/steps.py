"""Helpers of the checks: train a model for some steps, read its state, record its tensors."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.lab.check.networks import OUTPUTS, Case, images, seed_cpu
from qbench.quant.handle import Handle
from qbench.quant.hooks import observed
from qbench.train.loop import training_step


def train(handle: Handle, steps: int = 2, first: int = 0) -> torch.optim.Optimizer:
    """Train for some steps, as a trial does.

    Args:
        handle: The attached method.
        steps: Number of steps.
        first: Number of the first step, which seeds its batch.

    Returns:
        The optimiser, to go on with.
    """
    optimizer = optimizer_of(handle)
    take_steps(handle, optimizer, range(first, first + steps))
    return optimizer


def trained(case: Case) -> Handle:
    """Return a deep copy of the method attached to the network and trained for two steps."""

    def make() -> Handle:
        handle = case.attached()
        train(handle)
        return handle

    return case.keep("trained", make)


def optimizer_of(handle: Handle, lr: float = 0.01) -> torch.optim.Optimizer:
    """Build the optimiser that checks train with, SGD with momentum, and attach it."""
    groups = handle.parameter_groups(lr=lr, weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    handle.attach_optimizer(optimizer)
    return optimizer


@torch.enable_grad()
def take_steps(
    handle: Handle,
    optimizer: torch.optim.Optimizer,
    steps: range,
    model: nn.Module | None = None,
) -> None:
    """Take training steps; none if the method does not train.

    Args:
        handle: The attached method.
        optimizer: The optimiser of its parameters.
        steps: Numbers of the steps; each seeds its batch.
        model: What is called in place of ``handle.model``, such as its distributed wrapper.
    """
    if not handle.method.trains:
        return
    model = handle.model if model is None else model
    model.train()
    for step in steps:
        seed_cpu(step)
        loss = functools.partial(_loss, model, images(step))
        training_step(handle, optimizer, loss, gradient_clip=5.0)


def untouched(handle: Handle, x: Tensor) -> str | None:
    """Return the first layer whose latent weight gets no gradient from its own output, or None.

    Only a layer's own output counts: a gradient from further on can end in a ReLU at zero, whatever
    the method does. Layers whose input is quantized to zeros do not count either.
    """
    outputs: dict[str, Tensor] = {}
    alive: set[str] = set()

    def look(name: str, given: Tensor, output: Tensor) -> None:
        outputs[name] = output
        if given.any():
            alive.add(name)

    with observed({layer.name: layer.module for layer in handle.layers}, look):
        output = handle.model(x)
    target = torch.arange(len(x)) % OUTPUTS
    random = torch.Generator().manual_seed(0)
    loss = F.cross_entropy(output, target) + handle.regularization_loss()
    for each in outputs.values():
        loss = loss + (each * torch.randn(each.shape, generator=random)).mean()
    loss.backward()
    for layer in handle.layers:
        gradient = layer.latent_weight.grad
        if gradient is None or (layer.name in alive and not gradient.any()):
            return layer.name
    return None


def _loss(model: nn.Module, x: Tensor) -> Tensor:
    """Return the cross-entropy of a batch ``x``, (n, 3, 6, 6), with fixed labels."""
    return F.cross_entropy(model(x), torch.arange(len(x)) % OUTPUTS)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> str | None:
    """Return the first entry in which two states differ, or None."""
    for name in {**left, **right}:
        if name not in left or name not in right or not equal(left[name], right[name]):
            return name
    return None


def equal(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors have the same shape and values; NaN equals NaN."""
    return left.shape == right.shape and bool(
        ((left == right) | (left.isnan() & right.isnan())).all()
    )


def through_quantizers(handle: Handle, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Run the model and record the input and the output of every activation quantizer.

    Args:
        handle: The attached method.
        x: A batch, (n, 3, 6, 6).

    Returns:
        The pair of tensors of each place, by its name.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, given: Tensor, quantized: Tensor) -> None:
        seen[name] = (given.detach(), quantized.detach())

    quantizers = {
        place.name: place.activation_quantizer
        for place in handle.places
        if place.activation_quantizer is not None
    }
    with observed(quantizers, keep), torch.no_grad():
        handle.model(x)
    return seen

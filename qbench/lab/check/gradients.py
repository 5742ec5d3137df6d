"""The promises about gradients and training."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench.lab.check.networks import EPOCHS_OF_CHECK, STEPS_OF_CHECK, Case, images
from qbench.lab.check.promise import BrokenPromiseError
from qbench.lab.check.steps import equal, state_of, through_quantizers, train, untouched
from qbench.quant.layers import layer_weight

FLOOR = 0.25
"""Least share of values that must have a gradient of their own.

A straight-through gradient reaches every value, and one with a window those inside the window. Half
of what an unsigned quantizer is checked with is negative, and has none. Methods that freeze weights
freeze at most half of them in the first epoch. A value is counted if its gradient follows its own
g rather than those of others, which the gradient of a shared scale does.
"""

_PROBES = 32
_CORRELATION = 0.5


def has_gradients_everywhere(case: Case) -> None:
    """Check that gradients are finite and follow g, for weights and for inputs.

    For random g the gradient of Σ g·q(w) must correlate with g, value by value.
    """
    handle = case.attached()
    handle.model.train()
    if name := untouched(handle, images()):
        raise BrokenPromiseError(
            f"the latent weight of '{name}' gets no gradient: rounding and sign have none, see "
            "qbench.functional.straight_through"
        )
    for name, parameter in handle.model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise BrokenPromiseError(f"the gradient of {name} is not finite")
    for layer in handle.layers:
        if layer.weight_quantizer is not None:
            share = _share(layer.latent_weight, layer_weight(layer))
            _note(case, "weights", share, f"the weights of '{layer.name}'")
    for name, (before, _) in through_quantizers(handle, images()).items():
        quantizer = next(m.activation_quantizer for m in handle.places if m.name == name)
        assert quantizer is not None  # noqa: S101
        shares = []
        drawn = [size * torch.randn(before.shape) for size in (0.1, 1.0, 10.0)]
        for x in (before, *drawn):  # whatever the quantizer's range, some of it is hit
            x.requires_grad_()
            shares.append(_share(x, quantizer(x)))
        if any(share is None for share in shares):
            raise BrokenPromiseError(f"the gradient of the input of '{name}' is not finite")
        _note(case, "inputs", max(s for s in shares if s is not None), f"the inputs of '{name}'")


def _share(x: Tensor, quantized: Tensor) -> float | None:
    """Return the share of values whose gradient follows its own g; None if one is not finite.

    Args:
        x: What is quantized; it requires a gradient.
        quantized: The result, of the same shape.
    """
    if not quantized.requires_grad:
        return 0.0
    generator = torch.Generator().manual_seed(0)
    products, squares = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(_PROBES):
        g = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
        (gradient,) = torch.autograd.grad(
            quantized, x, g, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        if not gradient.isfinite().all():
            return None
        products += g * gradient
        squares += gradient.square()
    correlation = products / (_PROBES * squares).sqrt()  # NaN without any gradient
    return float((correlation > _CORRELATION).float().mean())


def _note(case: Case, kind: str, share: float | None, what: str) -> None:
    """Keep the smallest share, and compare it with the floor.

    Raises:
        BrokenPromiseError: The share is below the floor.
    """
    if share is None:
        raise BrokenPromiseError(f"the gradient of {what} is not finite")
    case.shares[kind] = min(share, case.shares.get(kind, 1.0))
    if share < FLOOR:
        raise BrokenPromiseError(
            f"only {share:.0%} of {what} have a gradient of their own, at least {FLOOR:.0%} "
            "should: for random g, the gradient of Σ g·q does not follow g. Rounding and sign have "
            "no gradient, and that of a scale computed from all values replaces none: see "
            "qbench.functional.straight_through"
        )


def trains(case: Case) -> None:
    """Check that training moves every latent weight and leaves everything finite."""
    handle = case.attached()
    before = [layer.latent_weight.detach().clone() for layer in handle.layers]
    for epoch in range(1, EPOCHS_OF_CHECK + 1):
        handle.on_epoch_start(epoch, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
        train(handle, first=2 * epoch)
    for layer, weight in zip(handle.layers, before, strict=True):
        if equal(layer.latent_weight, weight):
            raise BrokenPromiseError(f"training does not move the latent weight of '{layer.name}'")
    for name, value in state_of(handle.model).items():
        if not value.isfinite().all():
            raise BrokenPromiseError(f"{name} is not finite after training")

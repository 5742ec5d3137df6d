"""The promises about how a model is run: autocast, ``torch.compile``, another device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.lab.check.elsewhere import Elsewhere, elsewhere, send
from qbench.lab.check.networks import Case, images
from qbench.lab.check.promise import BrokenPromiseError
from qbench.lab.check.steps import equal, through_quantizers, untouched
from qbench.method import Quantizer
from qbench.quant.layers import layer_weight


def trains_under_autocast(case: Case) -> None:
    """Check that under bfloat16 autocast gradients exist and are finite."""
    handle = case.attached()
    handle.model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        name = untouched(handle, images())
    if name:
        raise BrokenPromiseError(f"under autocast the latent weight of '{name}' gets no gradient")
    for name, parameter in handle.model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise BrokenPromiseError(f"under autocast the gradient of {name} is not finite")


def evaluates_under_autocast(case: Case) -> None:
    """Check that bfloat16 autocast does not change the quantized weights."""
    handle = case.attached()
    handle.model.eval()
    for layer in handle.layers:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            under = layer_weight(layer).clone()
        if not equal(under, layer_weight(layer).detach()):
            raise BrokenPromiseError(
                f"autocast changes the quantized values of {layer.name}.weight: compute them "
                "without matrix products, or outside autocast"
            )


def compiles(case: Case) -> None:
    """Check that ``torch.compile`` can trace the model and that it computes the same."""
    handle, plain = case.attach(), case.attach()
    torch.compiler.reset()
    compiled = torch.compile(handle.model, backend="eager")
    x = images()
    for training in (True, False):
        handle.model.train(training)
        plain.model.train(training)
        found, expected = compiled(x), plain.model(x)
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5):
            raise BrokenPromiseError("torch.compile changes what it computes")
        if training and handle.method.trains:
            found.square().sum().backward()
            expected.square().sum().backward()
    if not handle.method.trains:
        return
    for mine, its in zip(handle.layers, plain.layers, strict=True):
        left, right = mine.latent_weight.grad, its.latent_weight.grad
        if left is None or right is None or not torch.allclose(left, right, rtol=1e-3, atol=1e-5):
            raise BrokenPromiseError(f"torch.compile changes the gradient of '{mine.name}'")


def runs_on_its_device(case: Case) -> None:
    """Check that quantizers compute where their input is.

    Input, parameters and buffers claim to be on another device; nothing else is.
    """
    handle = case.attached()
    handle.model.train()
    pairs: list[tuple[str, nn.Module, Tensor]] = []
    through = through_quantizers(handle, images(2))
    for layer in handle.layers:
        if layer.weight_quantizer is not None:
            weight = layer.latent_weight.detach()
            pairs.append((f"the weight of '{layer.name}'", layer.weight_quantizer, weight))
    for place in handle.places:
        if place.activation_quantizer is not None:
            x = through[place.name][0]
            pairs.append((f"the input of '{place.name}'", place.activation_quantizer, x))
    send(handle.quantizers)
    for what, quantizer, values in pairs:
        x = Elsewhere(values).requires_grad_()
        with elsewhere():
            for training in (True, False):
                y = quantizer.train(training)(x)
                if not isinstance(y, Elsewhere):
                    raise BrokenPromiseError(
                        f"{what} goes in on the layer's device and comes out on the CPU"
                    )
                if training and y.requires_grad and handle.method.trains:
                    y.sum().backward()
            if isinstance(quantizer, Quantizer):
                with torch.no_grad():
                    quantizer.observe(x.detach())

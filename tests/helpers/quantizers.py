"""Quantizers that methods build, alone or attached to small networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qbench.method import Layer
from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.layers import layer_weight
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidth
from tests.helpers.tensors import Array, normal

FULL_PRECISION = BitWidth(32)


def build_weight_quantizer(name: str, weight: Tensor, bits: str | int, **options: Any) -> nn.Module:
    """Return the quantizer that a method builds for a weight, in training mode."""
    layer = Layer("layer", nn.Identity(), BitWidth.parse(str(bits)), FULL_PRECISION)
    quantizer = build_method(name, options).weight_quantizer(layer, weight)
    assert quantizer is not None
    return quantizer.train()


def build_activation_quantizer(name: str, sample: Tensor, bits: int, **options: Any) -> nn.Module:
    """Return the quantizer that a method builds for an activation, in training mode."""
    layer = Layer("layer", nn.Identity(), FULL_PRECISION, BitWidth(bits))
    quantizer = build_method(name, options).activation_quantizer(layer, sample)
    assert quantizer is not None
    return quantizer.train()


def weight_quantizer(name: str, weight: Tensor, bits: str | int, **options: Any) -> nn.Module:
    """Return the quantizer that a method builds for a weight, in float64 and training mode."""
    return build_weight_quantizer(name, weight, bits, **options).double()


def activation_quantizer(name: str, sample: Tensor, bits: int, **options: Any) -> nn.Module:
    """Return the quantizer that a method builds for an activation, in float64 and training mode."""
    return build_activation_quantizer(name, sample, bits, **options).double()


def quantized_weight(name: str, weight: Tensor, bits: str | int, **options: Any) -> Array:
    """Return a weight as a method quantizes it in training, before any update."""
    quantizer = weight_quantizer(name, weight, bits, **options)
    quantized: Array = quantizer(weight).detach().numpy()
    return quantized


def output_of(quantizer: nn.Module, x: Tensor) -> Array:
    """Return what a quantizer computes, in float64."""
    with torch.no_grad():
        output: Array = quantizer(x).double().numpy()
    return output


def parameter_value(quantizer: nn.Module, name: str) -> float:
    """Return the value of a scalar parameter."""
    return float(quantizer.get_parameter(name).detach())


def parameter_gradient(quantizer: nn.Module, name: str) -> float:
    """Return the gradient of a scalar parameter."""
    grad = quantizer.get_parameter(name).grad
    assert grad is not None
    return float(grad)


def set_parameters(quantizer: nn.Module, **values: float) -> nn.Module:
    """Set scalar parameters and return the quantizer."""
    with torch.no_grad():
        for name, value in values.items():
            quantizer.get_parameter(name).fill_(value)
    return quantizer


def start_step(handle: Handle, step: int, steps: int) -> None:
    """Start a step of the present epoch, as the optimizer's hooks do after the step before it."""
    handle._step, handle._steps = step - 1, steps
    with torch.no_grad():
        handle._start_step()


def attach_everywhere(model: nn.Module, name: str, bits: str = "1/32", **options: Any) -> Handle:
    """Attach a method to every layer of a model, the first and the last included."""
    return attach(model, name, bits=bits, layers="all", **options)


def attach_to_linear(method: str, bits: str, **options: object) -> Handle:
    """Attach a method to a linear layer of 5 × 8 weights, in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5, bias=False)).double()
    return attach(
        model,
        build_method(method, options),
        bits=bits,
        layers="all",
        calibration=[normal(16, 8, seed=9).abs()],
    )


def first_weight_quantizer(handle: Handle) -> nn.Module:
    """Return the weight quantizer of the first quantized layer."""
    quantizer = handle.layers[0].weight_quantizer
    assert quantizer is not None
    return quantizer


def latent_weight(handle: Handle) -> Tensor:
    """Return the weight of the first quantized layer that training updates."""
    return handle.layers[0].latent_weight


def used_weight(handle: Handle) -> Tensor:
    """Return the weight of the first quantized layer that the network computes with."""
    return layer_weight(handle.layers[0])


def convnet() -> nn.Sequential:
    """Return four convolutional and linear layers with random weights."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def convnet_with_statistics() -> nn.Sequential:
    """Return the same after a training pass, from which its normalizations have statistics."""
    model = convnet()
    model(torch.randn(16, 3, 8, 8))
    return model


def attach_to_convnet(
    method: str, bits: str, model: nn.Module | None = None, **options: object
) -> Handle:
    """Attach a method to the inner layers of a small convolutional network."""
    batches = [torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    built = build_method(method, options)
    return attach(model or convnet(), built, bits=bits, calibration=batches)

"""The tensor, the versions of a method, and their measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench.method import Layer, Method
from qbench.quant.options import build_method
from qbench.spec.bits import FLOAT_BITS, BitWidth

Function = Callable[[Tensor], Tensor]

SHAPE = (32, 16, 3, 3)  # filters, input channels, kernel; or images, channels, pixels
SCALE = 0.05
SAME = 1e-6  # values closer than this are the same


def tensor(seed: int = 0) -> Tensor:
    """Return a Gaussian tensor of unit variance with the shape of a convolution's weight.

    Args:
        seed: Seed of numpy's generator, whose stream does not depend on the machine.
    """
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(SHAPE)).float()


@dataclass(frozen=True)
class Version:
    """An implementation of a method, applied to the tensor.

    Attributes:
        name: Name in tables, with a link.
        rule: The gradient, in words.
        values: The quantized tensor.
        slopes: ∂q/∂w of every element except the largest. Statistics of the layer are held fixed.
        function: Map from a value to its quantized value, with the statistics of the tensor. None
            if each filter has its own statistics.
    """

    name: str
    rule: str
    values: Tensor
    slopes: Tensor
    function: Function | None = None


def by_value(name: str, rule: str, function: Function, x: Tensor) -> Version:
    """Return a version that applies one function to all elements."""
    return Version(name, rule, function(x).detach(), _slopes(function, x), function)


def by_filter(name: str, rule: str, quantize: Function, x: Tensor) -> Version:
    """Return a version with statistics per filter, which ``quantize`` holds fixed."""
    leaf = x.clone().requires_grad_()
    values = quantize(leaf)
    (slopes,) = torch.autograd.grad(values.sum(), leaf)
    return Version(name, rule, values.detach(), slopes.flatten())


def of_qbench(method: str, bits: int, rule: str, x: Tensor, kind: str, **options: Any) -> Version:
    """Return qbench's version of a method, built as in a trial.

    Its function is found by passing the tensor to the quantizer with further values appended. This
    changes no statistic if statistics are constants, or a maximum that no appended value exceeds.

    Args:
        method: Name of the method.
        bits: Bit-width.
        rule: The gradient, in words.
        x: The tensor.
        kind: ``weight`` or ``input``.
        options: Options of the method.
    """
    built = build_method(method, options)
    quantizer = built_quantizer(built, layer_of(bits, kind), x, kind)

    def function(more: Tensor) -> Tensor:
        both: Tensor = quantizer(torch.cat([x.flatten(), more.flatten()]))
        return both[x.numel() :].view_as(more)

    name = named(method, options)
    return Version(name, rule, quantizer(x).detach(), _slopes(function, x), function)


def layer_of(bits: int, kind: str, shape: Sequence[int] = SHAPE) -> Layer:
    """Return a convolution whose weight or input has the given width.

    Args:
        bits: Bit-width.
        kind: ``weight`` or ``input``; the other stays in full precision.
        shape: Shape of the weight.
    """
    outputs, inputs, height, width = shape
    widths = {"weight": BitWidth(FLOAT_BITS), "input": BitWidth(FLOAT_BITS), kind: BitWidth(bits)}
    conv = nn.Conv2d(inputs, outputs, (height, width))
    return Layer("conv", conv, widths["weight"], widths["input"])


def built_quantizer(method: Method, layer: Layer, x: Tensor, kind: str) -> nn.Module:
    """Build a quantizer of a method, in evaluation mode.

    Args:
        method: A method of qbench.
        layer: The layer to quantize.
        x: The tensor that the quantizer is initialised from.
        kind: ``weight`` or ``input``.

    Raises:
        ValueError: If the method leaves it in full precision.
    """
    build = method.weight_quantizer if kind == "weight" else method.activation_quantizer
    quantizer = build(layer, x)
    if quantizer is None:
        raise ValueError(f"{method.name} does not quantize a layer's {kind}")
    return quantizer.eval()


def named(method: str, options: Mapping[str, Any]) -> str:
    """Return the name of a method of qbench with its options, as in tables."""
    words = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in options.items()}
    chosen = ", ".join(f"{name}: {word}" for name, word in words.items())
    return f"**qbench** `{method}`" + (f", `{chosen}`" if chosen else "")


def _slopes(function: Function, x: Tensor) -> Tensor:
    """Return ∂q/∂w without the largest element, on which a maximum depends."""
    leaf = x.flatten()[x.flatten().abs() < x.abs().max()].clone().requires_grad_()
    (slopes,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return slopes


def steps(function: Function, low: float, high: float) -> tuple[list[float], list[float]]:
    """Find the thresholds of a staircase by bisection, and the levels between them.

    Args:
        function: Map from values to quantized values.
        low: Lower end of the search.
        high: Upper end of the search.

    Returns:
        The n thresholds in ascending order, and the n + 1 levels.
    """
    with torch.no_grad():
        x = torch.linspace(low, high, 8001)
        y = function(x)
        index = ((y[1:] - y[:-1]).abs() > SAME).nonzero().flatten()
        left, right, below = x[index], x[index + 1], y[index]
        for _ in range(20):
            middle = (left + right) / 2
            still = (function(middle) - below).abs() <= SAME
            left, right = torch.where(still, middle, left), torch.where(still, right, middle)
        levels = [*y[index].tolist(), float(y[-1])]
    return right.tolist(), levels


def distinct(values: Tensor) -> list[float]:
    """Return the distinct values of a tensor in ascending order."""
    found: list[float] = []
    for value in values.unique().tolist():
        if not found or value - found[-1] > SAME:
            found.append(value)
    return found


def squared_error(values: Tensor, x: Tensor, scaled: bool = False) -> float:
    """Return the mean squared error over the mean square of the tensor; zeros give 1.

    Args:
        values: The quantized tensor.
        x: The tensor.
        scaled: If True, multiply ``values`` by the factor that minimises the error first.
    """
    q, w = values.double(), x.double()
    if scaled:
        square = float((q * q).sum())
        q = q * float((q * w).sum()) / square if square > 0 else q
    return float(((q - w) ** 2).mean() / (w**2).mean())


def differing(values: Tensor, ours: Tensor) -> float:
    """Return the share of elements that get a different value."""
    return float(((values - ours).abs() > SAME).double().mean())


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of the angle between two tensors."""
    return float((a.double() * b).sum() / a.double().norm() / b.double().norm())

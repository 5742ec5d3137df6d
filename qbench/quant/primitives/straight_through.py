"""Functions with a gradient that is not theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench.quant.primitives.recomputed import note_same


class _RoundSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def round_ste(x: Tensor) -> Tensor:
    """Round to the nearest integer, with the straight-through gradient ∂[x]/∂x = 1.

    Bengio et al. 2013, arXiv:1308.3432. Ties go to the even integer.

    Args:
        x: Floating-point tensor of any shape.

    Returns:
        The rounded tensor, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
        >>> y = round_ste(x)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([0.0, 2.0], [1.0, 1.0])
    """
    return _RoundSTE.apply(x)


class _Replace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """Return ``quantized`` in the forward pass and pass the gradient to ``x`` unchanged.

    Args:
        x: Floating-point tensor of any shape.
        quantized: The quantized values of ``x``, same shape. They get no gradient.

    Returns:
        The values of ``quantized``, exactly, with ∂/∂x = 1.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.3, -0.8], requires_grad=True)
        >>> y = straight_through(x, x.sign())
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([1.0, -1.0], [1.0, 1.0])
    """
    return _Replace.apply(x, quantized.detach())


class _AddGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        note_same(ctx, value)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        return g, g


def add_gradient(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return ``value`` in the forward pass and pass the gradient to both arguments.

    For a quantizer whose levels are learned: ``value`` is a function of the levels, and
    ``surrogate`` stands in for its dependence on the tensor that is quantized.

    Args:
        value: The quantized tensor.
        surrogate: Tensor of the same shape; only its gradient matters.

    Returns:
        The values of ``value``, exactly.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.2, 0.9], requires_grad=True)
        >>> scale = torch.tensor(2.0, requires_grad=True)
        >>> y = add_gradient(scale * x.detach().round(), x)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist(), scale.grad.item()
        ([0.0, 2.0], [1.0, 1.0], 1.0)
    """
    return _AddGradient.apply(value, surrogate)

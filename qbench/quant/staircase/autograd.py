"""Autograd function of the soft staircase. It saves only the input for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qbench.quant.kernels.loops import dense, laid_out_as
from qbench.quant.primitives.recomputed import note
from qbench.quant.staircase import engines


class SoftStaircase(torch.autograd.Function):
    """Soft staircase of `qbench.quant.staircase.staircase.staircase`, with its arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        alpha: Tensor,
        beta: Tensor,
        biases: Tensor,
        scales: Tensor,
        offset: float,
        temperature: Tensor,
    ) -> Tensor:
        """Compute y, and save ``x`` and the parameters."""
        if x.is_leaf:
            note(ctx, _again)
        x = dense(x.resolve_neg())
        ctx.save_for_backward(x, alpha, beta, biases, scales, temperature)
        ctx.offset = offset
        return _compute(x, alpha, beta, biases, scales, temperature, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of ``x``, ``alpha``, ``beta`` and ``biases``."""
        x, alpha, beta, biases, scales, temperature = ctx.saved_tensors
        g = laid_out_as(g, x)
        gx = torch.empty_like(x)
        if ctx.needs_input_grad[3]:
            engine: engines.Engine = engines.SumEngine(
                alpha, beta, biases, scales, ctx.offset, temperature
            )
        else:
            engine = engines.choose_engine(x, alpha, beta, biases, scales, ctx.offset, temperature)
        to_alpha, to_beta, to_biases = engine.backward(_flat(g), _flat(x), _flat(gx))
        return (gx, to_alpha, to_beta, to_biases, None, None, None)


def _compute(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    scales: Tensor,
    temperature: Tensor,
    offset: float,
) -> Tensor:
    y = torch.empty_like(x)
    engine = engines.choose_engine(x, alpha, beta, biases, scales, offset, temperature)
    engine.forward(_flat(x), _flat(y))
    return y


def _again(ctx: Any) -> Tensor:
    x, alpha, beta, biases, scales, temperature = ctx.saved_tensors
    return _compute(x, alpha, beta, biases, scales, temperature, ctx.offset)


def _flat(x: Tensor) -> Tensor:
    """Return a view of a dense tensor, (N,), in the order of its values in memory."""
    return x.as_strided((x.numel(),), (1,))

"""How a primitive is computed: by its formula, by loops in C, or by torch in place.

A primitive is a function of one tensor, element by element, and of a few numbers that all elements
or all elements of a row share. Its formula in torch, which autograd differentiates, defines it. On
the CPU in float32 and float64 it reads and writes every element once forward and once backward,
with a loop in C; without a compiler torch computes in place what the loop would. Both keep the
input for the backward pass and nothing else of its size. Where the input is computed from a weight,
they do not keep it either, but compute it again. Everywhere else, and inside ``torch.compile``, the
formula is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qbench.quant.kernels.loops import Loops, dense, laid_out_as
from qbench.quant.primitives.recomputed import compute, note, source_of

LOOPS = Loops(Path(__file__).with_name("primitives.c"))


class Primitive:
    """Base class of primitives. An instance holds the numbers that need no gradient.

    Subclasses compute the same three times: `formula` for autograd, `forward` and `backward` for
    the CPU. ``parameters`` are tensors, or None: scalars, or one value for each row.

    Attributes:
        is_straight_through: Whether the gradient of ``x`` is that of the result and the parameters
            have none. There is no `backward` then, and nothing is kept for it.
    """

    is_straight_through = False

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """Tensors beside the parameters, without a gradient: (n,), or (rows, n) for each row."""
        return ()

    def __call__(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """Compute the primitive in the way that suits the tensors.

        Args:
            x: Floating-point tensor of any shape.
            parameters: Tensors that broadcast to the shape of ``x``.

        Returns:
            Shape and dtype of ``x``.
        """
        if torch.compiler.is_compiling() or not _fit(x, parameters, self.tables):
            return self.formula(x, *parameters)
        return _Apply.apply(self, x, *parameters)

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """Compute the primitive as it is written, with functions that autograd differentiates."""
        raise NotImplementedError

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        """Compute the primitive of a `dense` tensor in float32 or float64 on the CPU."""
        raise NotImplementedError

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients.

        Args:
            needed: Whether a gradient is needed, for ``x`` and for each parameter.
            g: Gradient of the result, laid out as ``x``.
            x: The input, as for `forward`.
            parameters: The parameters.

        Returns:
            The gradients of ``x`` and of each parameter. Those that are not needed may be None.
        """
        raise NotImplementedError


def rows_of(x: Tensor, *parameters: Tensor | None) -> tuple[int, int]:
    """Return the number of rows that have parameters of their own, and of elements of a row."""
    rows = next((p.numel() for p in parameters if p is not None and p.numel() != 1), 1)
    return rows, x.numel() // rows if rows else 0


def given(parameters: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Return parameters of which none is None."""
    return tuple(p for p in parameters if p is not None)


def summed(total: Tensor, parameter: Tensor) -> Tensor:
    """Return the sums of rows, (rows,), in the shape of the parameter that they belong to."""
    return (total if parameter.numel() == len(total) else total.sum()).reshape(parameter.shape)


def for_rows(parameter: Tensor | None, rows: int) -> Tensor | None:
    """Return a parameter as a loop reads it: one value for each row, (rows,)."""
    return None if parameter is None else parameter.detach().reshape(-1).expand(rows).contiguous()


def _fit(x: Tensor, parameters: Sequence[Tensor | None], tables: Sequence[Tensor]) -> bool:
    """Return whether there are loops for the tensors."""
    if x.dtype not in (torch.float32, torch.float64) or not _is_plain(x):
        return False
    for p in parameters:
        if p is None:
            continue
        if p.dtype != x.dtype or p.dim() > x.dim() or not _is_plain(p):
            return False
        if p.numel() != 1 and not (
            p.dim() == x.dim() and p.numel() == len(p) == len(x) and _has_rows(x)
        ):
            return False
    for table in tables:
        if table.dtype != x.dtype or not _is_plain(table):
            return False
        if table.dim() > 1 and not (x.dim() and len(table) == len(x) and _has_rows(x)):
            return False
    return True


def _is_plain(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and not x.is_neg()


def _has_rows(x: Tensor) -> bool:
    """Return whether the elements of each row lie together in memory, without gaps."""
    return x.is_contiguous() or (dense(x) is x and x.stride(0) * len(x) == x.numel())


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, primitive: Primitive, x: Tensor, *parameters: Tensor | None) -> Tensor:
        ctx.primitive, ctx.source = primitive, source_of(x)
        if not getattr(ctx.source, "is_of_weight", False):
            ctx.source = None
        ctx.is_of_weight = x.is_leaf or ctx.source is not None
        if primitive.is_straight_through:  # the parameters may change before they are needed again
            parameters = tuple(None if p is None else p.clone() for p in parameters)
        if ctx.is_of_weight or not primitive.is_straight_through:
            note(ctx, _again)
            ctx.save_for_backward(None if ctx.source is not None else x, *parameters)
        return primitive.forward(dense(x), *parameters)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        if ctx.primitive.is_straight_through:
            return None, g, *(None for _ in needed[1:])
        if torch.is_grad_enabled():  # gradients of gradients are wanted
            return None, *_differentiate(ctx.primitive, needed, g, *_traced_inputs(ctx))
        x, *parameters = _inputs(ctx)
        x = dense(x)
        return None, *ctx.primitive.backward(needed, laid_out_as(g, x), x, *parameters)


def _again(ctx: Any) -> Tensor:
    """Compute the result of a primitive again."""
    x, *parameters = _inputs(ctx)
    result: Tensor = ctx.primitive.forward(dense(x), *parameters)
    return result


def _inputs(ctx: Any) -> tuple[Tensor, ...]:
    """Return x and the parameters."""
    x, *parameters = ctx.saved_tensors
    return x if ctx.source is None else compute(ctx.source), *parameters


def _traced_inputs(ctx: Any) -> tuple[Tensor, ...]:
    """Return x and the parameters so that autograd knows what they were computed from."""
    x, *parameters = ctx.saved_tensors
    return x if ctx.source is None else ctx.source.primitive(
        *_traced_inputs(ctx.source)
    ), *parameters


def _differentiate(
    primitive: Primitive, needed: Sequence[bool], g: Tensor, *tensors: Tensor | None
) -> list[Tensor | None]:
    """Compute the gradients by the formula, so that autograd can differentiate them again."""
    # Aliases: x may depend on a parameter, or the other way round, which is not the formula's.
    inputs = [None if t is None else t.view_as(t) for t in tensors]
    wanted = [t for t, one in zip(inputs, needed, strict=True) if one and t is not None]
    found = iter(torch.autograd.grad(primitive.formula(*inputs), wanted, g, create_graph=True))  # type: ignore[arg-type]
    return [next(found) if one else None for one in needed]


def by_formula(
    primitive: Primitive, needed: Sequence[bool], g: Tensor, *tensors: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Compute the gradients by the formula, where there is no loop and no other way."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    with torch.enable_grad():
        found = _differentiate(primitive, needed, g, *leaves)
    return tuple(None if t is None else t.detach() for t in found)

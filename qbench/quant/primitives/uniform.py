"""Uniform quantization: clip, round and scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qbench.quant.kernels.loops import block_sums
from qbench.quant.primitives.clip import Closed, Interval, Limits, is_inside
from qbench.quant.primitives.primitive import LOOPS, Primitive, for_rows, given, rows_of, summed
from qbench.quant.primitives.straight_through import round_ste, straight_through


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    quant_min: float | None = None,
    quant_max: float | None = None,
    *,
    offset: Tensor | None = None,
    closed: Closed = "neither",
) -> Tensor:
    """Quantize to [clip((x − b)/s, quant_min, quant_max)] · s + b, straight through the rounding.

    The gradients are those of Esser et al. (ICLR 2020, arXiv:1902.08153, Eq. 3 and 5) and, with an
    offset, of Bhalgat et al. (arXiv:2004.09576, Eq. 5–6). With v = (x − b)/s::

        ∂y/∂x = 1 inside,            0 outside
        ∂y/∂s = [v] − v inside,      quant_min below, quant_max above
        ∂y/∂b = 0 inside,            1 outside

    A scale or an offset that requires no gradient gets none.

    Args:
        x: Floating-point tensor of any shape.
        scale: Step s, dtype of ``x``, of a shape that broadcasts to that of ``x``.
        quant_min: Least code. None: codes are not clipped from below.
        quant_max: Largest code. None: codes are not clipped from above.
        offset: b, likewise. None: 0.
        closed: Ends of the codes that are inside. Default: neither, as Esser et al. have it.

    Returns:
        The quantized values, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.0, 0.2, 0.9, 5.0], requires_grad=True)
        >>> s = torch.tensor(0.5, requires_grad=True)
        >>> y = fake_quantize(x, s, 0, 3)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist(), f"{s.grad:.1f}"
        ([0.0, 0.0, 1.0, 1.5], [0.0, 1.0, 1.0, 0.0], '2.8')
    """
    return _FakeQuantize(Interval.of(quant_min, quant_max, closed))(x, scale, offset)


@dataclass(frozen=True)
class _FakeQuantize(Primitive):
    codes: Interval

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        scale, offset = parameters
        assert scale is not None  # noqa: S101
        if offset is None:
            return round_ste(self.codes.clip(x / scale)) * scale
        return round_ste(self.codes.clip((x - offset) / scale)) * scale + offset

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        row = (for_rows(p, rows) for p in parameters)
        low, high, *_ = self.codes.numbers
        if LOOPS.run("fake_quantize", (x, y, *row), (rows, columns), (low, high)):
            return y
        scale, offset = parameters
        assert scale is not None  # noqa: S101
        y = torch.div(x, scale) if offset is None else torch.sub(x, offset).div_(scale)
        y = y.clamp_(low, high).round_().mul_(scale)
        return y if offset is None else y.add_(offset)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        scale, offset = parameters
        assert scale is not None  # noqa: S101
        gx, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        sums = block_sums(rows, columns, 2) if any(needed[1:]) else None
        tensors = (g, x, gx, *(for_rows(p, rows) for p in parameters), sums)
        if LOOPS.run("fake_quantize_backward", tensors, (rows, columns), self.codes.numbers):
            if sums is None:
                return gx, None, None
            found = sums[:rows].to(x.dtype).unbind(1)
        else:
            v = torch.div(x, scale) if offset is None else torch.sub(x, offset).div_(scale)
            gx = self.codes.pass_gradient(g * scale, v).div_(scale)
            if not any(needed[1:]):
                return gx, None, None
            inside = self.codes.pass_gradient(g, v)
            codes = v.clamp_(self.codes.low, self.codes.high).round()
            parts = codes.mul_(g).sub_(v.mul_(inside)), g - inside
            found = tuple(part.reshape(rows, columns).sum(1) for part in parts)
        return (
            gx,
            *(
                summed(total, parameter) if one and parameter is not None else None
                for one, total, parameter in zip(needed[1:], found, parameters, strict=True)
            ),
        )


def clip_round(
    x: Tensor,
    low: float,
    high: float,
    steps: int,
    *,
    closed: Closed = "both",
    error_slope: float = 0.0,
) -> Tensor:
    """Clip to an interval and round to multiples of 1/n: [n · clip(x, low, high)] / n.

    The gradient is 1 inside the interval and 0 outside.

    Args:
        x: Floating-point tensor of any shape.
        low: Lower end.
        high: Upper end.
        steps: n, the number of steps of a unit.
        closed: Ends at which the gradient is 1; at the others it is 0. Default: ``'both'``.
        error_slope: δ of Lee et al. (CVPR 2021, arXiv:2104.00903, Eq. 5), by which the gradient
            inside is 1 + δ sign(g) e, e the clipped value less the rounded one. Default: 0.

    Returns:
        The quantized values, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-0.5, 0.2, 0.9, 1.5], requires_grad=True)
        >>> y = clip_round(x, 0, 1, steps=2)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0])
    """
    return _ClipRound(Interval.of(low, high, closed), float(steps), error_slope)(x)


@dataclass(frozen=True)
class _ClipRound(Primitive):
    interval: Interval
    steps: float
    delta: float

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        if self.delta:
            return _ScaledRound.apply(self.interval.clip(x), self.steps, self.delta)
        return round_ste(self.interval.clip(x) * self.steps) / self.steps

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, (low, high, *_) = torch.empty_like(x), self.interval.numbers
        if LOOPS.run("clip_round", (x, y), (x.numel(),), (low, high, self.steps)):
            return y
        return x.clamp(low, high).mul_(self.steps).round_().div_(self.steps)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gx, numbers = torch.empty_like(x), (*self.interval.numbers, self.steps, self.delta)
        if LOOPS.run("clip_round_backward", (g, x, gx), (x.numel(),), numbers):
            return (gx,)
        if self.delta:
            error = x.clamp(self.interval.low, self.interval.high).sub_(self.forward(x))
            passed = error.mul_(g.sign().mul_(self.delta)).add_(1).mul_(g)
        else:
            passed = g.div(self.steps).mul_(self.steps)
        return (self.interval.pass_gradient(passed, x),)


class _ScaledRound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: float, delta: float) -> Tensor:
        rounded = (x * steps).round() / steps
        ctx.save_for_backward(x - rounded)
        ctx.delta = delta
        return rounded

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (error,) = ctx.saved_tensors
        return g * (1 + ctx.delta * g.sign() * error), None, None


def clip_quantize(
    x: Tensor,
    low: float | Tensor,
    high: float | Tensor,
    scale: Tensor,
    *,
    closed: Closed = "both",
) -> Tensor:
    """Clip to an interval and round to multiples of s: [clip(x, low, high)/s] · s.

    The gradient of ``x`` is 1 inside the interval and 0 outside. An end that requires a gradient
    gets the sum of the gradients of the values that are clipped to it.

    Args:
        x: Floating-point tensor of any shape.
        low: Lower end: a number, or a tensor of the dtype of ``x`` that broadcasts to its shape.
        high: Upper end, likewise.
        scale: s, a tensor, likewise. It gets no gradient.
        closed: Ends that belong to the interval. Default: ``'both'``.

    Returns:
        The quantized values, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.0, 0.4, 0.9, 5.0], requires_grad=True)
        >>> high = torch.tensor(1.5, requires_grad=True)
        >>> y = clip_quantize(x, 0, high, high.detach() / 3, closed="left")
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist(), high.grad.item()
        ([0.0, 0.5, 1.0, 1.5], [0.0, 1.0, 1.0, 0.0], 1.0)
    """
    ends = (end if isinstance(end, Tensor) else x.new_tensor(end) for end in (low, high))
    return _ClipQuantize(Limits(closed))(x, *ends, scale.detach())


@dataclass(frozen=True)
class _ClipQuantize(Primitive):
    limits: Limits

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        low, high, scale = given(parameters)
        inside = is_inside(x, low, high, self.limits.closed)
        clipped = torch.where(x >= high, high, torch.where(x <= low, low, x.detach()))
        codes = (x.detach().clamp(low.detach(), high.detach()) / scale).round()
        return straight_through(torch.where(inside, x, clipped), codes * scale)

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        low, high, scale = given(parameters)
        row = (for_rows(p, rows) for p in (low, high, scale))
        if LOOPS.run("clip_quantize", (x, y, *row), (rows, columns)):
            return y
        return x.clamp(low, high).div_(scale).round_().mul_(scale)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        low, high, _ = given(parameters)
        gx, sums = self.limits.pass_gradient(g, x, low, high, sums=any(needed[1:]))
        if sums is None:
            return gx, None, None, None
        ends = zip(needed[1:], sums, (low, high), strict=False)
        return gx, *(summed(total, end) if one else None for one, total, end in ends), None

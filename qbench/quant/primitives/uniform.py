"""Uniform quantization: clip, round and scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qbench.quant.kernels.loops import block_sums
from qbench.quant.primitives.clip import Closed, Interval, Limits, is_inside
from qbench.quant.primitives.primitive import (
    LOOPS,
    Primitive,
    by_formula,
    for_rows,
    given,
    rows_of,
    summed,
)
from qbench.quant.primitives.straight_through import round_ste, straight_through


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    quant_min: float | None = None,
    quant_max: float | None = None,
    *,
    offset: Tensor | None = None,
    closed: Closed = "neither",
    inside: Literal["values", "codes", "all"] = "values",
) -> Tensor:
    """Quantize to [clip((x − b)/s, quant_min, quant_max)] · s + b, straight through the rounding.

    The gradients are those of Esser et al. (ICLR 2020, arXiv:1902.08153, Eq. 3 and 5) and, with an
    offset, of Bhalgat et al. (arXiv:2004.09576, Eq. 5–6). With v = (x − b)/s::

        ∂y/∂x = 1 inside,            0 outside
        ∂y/∂s = [v] − v inside,      quant_min below, quant_max above
        ∂y/∂b = 0 inside,            1 outside

    A scale or an offset that requires no gradient gets none. Inside is where v lies between
    ``quant_min`` and ``quant_max``, and with ``inside='codes'`` where [v] does, so up to half a
    step beyond. With ``inside='all'`` the gradient of ``x`` is that of the result, and neither
    scale nor offset has one.

    Args:
        x: Floating-point tensor of any shape.
        scale: Step s, dtype of ``x``, of a shape that broadcasts to that of ``x``.
        quant_min: Least code. None: codes are not clipped from below.
        quant_max: Largest code. None: codes are not clipped from above.
        offset: b, likewise. None: 0.
        closed: Ends of the codes that are inside. Default: neither, as Esser et al. have it.
        inside: What lies between the ends inside: ``'values'``, ``'codes'``, or ``'all'``.

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
    codes = Interval.of(quant_min, quant_max, closed)
    if inside == "all":
        offset = None if offset is None else offset.detach()
        return _StraightThroughUniform(codes)(x, scale.detach(), offset)
    return _FakeQuantize(codes, inside == "codes")(x, scale, offset)


@dataclass(frozen=True)
class _Uniform(Primitive):
    """Base class: codes of an interval times a scale, whose gradient subclasses define."""

    codes: Interval

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        row = (for_rows(p, rows) for p in parameters)
        low, high, *_ = self.codes.numbers
        if LOOPS.run("fake_quantize", (x, y, *row), (rows, columns), (low, high)):
            return y
        return self.compute(x, *parameters)

    def compute(self, x: Tensor, scale: Tensor | None, offset: Tensor | None) -> Tensor:
        """Compute the values by torch, in place and without a gradient."""
        assert scale is not None  # noqa: S101
        y = torch.div(x, scale) if offset is None else torch.sub(x, offset).div_(scale)
        y = y.clamp_(self.codes.low, self.codes.high).round_().mul_(scale)
        return y if offset is None else y.add_(offset)


@dataclass(frozen=True)
class _StraightThroughUniform(_Uniform):
    is_straight_through = True

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return straight_through(x, self.compute(x.detach(), *parameters))


@dataclass(frozen=True)
class _FakeQuantize(_Uniform):
    rounded: bool

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        scale, offset = parameters
        assert scale is not None  # noqa: S101
        v = x / scale if offset is None else (x - offset) / scale
        codes = self.codes.clip(round_ste(v)) if self.rounded else round_ste(self.codes.clip(v))
        return codes * scale if offset is None else codes * scale + offset

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        scale, offset = parameters
        assert scale is not None  # noqa: S101
        gx, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        sums = block_sums(rows, columns, 2) if any(needed[1:]) else None
        tensors = (g, x, gx, *(for_rows(p, rows) for p in parameters), sums)
        sizes = rows, columns, int(self.rounded)
        if LOOPS.run("fake_quantize_backward", tensors, sizes, self.codes.numbers):
            if sums is None:
                return gx, None, None
            found = sums[:rows].to(x.dtype).unbind(1)
        else:
            v = torch.div(x, scale) if offset is None else torch.sub(x, offset).div_(scale)
            at = v.round() if self.rounded else v
            gx = self.codes.pass_gradient(g * scale, at).div_(scale)
            if not any(needed[1:]):
                return gx, None, None
            inside = self.codes.pass_gradient(g, at)
            codes = v.clamp(self.codes.low, self.codes.high).round_()
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
    return _ClipRound(Interval.of(low, high, closed), float(steps), error_slope)(x, None, None)


def interval_round(
    x: Tensor,
    low: Tensor,
    high: Tensor,
    steps: int,
    *,
    signed: bool = False,
    error_slope: float = 0.0,
) -> Tensor:
    """Map an interval to [0, 1], clip, and round to multiples of 1/n: [n clip(u, 0, 1)] / n.

    u is (x − l)/(u − l), with learned ends. Only rounding is straight through.

    Args:
        x: Floating-point tensor of any shape.
        low: Lower end l, dtype of ``x``, of a shape that broadcasts to that of ``x``.
        high: Upper end, likewise.
        steps: n, the number of steps from one end to the other.
        signed: Whether the interval is mapped to [−1, 1]: twice the above less ½.
        error_slope: As in `qbench.functional.clip_round`.

    Returns:
        The quantized values, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x, low = torch.tensor([0.0, 0.8, 5.0]), torch.tensor(0.0, requires_grad=True)
        >>> y = interval_round(x, low, torch.tensor(2.0), steps=2, signed=True)
        >>> y.sum().backward()
        >>> y.tolist(), round(low.grad.item(), 3)
        ([-1.0, 0.0, 1.0], -1.6)
    """
    interval, gain, shift = Interval.of(0, 1, "both"), *((2.0, 0.5) if signed else (1.0, 0.0))
    return _ClipRound(interval, float(steps), error_slope, gain, shift)(x, high - low, low)


@dataclass(frozen=True)
class _ClipRound(Primitive):
    interval: Interval
    steps: float
    delta: float
    gain: float = 1.0
    shift: float = 0.0

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        v = self.interval.clip(_normalized(x, *parameters))
        if self.delta:
            y = _ScaledRound.apply(v, self.steps, self.delta)
        else:
            y = round_ste(v * self.steps) / self.steps
        return y if self.gain == 1 else self.gain * (y - self.shift)

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, (low, high, *_) = torch.empty_like(x), self.interval.numbers
        rows, columns = rows_of(x, *parameters)
        row = (for_rows(p, rows) for p in parameters)
        numbers = low, high, self.steps, self.gain, self.shift
        if LOOPS.run("clip_round", (x, y, *row), (rows, columns), numbers):
            return y
        y = _normalized(x, *parameters).clamp(low, high)
        y = y.mul_(self.steps).round_().div_(self.steps)
        return y if self.gain == 1 else y.sub_(self.shift).mul_(self.gain)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gx, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        numbers = *self.interval.numbers, self.steps, self.delta, self.gain
        sums = block_sums(rows, columns, 2) if any(needed[1:]) else None
        tensors = (g, x, gx, *(for_rows(p, rows) for p in parameters), sums)
        if not LOOPS.run("clip_round_backward", tensors, (rows, columns), numbers):
            return self._backward_by_torch(needed, g, x, *parameters)
        if sums is None:
            return gx, None, None
        to_scale, to_offset = sums[:rows].to(x.dtype).unbind(1)
        scale, offset = given(parameters)
        return (
            gx,
            summed(-to_scale, scale) if needed[1] else None,
            summed(-to_offset, offset) if needed[2] else None,
        )

    def _backward_by_torch(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if any(needed[1:]):
            return by_formula(self, needed, g, x, *parameters)
        v, scale = _normalized(x, *parameters), parameters[0]
        h = g if self.gain == 1 else g * self.gain
        if self.delta:
            clipped = v.clamp(self.interval.low, self.interval.high)
            error = clipped - (clipped * self.steps).round_().div_(self.steps)
            passed = error.mul_(h.sign().mul_(self.delta)).add_(1).mul_(h)
        else:
            passed = h.div(self.steps).mul_(self.steps)
        gx = self.interval.pass_gradient(passed, v)
        return gx if scale is None else gx.div_(scale), None, None


def _normalized(x: Tensor, scale: Tensor | None, offset: Tensor | None) -> Tensor:
    """Return (x − offset)/scale; without a scale, x."""
    return x if scale is None else (x - given([offset])[0]) / scale


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

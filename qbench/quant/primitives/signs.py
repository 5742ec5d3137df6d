"""Signs, with and without a scale, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench.quant.primitives.clip import Closed, Interval
from qbench.quant.primitives.primitive import LOOPS, Primitive, for_rows, rows_of
from qbench.quant.primitives.straight_through import straight_through


def sign(x: Tensor) -> Tensor:
    """Return the sign of x; the sign of 0 is +1, as a 1-bit code has no zero. No gradient.

    Args:
        x: Floating-point tensor of any shape.

    Returns:
        −1 or +1, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> sign(torch.tensor([-2.0, 0.0, 0.5])).tolist()
        [-1.0, 1.0, 1.0]
    """
    return binarize(x.detach())


def binarize(
    x: Tensor,
    scale: Tensor | None = None,
    *,
    window: float | None = None,
    closed: Closed = "both",
    slopes: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return α · sign(x), with the gradient 1 where |x| ≤ window and 0 elsewhere.

    The sign of 0 is +1.

    Args:
        x: Floating-point tensor of any shape.
        scale: α, dtype of ``x``, of a shape that broadcasts to that of ``x``. It gets no gradient.
            None: 1.
        window: Largest ``|x|`` that has a gradient. None: all of ``x`` has the gradient 1.
        closed: Ends of the window that belong to it. Default: ``'both'``.
        slopes: Gradients inside and outside the window in place of 1 and 0; they broadcast as the
            scale does.

    Returns:
        −α or α, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.5, -0.5, 0.0, 1.0], requires_grad=True)
        >>> y = binarize(x, torch.tensor(2.0), window=1)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-2.0, -2.0, 2.0, 2.0], [0.0, 1.0, 1.0, 1.0])
    """
    scale = None if scale is None else scale.detach()
    if window is None:
        return _StraightThroughSign()(x, scale)
    interval = Interval.of(-window, window, closed)
    if slopes is None:
        return _WindowedSign(interval)(x, scale)
    return _SlopedSign(interval)(x, scale, *(slope.detach() for slope in slopes))


def polynomial_sign(x: Tensor) -> Tensor:
    """Return sign(x), with the gradient 2 − 2|x| where |x| ≤ 1 and 0 elsewhere.

    It is the derivative of the piecewise polynomial that approximates a sign in Liu et al. (ECCV
    2018, arXiv:1808.00278, Eq. 7–8). The sign of 0 is +1.

    Args:
        x: Floating-point tensor of any shape.

    Returns:
        −1 or +1, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.5, -0.5, 0.0, 1.0], requires_grad=True)
        >>> y = polynomial_sign(x)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-1.0, -1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 0.0])
    """
    return _PolynomialSign()(x, None)


class _Sign(Primitive):
    """Base class: α · sign(x), whose gradient subclasses define."""

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, scale = torch.empty_like(x), parameters[0]
        rows, columns = rows_of(x, scale)
        if not LOOPS.run("binarize", (x, y, for_rows(scale, rows)), (rows, columns)):
            y = torch.ge(x, 0, out=y).mul_(2).sub_(1)  # torch.where is slow
            if scale is not None:
                y.mul_(scale)
        return y


def _signs(x: Tensor, scale: Tensor | None) -> Tensor:
    """Return α · sign(x) by torch, without a gradient."""
    signs = torch.where(x.detach() >= 0, 1.0, -1.0).to(x.dtype)
    return signs if scale is None else scale * signs


@dataclass(frozen=True)
class _StraightThroughSign(_Sign):
    is_straight_through = True

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return straight_through(x, _signs(x, parameters[0]))


@dataclass(frozen=True)
class _WindowedSign(_Sign):
    interval: Interval

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return straight_through(self.interval.clip(x), _signs(x, parameters[0]))

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        return self.interval.pass_gradient(g, x), None


@dataclass(frozen=True)
class _SlopedSign(_Sign):
    interval: Interval

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        scale, inner, outer = parameters
        assert inner is not None  # noqa: S101
        assert outer is not None  # noqa: S101
        slope = torch.where(self.interval.contains(x.detach()), inner, outer)
        return straight_through(x * slope, _signs(x, scale))

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        _, *slopes = parameters
        gx, (rows, columns) = torch.empty_like(x), rows_of(x, *slopes)
        tensors = (g, x, gx, *(for_rows(slope, rows) for slope in slopes))
        if not LOOPS.run("slopes", tensors, (rows, columns), self.interval.numbers):
            inner, outer = slopes
            gx = g * torch.where(self.interval.contains(x), inner, outer)  # type: ignore[arg-type]
        return gx, None, None, None


@dataclass(frozen=True)
class _PolynomialSign(_Sign):
    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        c = Interval.of(-1, 1, "both").clip(x)
        return straight_through(
            c * (2 - c.abs()), _signs(x, None)
        )  # (2 − |x|) x has slope 2 − 2|x|

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gx = torch.empty_like(x)
        if not LOOPS.run("triangle", (g, x, gx), (x.numel(),)):
            size = x.abs()
            slopes = torch.rsub(size, 2).mul_(g).sub_(g * size)
            gx = Interval.of(-1, 1, "both").pass_gradient(slopes, x)
        return gx, None

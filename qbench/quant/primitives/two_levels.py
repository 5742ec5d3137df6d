"""Two levels at any place and distance, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qbench.quant.kernels.loops import block_sums
from qbench.quant.primitives.clip import clip
from qbench.quant.primitives.curves import LOOPS
from qbench.quant.primitives.primitive import (
    Primitive,
    by_formula,
    for_rows,
    given,
    rows_of,
    summed,
)
from qbench.quant.primitives.straight_through import add_gradient

Slope = Literal["window", "triangle", "tanh"]
"""Slope of a sign, as `qbench.functional.two_levels` has them."""
_SLOPES = ("window", "triangle", "tanh")


def two_levels(
    x: Tensor,
    scale: Tensor | None = None,
    offset: Tensor | None = None,
    *,
    centre: Tensor | None = None,
    deviation: Tensor | None = None,
    slope: Slope = "window",
    reach: float | Tensor = 1.0,
) -> Tensor:
    """Return α sign(v) + β with v = (x − μ)/σ, and a slope of the sign that depends on v.

    The slope ∂sign(v)/∂v is, with r the ``reach``::

        window      1 where |v| ≤ r,           0 elsewhere
        triangle    2 − 2|v| where |v| ≤ 1,    0 elsewhere
        tanh        max(r, 1) (1 − tanh²(r v))

    α, β, μ and σ get gradients too, if they require them. The sign of 0 is +1.

    Args:
        x: Floating-point tensor of any shape.
        scale: α, dtype of ``x``, of a shape that broadcasts to that of ``x``. None: 1.
        offset: β, likewise. None: 0.
        centre: μ, likewise. None: 0.
        deviation: σ, likewise, not 0. None: 1.
        slope: The slope of the sign.
        reach: r, positive, a number or a scalar tensor. It gets no gradient.

    Returns:
        −α + β or α + β, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.5, 0.0, 0.5, 1.0], requires_grad=True)
        >>> y = two_levels(x, torch.tensor(2.0), centre=torch.tensor(0.5), slope="triangle")
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-2.0, -2.0, 2.0, 2.0], [0.0, 2.0, 4.0, 2.0])
    """
    end = reach.detach().to(x.dtype) if isinstance(reach, Tensor) else x.new_tensor(reach)
    return _TwoLevels(slope)(x, scale, offset, centre, deviation, end)


@dataclass(frozen=True)
class _TwoLevels(Primitive):
    slope: Slope

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        scale, offset, centre, deviation, reach = parameters
        assert reach is not None  # noqa: S101
        v = x if centre is None else x - centre
        y = torch.where(_oriented(v.detach(), deviation) >= 0, 1.0, -1.0).to(x.dtype)
        soft = self._soft(v if deviation is None else v / deviation, reach)
        if scale is not None:
            y, soft = y * scale, soft * scale.detach()
        return add_gradient(y if offset is None else y + offset, soft)

    def _soft(self, v: Tensor, reach: Tensor) -> Tensor:
        """Return the function that has the slope."""
        if self.slope == "window":
            return clip(v, -reach, reach)
        if self.slope == "triangle":
            c = clip(v, -1, 1)
            return c * (2 - c.abs())
        return (1 / reach).clamp(min=1) * (reach * v).tanh()

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        y, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        scale, offset, centre, deviation, _ = parameters
        row = (for_rows(p, rows) for p in (scale, offset, centre, deviation))
        if LOOPS.run("two_levels", (x, y, *row), (rows, columns)):
            return y
        v = x if centre is None else x - centre
        y = torch.ge(_oriented(v, deviation), 0, out=y).mul_(2).sub_(1)
        y = y if scale is None else y.mul_(scale)
        return y if offset is None else y.add_(offset)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        gx, (rows, columns) = torch.empty_like(x), rows_of(x, *parameters)
        *learned, reach = parameters
        sums, row = block_sums(rows, columns, 4), [for_rows(p, rows) for p in learned]
        sizes = rows, columns, _SLOPES.index(self.slope)
        numbers = [float(*given([reach]))]
        if not LOOPS.run("two_levels_backward", (g, x, gx, *row, sums), sizes, numbers):
            return by_formula(self, needed, g, x, *parameters)
        to_deviation, to_centre, to_scale, to_offset = sums[:rows].to(x.dtype).unbind(1)
        found = to_scale, to_offset, -to_centre, -to_deviation
        return (
            gx,
            *(
                summed(total, parameter) if one and parameter is not None else None
                for one, total, parameter in zip(needed[1:], found, learned, strict=False)
            ),
            None,
        )


def _oriented(distance: Tensor, deviation: Tensor | None) -> Tensor:
    """Return what has the sign of distance / deviation, even where the quotient underflows."""
    return distance if deviation is None else distance * deviation.detach().sign()

"""Quantizers whose gradient follows a curve: a hyperbolic tangent, a power, a soft staircase."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qbench.quant.kernels.loops import BLOCK, Loops, block_sums
from qbench.quant.primitives.clip import clip
from qbench.quant.primitives.primitive import Primitive, by_formula, given
from qbench.quant.primitives.straight_through import round_ste, straight_through

LOOPS = Loops(Path(__file__).with_name("curves.c"))
_ERROR = 4e-7
"""Twice the largest error of a loop's hyperbolic tangent or power in float32."""


def tanh_weight(w: Tensor, steps: int) -> Tensor:
    """Quantize to 2 [n (tanh(w) / 2m + ½)] / n − 1, m the largest absolute tanh(w).

    DoReFa-Net, arXiv:1606.06160, Eq. 9. Only rounding is straight through: m has a gradient too.

    Args:
        w: Floating-point tensor of any shape.
        steps: n, the number of steps from −1 to 1.

    Returns:
        Values in [−1, 1], shape and dtype of ``w``.

    Example:
        >>> import torch
        >>> y = tanh_weight(torch.tensor([-0.2, 0.0, 0.1, 0.2]), steps=3)
        >>> [round(v, 2) for v in y.tolist()]
        [-1.0, 0.33, 0.33, 1.0]
    """
    return _TanhWeight(float(steps))(w, _largest(w)) if w.numel() else w


@dataclass(frozen=True)
class _TanhWeight(Primitive):
    """Its parameter is the largest |x|, which the loops need beforehand. It gets no gradient."""

    steps: float

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        t = x.tanh()
        return self._quantize(t, 2 * _at_least_tiny(t.abs().max()))

    def _quantize(self, t: Tensor, twice: Tensor) -> Tensor:
        return 2 * (round_ste((t / twice + 0.5) * self.steps) / self.steps) - 1

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        if x.dtype == torch.float32:
            y, close = torch.empty_like(x), block_sums(1, x.numel(), 1)
            (largest,) = given(parameters)
            twice = 2 * _at_least_tiny(largest.tanh())
            margin = self.steps * (_ERROR / float(twice) + _ERROR)
            numbers = float(twice), self.steps, margin
            if LOOPS.run("tanh_weight", (x, y, close), (x.numel(),), numbers):
                settle(x, y, close, lambda w: self._quantize(w.tanh(), twice))
                return y
        return self.formula(x, *parameters)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (largest,) = given(parameters)
        t = largest.tanh()
        passes = bool(t >= torch.finfo(t.dtype).tiny)
        gx, sums = torch.empty_like(x), block_sums(1, x.numel(), 2)
        numbers = float(2 * _at_least_tiny(t)), self.steps, float(largest)
        if LOOPS.run("tanh_weight_backward", (g, x, gx, sums), (x.numel(), passes), numbers):
            return gx, None
        return by_formula(self, needed, g, x, *parameters)


def _at_least_tiny(x: Tensor) -> Tensor:
    return clip(x, torch.finfo(x.dtype).tiny)  # a layer may be all zeros


def _largest(x: Tensor) -> Tensor:
    low, high = x.detach().aminmax()
    return torch.maximum(-low, high)


def settle(x: Tensor, y: Tensor, close: Tensor, exactly: Callable[[Tensor], Tensor]) -> None:
    """Compute what a loop has left open, as its approximation may be rounded the wrong way.

    Args:
        x: A `dense` tensor.
        y: Its result, laid out alike, with NaN where it is open. It is changed in place.
        close: Number of open values of each block, (blocks, 1).
        exactly: Computes the result of some values, (n,), with torch.
    """
    blocks = close.squeeze(1).nonzero()
    if len(blocks):
        places = (blocks * BLOCK + torch.arange(BLOCK)).flatten()
        if places[-1] >= x.numel():  # of the last block
            places = places[places < x.numel()]
        values, results = (t.as_strided((t.numel(),), (1,)) for t in (x, y))
        places = places[results[places].isnan()]
        results[places] = exactly(values[places])


def interval_quantize(
    x: Tensor,
    centre: Tensor,
    half_width: Tensor,
    steps: int,
    *,
    gamma: Tensor | None = None,
    signed: bool = True,
) -> Tensor:
    """Quantize what lies in an interval, prune what lies below it and clip what lies above.

    Jung et al., CVPR 2019, arXiv:1808.05779, Eq. 3 and 5. Only rounding is straight through::

        u = clip((|x| − c) / 2d + ½, 0, 1)
        y = sign(x) [n u^γ] / n

    Args:
        x: Floating-point tensor of any shape.
        centre: Centre c of the interval, a scalar of the dtype of ``x``.
        half_width: Half of its width d, likewise, positive.
        steps: n, the number of steps from 0 to 1.
        gamma: Exponent γ, likewise. None: 1.
        signed: Whether values keep their sign. If not, x takes the place of |x|, and there is no
            sign.

    Returns:
        Values in [−1, 1], or in [0, 1] if unsigned; shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-0.9, -0.1, 0.6, 2.0], requires_grad=True)
        >>> y = interval_quantize(x, torch.tensor(0.5), torch.tensor(0.5), steps=2)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-1.0, -0.0, 0.5, 1.0], [1.0, 1.0, 1.0, 0.0])
    """
    return _Interval(float(steps), signed)(x, centre, half_width, gamma)


@dataclass(frozen=True)
class _Interval(Primitive):
    steps: float
    signed: bool

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        (c, d), gamma = given(parameters[:2]), parameters[2]
        u = clip(0.5 / d * (x.abs() if self.signed else x) - 0.5 * c / d + 0.5, 0, 1)
        if gamma is not None:
            inside = u > 0  # 0^γ is 0, but its derivative by γ would be 0 · ln 0
            u = torch.where(inside, torch.where(inside, u, 1.0) ** gamma, 0.0)
        y = round_ste(self.steps * u) / self.steps
        return x.detach().sign() * y if self.signed else y

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        _, _, gamma = parameters
        powered = gamma is not None
        if powered and x.dtype != torch.float32:
            return self.formula(x, *parameters)
        y, close = torch.empty_like(x), block_sums(1, x.numel(), 1)
        margin = 2 * self.steps * _ERROR
        numbers = *self._line(parameters), _number_or_one(gamma), self.steps, margin
        sizes = x.numel(), self.signed, powered
        if not LOOPS.run("interval", (x, y, close), sizes, numbers):
            return self.formula(x, *parameters)
        if powered:
            settle(x, y, close, lambda values: self.formula(values, *parameters))
        return y

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (c, d), gamma = given(parameters[:2]), parameters[2]
        gx, sums = torch.empty_like(x), block_sums(1, x.numel(), 3)
        slope, shift = self._line(parameters)
        numbers = slope, shift, float(c), _number_or_one(gamma), self.steps
        sizes = x.numel(), self.signed, gamma is not None
        if not LOOPS.run("interval_backward", (g, x, gx, sums), sizes, numbers):
            return by_formula(self, needed, g, x, *parameters)
        to_shift, to_slope, to_gamma = sums[0].tolist()
        found = -slope * to_shift, -slope / float(d) * to_slope, to_gamma
        return gx, *_as_gradients(needed, found, parameters)

    @staticmethod
    def _line(parameters: Sequence[Tensor | None]) -> tuple[float, float]:
        """Return slope and shift of the line that the interval is clipped from."""
        c, d = (p.detach() for p in given(parameters[:2]))
        return float(0.5 / d), float(0.5 * c / d)


def soft_uniform(
    x: Tensor, low: Tensor, high: Tensor, delta: Tensor, alpha: Tensor, cells: int
) -> Tensor:
    """Quantize to the nearest of n + 1 uniform levels, with the gradient of a soft staircase.

    Gong et al., ICCV 2019, arXiv:1908.05033, Eq. 4–8. The staircase is a piece of a hyperbolic
    tangent in each of the n cells of width δ, with m_i the middle of cell i::

        φ(x) = tanh(k (x − m_i)) / (1 − α),   k = ln(2/α − 1) / δ
        soft = l + δ (i + (φ(x) + 1) / 2)      from l to u; l below and u above

    Args:
        x: Floating-point tensor of any shape.
        low: Least level l, a scalar of the dtype of ``x``.
        high: Upper end u, likewise.
        delta: Width δ of a cell, likewise, positive.
        alpha: α, likewise, 0 < α < 1: the smaller, the closer the staircase is to its steps.
        cells: Number n of cells.

    Returns:
        Levels l + δ i, shape and dtype of ``x``.

    Example:
        >>> import torch
        >>> x = torch.tensor([-3.0, 0.1, 0.9], requires_grad=True)
        >>> low, high, alpha = torch.tensor([-1.0, 1.0, 0.2])
        >>> y = soft_uniform(x, low, high, high - low, alpha, cells=1)
        >>> y.sum().backward()
        >>> y.tolist(), [round(v, 3) for v in x.grad.tolist()]
        ([-1.0, 1.0, 1.0], [0.0, 1.357, 0.587])
    """
    return _SoftUniform(float(cells))(x, low, high, delta, alpha)


@dataclass(frozen=True)
class _SoftUniform(Primitive):
    cells: float

    def formula(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        low, high, delta, alpha = given(parameters)
        i = ((x - low) / delta).detach().floor().clamp(0, self.cells - 1)
        middle = low + (i + 0.5) * delta
        kappa = (2 / alpha - 1).log() / delta
        phi = (kappa * (x - middle)).tanh() / (1 - alpha)
        soft = low + delta * (i + (phi + 1) / 2)
        soft = torch.where(x < low, low, torch.where(x > high, high, soft))
        return straight_through(soft, low + delta * (i + (x >= middle)))

    def forward(self, x: Tensor, *parameters: Tensor | None) -> Tensor:
        low, _, delta, _ = map(float, given(parameters))
        y = torch.empty_like(x)
        if LOOPS.run("soft_uniform", (x, y), (x.numel(),), (low, delta, self.cells)):
            return y
        return self.formula(x, *parameters)

    def backward(
        self, needed: Sequence[bool], g: Tensor, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        low, high, delta, alpha = map(float, given(parameters))
        odds = 2 / alpha - 1
        numbers = (low, high, delta, self.cells, math.log(odds), 1 / (1 - alpha))
        by_alpha = (1 / (1 - alpha) ** 2, -2 / (alpha**2 * odds))
        gx, sums = torch.empty_like(x), block_sums(1, x.numel(), 4)
        tensors = g, x, gx, sums
        if not LOOPS.run("soft_uniform_backward", tensors, (x.numel(),), numbers + by_alpha):
            return by_formula(self, needed, g, x, *parameters)
        return gx, *_as_gradients(needed, sums[0].tolist(), parameters)


def _number_or_one(parameter: Tensor | None) -> float:
    return 1.0 if parameter is None else float(parameter)


def _as_gradients(
    needed: Sequence[bool], found: Sequence[float], parameters: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Return the gradients of scalars, each in the shape and dtype of its parameter."""
    return [
        None if parameter is None or not one else torch.full_like(parameter, value)
        for one, value, parameter in zip(needed[1:], found, parameters, strict=True)
    ]

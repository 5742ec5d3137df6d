"""The primitives of `qbench.functional` with arguments, their engines, and awkward values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.functional import (
    binarize,
    clip,
    clip_quantize,
    clip_round,
    fake_quantize,
    interval_quantize,
    interval_round,
    learned_ternary,
    polynomial_sign,
    scaled_levels,
    sign_sum,
    soft_uniform,
    tanh_weight,
    ternarize,
    to_levels,
    two_levels,
)
from qbench.quant.kernels import build
from qbench.quant.primitives import primitive
from qbench.quant.primitives.primitive import LOOPS

HAS_C = build.load(LOOPS.source, "-ffp-contract=off") is not None
ENGINES = [
    pytest.param("C", marks=pytest.mark.skipif(not HAS_C, reason="has no C compiler")),
    "torch",
]


@dataclass(frozen=True)
class Case:
    """A primitive and its arguments.

    Attributes:
        function: Function of x and the learned parameters.
        learned: Values of parameters that get a gradient.
        points: Values of x at which it does something else than beside them: ends, thresholds.
        step: Distance of levels.
        rows: Whether the parameters have a value for each row.
        passes_all: Whether the gradient passes everywhere.
        curved: Whether loops compute the gradient by polynomials in float32.
    """

    function: Callable[..., Tensor]
    learned: tuple[float, ...] = ()
    points: tuple[float, ...] = (0.0, 1.0)
    step: float = 0.25
    rows: bool = False
    passes_all: bool = False
    curved: bool = False

    def parameters(self, dtype: torch.dtype, x: Tensor) -> list[Tensor]:
        """Return fresh learned parameters for a tensor."""
        made = [torch.tensor(value, dtype=dtype) for value in self.learned]
        if self.rows:
            made = [of_rows(x, value) for value in self.learned]
        return [p.requires_grad_() for p in made]


CASES: Mapping[str, Case] = {
    "clip": Case(lambda x: clip(x, -0.3, 0.7), points=(-0.3, 0.7)),
    "clip, open": Case(lambda x: clip(x, 0, 1, closed="neither")),
    "clip, half open": Case(lambda x: clip(x, 0, 1, closed="right")),
    "clip, from below": Case(lambda x: clip(x, 0, closed="left")),
    "clip, to a tensor": Case(lambda x: clip(x, x.new_tensor(-1.0), x.new_tensor(0.1))),
    "clip_round": Case(lambda x: clip_round(x, -1, 1, 7), points=(-1.0, 1.0), step=1 / 7),
    "clip_round, open": Case(lambda x: clip_round(x, 0, 1, 3, closed="neither"), step=1 / 3),
    "clip_round, scaled by the error": Case(
        lambda x: clip_round(x, 0, 1, 3, error_slope=0.3), step=1 / 3
    ),
    "fake_quantize": Case(
        lambda x, s: fake_quantize(x, s, -4, 3), (0.37,), (-4 * 0.37, 3 * 0.37), 0.37
    ),
    "fake_quantize, closed": Case(
        lambda x, s: fake_quantize(x, s, 0, 3, closed="both"), (0.25,), (0.0, 0.75)
    ),
    "fake_quantize, falling": Case(lambda x, s: fake_quantize(x, s, 0, 3), (-0.25,), (0.0, -0.75)),
    "fake_quantize, offset": Case(
        lambda x, s, b: fake_quantize(x, s, 0, 15, offset=b), (0.1, -0.2), (-0.2, 1.3), 0.1
    ),
    "fake_quantize, unclipped": Case(lambda x, s: fake_quantize(x, s), (0.37,), passes_all=True),
    "fake_quantize, rows": Case(
        lambda x, s: fake_quantize(x, s, -3, 3), (0.25,), (-0.75, 0.75), rows=True
    ),
    "fake_quantize, rows and an offset": Case(
        lambda x, s, b: fake_quantize(x, s, 0, 3, offset=b), (0.25, 0.1), (0.1, 0.85), rows=True
    ),
    "fake_quantize, fixed": Case(lambda x: fake_quantize(x, x.new_tensor(0.25), 0, 3)),
    "fake_quantize, half a step beyond": Case(
        lambda x, s, b: fake_quantize(x, s, -2, 1, offset=b, closed="both", inside="codes"),
        (0.25, 0.125),
        (-0.5, 0.5),
    ),
    "fake_quantize, straight through": Case(
        lambda x: fake_quantize(x, of_rows(x, 0.25), -3, 3, offset=of_rows(x, 0.1), inside="all"),
        passes_all=True,
    ),
    "interval_round": Case(
        lambda x, low, high: interval_round(x, low, high, 3), (-0.25, 0.5), (-0.25, 0.5), 0.25
    ),
    "interval_round, signed": Case(
        lambda x, low, high: interval_round(x, low, high, 3, signed=True, error_slope=0.3),
        (-0.75, 0.75),
        (-0.75, 0.75),
    ),
    "interval_round, rows": Case(
        lambda x, low, high: interval_round(x, low, high, 7), (-0.25, 0.5), rows=True
    ),
    "tanh_weight": Case(lambda x: tanh_weight(x, 3), points=(-1.0, 1.0), curved=True),
    "interval_quantize": Case(
        lambda x, c, d: interval_quantize(x, c, d, 3), (0.625, 0.5), (0.125, 1.125), 1 / 3
    ),
    "interval_quantize, unsigned": Case(
        lambda x, c, d: interval_quantize(x, c, d, 7, signed=False), (0.5, 0.5), step=1 / 7
    ),
    "interval_quantize, power": Case(
        lambda x, c, d, gamma: interval_quantize(x, c, d, 3, gamma=gamma),
        (0.625, 0.5, 1.25),
        (0.125, 1.125),
        1 / 3,
        curved=True,
    ),
    "scaled_levels": Case(
        lambda x, a: scaled_levels(x, a, x.new_tensor([0, 0.125, 0.5, 1])),
        (2.0,),
        (0.0, 0.125, 2.0),
    ),
    "scaled_levels, signed": Case(
        lambda x, a: scaled_levels(x, a, x.new_tensor([0, 0.25, 0.5, 0.75, 1]), signed=True),
        (1.0,),
        (-1.0, -0.375, 0.375, 1.0),
        0.125,
    ),
    "sign_sum": Case(
        lambda x, *p: sign_sum(x, torch.stack(p[:3]), torch.stack(p[3:])),
        (0.5, 0.125, -0.5, 0.7, 0.3, 0.2),
        (-0.5, 0.0, 0.5, 1.0, 1.5),
        0.125,
    ),
    "soft_uniform": Case(
        lambda x, low, high, alpha: soft_uniform(x, low, high, (high - low) / 3, alpha, 3),
        (-0.5, 1.0, 0.2),
        (-0.5, 0.0, 0.5, 1.0),
        0.5,
        curved=True,
    ),
    "clip, rows": Case(lambda x: clip(x, of_rows(x, -0.5), of_rows(x, 0.5), closed="left")),
    "clip_quantize": Case(
        lambda x, low, high: clip_quantize(x, low, high, x.new_tensor(0.1)),
        (-0.3, 0.7),
        (-0.3, 0.7),
        0.1,
    ),
    "clip_quantize, half open": Case(
        lambda x, high: clip_quantize(x, 0, high, high.detach() / 3, closed="left"),
        (0.7,),
        (0.0, 0.7),
        0.7 / 3,
    ),
    "clip_quantize, rows": Case(
        lambda x, high: clip_quantize(x, -0.5, high, high / 4), (0.5,), (-0.5, 0.5), rows=True
    ),
    "binarize": Case(lambda x: binarize(x), passes_all=True),
    "binarize, window": Case(lambda x: binarize(x, window=1), points=(-1.0, 0.0, 1.0)),
    "binarize, open window": Case(
        lambda x: binarize(x, x.new_tensor(0.3), window=0.7, closed="neither"),
        points=(-0.7, 0.0, 0.7),
    ),
    "binarize, rows": Case(lambda x: binarize(x, of_rows(x, 0.3)), passes_all=True),
    "binarize, slopes": Case(
        lambda x: binarize(
            x, of_rows(x, 0.3), window=1, slopes=(of_rows(x, 0.4), x.new_tensor(0.1))
        ),
        points=(-1.0, 0.0, 1.0),
    ),
    "two_levels": Case(
        lambda x, *p: two_levels(x, p[0], p[1], centre=p[2], deviation=p[3], reach=0.7),
        (0.3, 0.1, 0.25, 0.5),
        (-0.1, 0.25, 0.6),
        curved=True,
        rows=True,
    ),
    "two_levels, triangle": Case(
        lambda x, *p: two_levels(x, *p, slope="triangle"),
        (0.3, 0.1),
        (-1.0, 0.0, 1.0),
        curved=True,
    ),
    "two_levels, tanh": Case(
        lambda x, m, d: two_levels(x, centre=m, deviation=d, slope="tanh", reach=x.new_tensor(3.0)),
        (0.25, -0.5),
        (0.25,),
        curved=True,
        rows=True,
    ),
    "polynomial_sign": Case(polynomial_sign, points=(-1.0, 0.0, 1.0)),
    **{
        f"to_levels, {steps}": Case(lambda x, n=steps: leveled(x, n), passes_all=True)
        for steps in (1, 3, 4, 15)
    },
    "to_levels, right": Case(lambda x: leveled(x, 7, right=True), passes_all=True),
    "to_levels, interval": Case(lambda x: leveled(x, 3, low=0, high=0.75, closed="right")),
    "to_levels, rows": Case(
        lambda x: to_levels(
            x,
            of_rows(x, 0.5).flatten()[:, None] * x.new_tensor([-1, 0, 1]),
            of_rows(x, 0.5).flatten()[:, None] * x.new_tensor([-1.5, -0.5, 0.5, 1.5]),
            high=x.new_tensor(1.0),
        ),
        rows=True,
    ),
    "ternarize": Case(
        lambda x: ternarize(x, x.new_tensor(0.3), of_rows(x, 0.5)),
        points=(-0.3, 0.3),
        passes_all=True,
    ),
    "ternarize, window": Case(
        lambda x: ternarize(x, of_rows(x, 0.5), window=1), points=(-1.0, -0.5, 0.5, 1.0)
    ),
    "learned_ternary": Case(
        lambda x, p, n: learned_ternary(x, x.new_tensor(0.3), p, n),
        (1.5, 0.5),
        (-0.3, 0.3),
        passes_all=True,
    ),
}


def of_rows(x: Tensor, value: float) -> Tensor:
    """Return a value for each row of a tensor, (rows, 1, …), the first of them as given."""
    if not x.dim():
        return x.new_tensor(value)
    factors = 1 + torch.arange(len(x), dtype=x.dtype) / 8
    return value * factors.reshape(-1, *([1] * (x.dim() - 1)))


def leveled(x: Tensor, steps: int, **options: Any) -> Tensor:
    """Map a tensor to levels ¼ apart, with thresholds at the lower ones of two neighbours."""
    thresholds = torch.arange(steps) / 4
    return to_levels(x, thresholds, torch.arange(steps + 1) / 3 - 0.1, **options)


def values(case: Case, dtype: torch.dtype, count: int = 2 * 1024 + 37) -> Tensor:
    """Return values in and around a case's interval, on its ends and ties, and at extremes.

    Args:
        case: The case.
        dtype: dtype of the values.
        count: Number of values.
    """
    random = np.random.default_rng(0)
    reach = 2 * max(1.0, *map(abs, case.points))
    drawn = random.uniform(-reach, reach, count)
    codes = random.integers(-9, 9, count)
    drawn[::5] = (codes[::5] + 0.5) * case.step  # halfway between two levels
    drawn[1::10] = codes[1::10] * case.step
    info = torch.finfo(dtype)
    extremes = [0.0, -0.0, info.tiny, -info.tiny, info.smallest_normal / 4, info.max, info.min]
    x = torch.from_numpy(drawn).to(dtype)
    points = torch.tensor(case.points, dtype=dtype)
    around = [points, *(points.nextafter(points.new_tensor(end)) for end in (-9e9, 9e9))]
    special = torch.cat([*around, torch.tensor(extremes, dtype=dtype)])
    if count > 2 * len(special):
        x[-len(special) :] = special
        x[: len(special)] = special
    return x


def force(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    """Have primitives computed by ``C``, by ``torch`` without a compiler, or by the ``formula``."""
    if engine == "formula":
        monkeypatch.setattr(primitive, "_fit", lambda *arguments: False)
    if engine == "torch":
        monkeypatch.setattr(build, "load", lambda *arguments: None)


def run(case: Case, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return the value of a case, and the gradients of x and of the learned parameters."""
    x = x.detach().requires_grad_()
    parameters = case.parameters(x.dtype, x)
    y = case.function(x, *parameters)
    gx, *gradients = torch.autograd.grad(y, [x, *parameters], g)
    return y.detach(), gx, gradients


def same_bits(found: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors are equal to the last bit, signs of zeros and NaN included."""
    whole = torch.int32 if found.dtype == torch.float32 else torch.int64
    alike = found.view(whole) == expected.view(whole)
    return bool((alike | (found.isnan() & expected.isnan())).all())

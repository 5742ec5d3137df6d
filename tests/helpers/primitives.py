"""The primitives of `qbench.functional` with arguments, their engines, and awkward values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.functional import (
    clip,
    clip_round,
    fake_quantize,
    interval_quantize,
    soft_uniform,
    tanh_weight,
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
    passes_all: bool = field(default=False)
    curved: bool = False

    def parameters(self, dtype: torch.dtype, x: Tensor) -> list[Tensor]:
        """Return fresh learned parameters for a tensor."""
        made = [torch.tensor(value, dtype=dtype) for value in self.learned]
        if self.rows:
            factors = 1 + torch.arange(len(x), dtype=dtype) / 8
            made = [p * factors.reshape(-1, *([1] * (x.dim() - 1))) for p in made]
        return [p.requires_grad_() for p in made]


CASES: Mapping[str, Case] = {
    "clip": Case(lambda x: clip(x, -0.3, 0.7), points=(-0.3, 0.7)),
    "clip, open": Case(lambda x: clip(x, 0, 1, closed="neither")),
    "clip, half open": Case(lambda x: clip(x, 0, 1, closed="right")),
    "clip, from below": Case(lambda x: clip(x, 0, closed="left")),
    "clip, to a tensor": Case(lambda x: clip(x, x.new_tensor(-1.0), x.new_tensor(0.1))),
    "clip_round": Case(lambda x: clip_round(x, -1, 1, 7), points=(-1.0, 1.0), step=1 / 7),
    "clip_round, open": Case(lambda x: clip_round(x, 0, 1, 3, closed="neither"), step=1 / 3),
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
    "soft_uniform": Case(
        lambda x, low, high, alpha: soft_uniform(x, low, high, (high - low) / 3, alpha, 3),
        (-0.5, 1.0, 0.2),
        (-0.5, 0.0, 0.5, 1.0),
        0.5,
        curved=True,
    ),
}


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
        monkeypatch.setattr(primitive, "_fit", lambda x, parameters: False)
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

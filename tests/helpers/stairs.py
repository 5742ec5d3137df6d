"""Staircases to compute, their formulas in numpy's float64, and how exactly these can be met.

A soft staircase is the sum as it is written, a table read by torch, or a table read by C. What is
asked of one is asked of all. The expected values never come from the code that is tested.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench.quant.staircase import engines, kernels
from qbench.quant.staircase.staircase import staircase

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Stair:
    """The numbers of a staircase, as Python knows them."""

    biases: tuple[float, ...]
    scales: tuple[float, ...]
    offset: float
    alpha: float = 0.37
    beta: float = 1.7

    @classmethod
    def onto(cls, *levels: float, biases: tuple[float, ...] | None = None) -> Stair:
        """Onto levels, with its steps halfway between them."""
        halfway = tuple((a + b) / 2 for a, b in itertools.pairwise(levels))
        rises = tuple(b - a for a, b in itertools.pairwise(levels))
        return cls(biases or halfway, rises, -levels[0])

    def arguments(
        self,
        temperature: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> dict[str, Any]:
        """Of `staircase`, without x."""

        def tensor(value: float | tuple[float, ...]) -> Tensor:
            return torch.tensor(value, dtype=torch.float32).to(device, dtype)

        return {
            "alpha": tensor(self.alpha),
            "beta": tensor(self.beta),
            "biases": tensor(self.biases),
            "scales": tensor(self.scales),
            "offset": self.offset,
            "temperature": tensor(temperature),
        }


STAIRS = {
    "1 step": Stair.onto(-1, 1),
    "2 steps": Stair.onto(-1, 0, 1, biases=(-0.05, 0.05)),
    "4 steps": Stair.onto(*range(-2, 3)),
    "6 steps": Stair.onto(-4, -2, -1, 0, 1, 2, 4),
    "uneven": Stair.onto(-7, -3, 0, 1, 9),
    "30 steps": Stair.onto(*range(-15, 16)),
    "255 steps": Stair.onto(*range(256)),
}
# No multiples of a block of 256; more in all than 2**12 sigmoids, from where a table is read.
COUNTS = {"1 step": 15_001, "30 steps": 2_001, "255 steps": 1_501}
TEMPERATURES = [1, 5, 50, 275, 550, 2000]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="has no GPU")
    ),
]
READERS = {"sum": "SumEngine", "table in torch": "TableEngine", "table in C": "KernelEngine"}
NEEDS_C = pytest.mark.skipif(kernels.load() is None, reason="has no C compiler")


def force(
    monkeypatch: pytest.MonkeyPatch, reader: str, steps: int = 30, device: str = "cpu"
) -> set[str]:
    """Have staircases of any size computed in one way; return the set of ways that are used."""
    if reader == "table in C" and (device != "cpu" or kernels.load() is None):
        pytest.skip("C is for the CPU, and needs a compiler")
    if reader == "table in torch" and device == "cpu" and steps < 3:
        pytest.skip("torch on the CPU takes the sum of one or two sigmoids")
    smallest = 2**62 if reader == "sum" else 0
    monkeypatch.setattr(engines, "_MIN_SIGMOIDS", smallest)
    monkeypatch.setattr(engines, "_MIN_SIGMOIDS_LEARNED", smallest)
    if reader == "table in torch":
        monkeypatch.setattr(kernels, "load", lambda: None)
    choose = engines.choose_engine
    used = set()

    def watched(*arguments: Any) -> Any:
        chosen = choose(*arguments)
        used.add(type(chosen).__name__)
        return chosen

    monkeypatch.setattr(engines, "choose_engine", watched)
    return used


# The formulas, and how exactly they can be met


@dataclass(frozen=True)
class Expected:
    """Eq. 7, its gradients, and by how much arithmetic of limited precision may miss them."""

    value: Array  # y
    to_x: Array  # ∂y/∂x
    to_alpha: Array  # ∂y/∂α
    to_beta: Array  # ∂y/∂β
    to_biases: Array  # ∂y/∂b, a column for every step
    value_error: Array
    to_x_error: Array
    to_alpha_error: Array
    to_beta_error: Array
    to_biases_error: Array


def equation_7(
    x: Array, given: dict[str, Any], table: bool, rounding: float = 2.0**-24
) -> Expected:
    """The formulas in float64, and bounds of the error where they are computed with a ``rounding``.

    With z_i = T(βx − b_i), h_i = σ(z_i), p_i = h_i(1 − h_i), r the rounding of one operation:

    * u = βx is rounded to r|u|, and so are u − b_i and z_i, where no more than 18/T and 18 count:
      together a shift of u by ε ≤ 2r(|u| + 36/T). The place in a table of cubics is
      (u − low) · cells per unit + 1, of which both numbers are rounded as well: six times up to
      r(|u| + max |b| + 18/T). It changes Σ s_i h_i by ε T Σ s_i p_i, and since
      |p′| = p |1 − 2h| ≤ p, the sum of T s_i p_i by no more than εT of itself.
    * The sum, the table's coefficients and the offset are rounded: 8r(Σ s_i + |o|).
    * 1 − h_i is rounded to r where h_i is almost 1, and a table leaves out what is beyond 18/T,
      where h_i is within e^−18 < r of its end: 8r Σ s_i min(1, e^(18 − |z_i|)). Nothing is nearer
      to its end than e^−40.
    * A cubic over a cell of c = 1/(8T) that meets F and F′ at both ends misses F by c⁴/384 max|F⁗|
      and F′ by √3/216 c³ max|F⁗|. As |F⁗| ≤ T⁴ Σ s_i p_i, and p_i varies by e^(1/8) within a cell,
      that is 7.2e-7 Σ s_i p_i, and 1.8e-5 of F′.
    * Such a table jumps by s_i e^−18 over the one cell in which a step is left out. A cubic may be
      1.5 times as steep as a straight line, and no cell is narrower than 36/(4096T): 2.6e-6 s_i T.
    """
    alpha, beta, b, s, t = (
        given[name].detach().double().cpu().numpy()
        for name in ("alpha", "beta", "biases", "scales", "temperature")
    )
    o = given["offset"]
    r = rounding
    u = beta * x
    z = t * (u[:, None] - b)
    e = np.exp(-np.abs(z))
    h = np.where(z >= 0, 1, e) / (1 + e)
    slopes = t * s * e / (1 + e) ** 2
    total, slope = (s * h).sum(1) - o, slopes.sum(1)

    shift = 2 * r * (np.abs(u) + 36 / t)
    if table:
        shift = 6 * r * (np.abs(u) + np.abs(b).max() + 18 / t)
    ends = 8 * r * np.abs(s) * np.exp(np.clip(18 - np.abs(z), -24, 0))
    total_error = shift * slope + 8 * r * (np.abs(s).sum() + abs(o)) + ends.sum(1)
    slopes_error = (shift * t + 8 * r)[:, None] * slopes + t * ends
    slope_error = slopes_error.sum(1)
    if table:
        total_error = total_error + 7.2e-7 * slope / t
        left_out = np.abs(np.abs(z) - 18) < 0.2
        slope_error = slope_error + 1.8e-5 * slope + 2.6e-6 * t * (np.abs(s) * left_out).sum(1)
    size, weight = abs(alpha), np.abs(x)
    return Expected(
        value=alpha * total,
        to_x=alpha * beta * slope,
        to_alpha=total,
        to_beta=alpha * x * slope,
        to_biases=-alpha * slopes,
        value_error=size * total_error,
        to_x_error=size * abs(beta) * slope_error,
        to_alpha_error=total_error,
        to_beta_error=size * weight * slope_error,
        to_biases_error=size * slopes_error,
    )


def assert_within(computed: Tensor | Array, exact: Array, error: Array, what: str) -> None:
    """That nothing is further than its error from what is exact."""
    found = computed.detach().double().cpu().numpy() if isinstance(computed, Tensor) else computed
    assert found.shape == exact.shape, what
    ratio = np.abs(found - exact) / error
    worst = np.unravel_index(np.argmax(ratio), ratio.shape)
    assert (ratio <= 1).all(), f"{what}: {found[worst]} is not {exact[worst]} ± {error[worst]}"


def assert_equation_7(
    x: Tensor,
    given: dict[str, Any],
    computed: Mapping[str, Tensor],
    g: Tensor,
    table: bool,
) -> None:
    """That a value and the gradients that came of ``g`` are those of Eq. 7.

    A sum over elements adds up their errors, and the roundings of its own additions: the longest
    chain of them is 64 here, by blocks and chunks.
    """
    resolution = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}
    rounding = resolution.get(x.dtype, 2.0**-24)
    stored = {torch.bfloat16: 2.0**-8}.get(x.dtype, rounding)  # in x's dtype
    flat = x.detach().double().cpu().numpy().ravel()
    upstream = g.detach().double().cpu().numpy().ravel()
    exact = equation_7(flat, given, table, rounding)
    tiny = 1e-37  # the least of a bfloat16 or float32
    for name, value in computed.items():
        if name == "value":
            error = exact.value_error * (1 + stored) + stored * np.abs(exact.value) + tiny
            assert_within(value.flatten(), exact.value, error, name)
        elif name == "x":
            one = upstream * exact.to_x
            error = np.abs(upstream) * exact.to_x_error * (1 + stored) + stored * np.abs(one) + tiny
            assert_within(value.flatten(), one, error, "gradient of x")
        else:
            term = getattr(exact, f"to_{name}")
            term_error = getattr(exact, f"to_{name}_error")
            if term.ndim == 1:
                term, term_error = term[:, None], term_error[:, None]
            weighted = upstream[:, None] * term
            error = (np.abs(upstream)[:, None] * term_error).sum(0)
            error = error + 64 * rounding * np.abs(weighted).sum(0) + tiny
            assert_within(value.flatten(), weighted.sum(0), error, f"gradient of {name}")


def run(
    x: Tensor, given: dict[str, Any], g: Tensor, learned: tuple[str, ...] = ("alpha", "beta")
) -> dict[str, Tensor]:
    """The value of the staircase and its gradients, by the names of what they belong to."""
    x = x.detach().requires_grad_()
    leaves = {name: given[name].detach().requires_grad_() for name in learned}
    y = staircase(x, **{**given, **leaves})
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    gradients = torch.autograd.grad(y, [x, *leaves.values()], g)
    for gradient, leaf in zip(gradients, [x, *leaves.values()], strict=True):
        assert gradient.dtype == leaf.dtype
        assert gradient.shape == leaf.shape
    return {"value": y, **dict(zip(["x", *learned], gradients, strict=True))}


@functools.lru_cache(maxsize=16)
def inputs(
    stair: Stair, temperature: float, count: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """x over all of the staircase, on its slopes and far outside, and an upstream gradient."""
    random = np.random.default_rng(seed)
    b = np.asarray(stair.biases)
    reach = np.abs(b).max() + 20 / temperature
    part = random.integers(0, 8, count)
    wide = random.uniform(-1.2 * reach, 1.2 * reach, count)
    close = random.choice(b, count) + random.uniform(-25, 25, count) / temperature
    far = random.uniform(-50, 50, count) * reach
    u = np.where(part < 3, wide, np.where(part < 7, close, far))
    u[: len(b)] = b  # the thresholds themselves
    x = torch.from_numpy(u / stair.beta).to(dtype)
    return x, torch.from_numpy(random.standard_normal(count)).to(dtype)

"""The staircase of sigmoids, whichever way it is computed, against its formulas in numpy's float64.

A soft staircase is the sum as it is written, a table read by torch, or a table read by C. What is
asked of one is asked of all. The expected values never come from the module itself.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qbench.quant.staircase.staircase as module
from qbench.quant.staircase import kernels
from qbench.quant.staircase.staircase import hard_staircase, staircase

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
READERS = {"sum": "_Sum", "table in torch": "_Lookup", "table in C": "_Kernel"}
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
    monkeypatch.setattr(module, "_TABLE_FROM", smallest)
    monkeypatch.setattr(module, "_LEARNED_FROM", smallest)
    if reader == "table in torch":
        monkeypatch.setattr(kernels, "load", lambda: None)
    choose = module._reader
    used = set()

    def watched(*arguments: Any) -> Any:
        chosen = choose(*arguments)
        used.add(type(chosen).__name__)
        return chosen

    monkeypatch.setattr(module, "_reader", watched)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "temperature"), [*itertools.product(STAIRS, TEMPERATURES), ("255 steps", 30)]
)
def test_every_way_to_compute_it_gives_equation_7_and_its_gradients(
    name: str,
    temperature: float,
    device: str,
    reader: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stair = STAIRS[name]
    used = force(monkeypatch, reader, len(stair.biases), device)
    given = stair.arguments(temperature, device=device)
    x, g = (t.to(device) for t in inputs(stair, temperature, COUNTS.get(name, 5_001), dtype))
    assert_equation_7(x, given, run(x, given, g), g, table=reader != "sum")
    assert used == {READERS[reader]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "temperature"),
    [
        ("1 step", 5),
        ("2 steps", 50),
        ("4 steps", 1),
        ("6 steps", 2000),
        ("uneven", 5),
        ("30 steps", 275),
        ("255 steps", 1),
        ("255 steps", 550),
    ],
)
def test_learned_biases_get_their_gradient_whichever_way_the_value_is_computed(
    name: str,
    temperature: float,
    device: str,
    reader: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stair = STAIRS[name]
    force(monkeypatch, reader, len(stair.biases), device)
    given = stair.arguments(temperature, device=device)
    x, g = (t.to(device) for t in inputs(stair, temperature, COUNTS.get(name, 5_001), dtype))
    computed = run(x, given, g, learned=("alpha", "beta", "biases"))
    assert_equation_7(x, given, computed, g, table=reader != "sum")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("learned", [("alpha", "beta"), ("alpha", "beta", "biases")])
@pytest.mark.parametrize("count", [1, 255, 4096, 70_003])
def test_no_size_makes_a_difference(count: int, learned: tuple[str, ...], device: str) -> None:
    given = STAIRS["4 steps"].arguments(50, device=device)
    x, g = (t.to(device) for t in inputs(STAIRS["4 steps"], 50, max(count, 4)))
    x, g = x[:count], g[:count]
    assert_equation_7(x, given, run(x, given, g, learned), g, table=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("name", "count"), [("1 step", 2**18 + 777), ("uneven", 2**17 + 5)])
def test_more_than_fits_into_a_chunk_is_no_different(
    name: str, count: int, reader: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    stair = STAIRS[name]
    force(monkeypatch, reader, len(stair.biases))
    given = stair.arguments(5)
    x, g = inputs(stair, 5, count, dtype)
    assert_equation_7(x, given, run(x, given, g), g, table=True)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("alpha", "beta"), [(-0.5, 1.7), (0.37, -1.7), (0.37, 0.0), (30.0, 1e-3)])
@pytest.mark.parametrize(("name", "temperature"), [("6 steps", 50), ("30 steps", 550)])
def test_alpha_and_beta_may_be_negative_large_or_small(
    name: str,
    temperature: float,
    alpha: float,
    beta: float,
    reader: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    force(monkeypatch, reader)
    stair = STAIRS[name]
    given = stair.arguments(temperature)
    given |= {"alpha": torch.tensor(alpha), "beta": torch.tensor(beta)}
    x, g = inputs(stair, temperature, 5_001)
    x = x * stair.beta / beta if beta else x
    assert_equation_7(x, given, run(x, given, g), g, table=True)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("biases", "scales"),
    [
        ((2.5, -3.5, 0.25, -1.0), (1, 2, 4, 3)),  # in no order
        ((-1.0, 0.5, 0.5, 2.0), (1, 1, 1, 1)),  # two in one place
        ((-127.0, 0.0, 0.001, 127.0), (1, 1, 1, 1)),  # two very close, others far away
        ((-1e6, 0.0, 1e6), (1, 1, 1)),
        ((-3.0, 0.0, 3.0), (1, -2, 1)),  # one downwards
    ],
)
@pytest.mark.parametrize("temperature", [5, 550, 2000])
def test_steps_may_lie_anywhere(
    temperature: float,
    biases: tuple[float, ...],
    scales: tuple[float, ...],
    reader: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    force(monkeypatch, reader)
    stair = Stair(biases, scales, 1.5)
    given = stair.arguments(temperature)
    x, g = inputs(stair, temperature, 5_001)
    if min(scales) > 0:
        assert_equation_7(x, given, run(x, given, g), g, table=True)
        return
    # The bounds are for steps upwards: those of as many steps upwards hold all the more.
    upwards = equation_7(x.double().numpy(), {**given, "scales": given["scales"].abs()}, table=True)
    exact = equation_7(x.double().numpy(), given, table=True)
    computed = run(x, given, torch.ones_like(g))
    assert_within(computed["value"], exact.value, upwards.value_error, "value")
    assert_within(computed["x"], exact.to_x, upwards.to_x_error, "gradient of x")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("biases", "temperature"),
    [((-20.0, 0.0, 20.0), 275), ((-20.0, 0.0, 20.0), 2000), (STAIRS["30 steps"].biases, 550)],
)
def test_steps_of_one_height_and_far_apart_are_as_exact_in_a_table_as_in_the_sum(
    biases: tuple[float, ...], temperature: float, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, reader)
    stair = Stair(biases, (2.0,) * len(biases), 2.0)
    given = stair.arguments(temperature)
    x, g = inputs(stair, temperature, 5_001)
    assert_equation_7(x, given, run(x, given, g), g, table=False)


@pytest.mark.parametrize("reader", READERS)
def test_steps_may_have_no_height(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, reader)
    stair = Stair((-20.0, 0.0, 20.0), (0.0, 0.0, 0.0), 1.5)
    given = stair.arguments(2000)
    x, g = inputs(stair, 2000, 5_001)
    assert_equation_7(x, given, run(x, given, g), g, table=True)


@pytest.mark.parametrize("temperature", [1.0, 5.0, 30.0])
@pytest.mark.parametrize("name", ["1 step", "2 steps", "6 steps", "30 steps", "255 steps"])
def test_finite_differences_confirm_every_gradient(name: str, temperature: float) -> None:
    stair = STAIRS[name]
    given = stair.arguments(temperature, torch.float64)
    random = np.random.default_rng(0)
    near = random.choice(stair.biases, 6) + random.uniform(-3, 3, 6) / temperature
    x = torch.from_numpy(near / stair.beta).view(2, 3).requires_grad_()
    leaves = [given.pop(key).requires_grad_() for key in ("alpha", "beta", "biases")]

    def function(x: Tensor, alpha: Tensor, beta: Tensor, biases: Tensor) -> Tensor:
        return staircase(x, alpha, beta, biases, **given)

    assert torch.autograd.gradcheck(function, (x, *leaves), eps=1e-6, atol=1e-5, rtol=1e-5)


# What is kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["1 step", "6 steps", "255 steps"])
def test_backward_keeps_the_input_and_nothing_else_of_its_size(
    name: str, reader: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = len(STAIRS[name].biases)
    force(monkeypatch, reader, steps)
    # The sum of 255 sigmoids takes long, and keeps as much for every element.
    count = 2**20 if reader != "sum" or steps < 10 else 2**14
    given = STAIRS[name].arguments(5)
    given["alpha"].requires_grad_()
    given["beta"].requires_grad_()
    x = torch.zeros(count, dtype=dtype, requires_grad=True)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = staircase(x, **given)
    assert x.nbytes <= sum(kept) <= x.nbytes + 1024 * steps
    held = [v for v in vars(y.grad_fn).values() if isinstance(v, Tensor)]
    assert sum(tensor.nbytes for tensor in held) <= 1024 * steps


def test_what_is_kept_may_be_packed_away() -> None:
    given = STAIRS["6 steps"].arguments(50)
    x, g = inputs(STAIRS["6 steps"], 50, 50_001)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True), torch.tensor):
        computed = run(x, given, g, learned=("alpha", "beta", "biases"))
    assert_equation_7(x, given, computed, g, table=True)


def test_a_table_is_built_once_per_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, "table in torch")
    build, built = module.Table.build, []

    def counted(*arguments: Any) -> Any:
        built.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(module.Table, "build", counted)
    given = STAIRS["6 steps"].arguments(5)
    for temperature in (5.0, 10.0):
        given["temperature"].fill_(temperature)
        for seed in range(3):
            x, g = inputs(STAIRS["6 steps"], 5, 5_001, seed=seed)
            run(x, given, g)
    assert len(built) == 2


# Changes of what a table was built from


class Quantizer(nn.Module):
    """A staircase whose numbers a module holds."""

    scales: Tensor
    temperature: Tensor

    def __init__(self, stair: Stair, temperature: float) -> None:
        super().__init__()
        given = stair.arguments(temperature)
        self.alpha = nn.Parameter(given["alpha"])
        self.beta = nn.Parameter(given["beta"])
        self.biases = nn.Parameter(given["biases"])
        self.register_buffer("scales", given["scales"])
        self.register_buffer("temperature", given["temperature"])
        self.offset = stair.offset

    def given(self) -> dict[str, Any]:
        names = ("alpha", "beta", "biases", "scales", "offset", "temperature")
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Tensor) -> Tensor:
        return staircase(x, **self.given())


def trained_by(make: Callable[..., torch.optim.Optimizer], **options: Any) -> Any:
    def train(quantizer: Quantizer) -> None:
        optimizer = make(quantizer.parameters(), lr=0.1, **options)
        for parameter in quantizer.parameters():
            parameter.grad = torch.full_like(parameter, 0.7)
        optimizer.step()

    return train


def without_gradient(change: Callable[[Quantizer], object]) -> Any:
    def apply(quantizer: Quantizer) -> None:
        with torch.no_grad():
            change(quantizer)

    return apply


def restored(quantizer: Quantizer) -> None:
    quantizer.load_state_dict(Quantizer(STAIRS["uneven"], 11.0).state_dict())


def copied(quantizer: Quantizer) -> Quantizer:
    other = copy.deepcopy(quantizer)
    with torch.no_grad():
        other.biases.add_(0.3)
        other.temperature.mul_(3)
    return other


CHANGES: dict[str, Callable[[Quantizer], Quantizer | None]] = {
    "T filled": without_gradient(lambda q: q.temperature.fill_(60)),
    "T multiplied": without_gradient(lambda q: q.temperature.mul_(2)),
    "T replaced": lambda q: setattr(q, "temperature", torch.tensor(70.0)),
    "a bias set": without_gradient(lambda q: q.biases.__setitem__(0, -2.25)),
    "biases moved": without_gradient(lambda q: q.biases.add_(0.3)),
    "biases replaced": lambda q: setattr(q, "biases", nn.Parameter(q.biases.detach() + 0.3)),
    "scales doubled": without_gradient(lambda q: q.scales.mul_(2)),
    "offset changed": lambda q: setattr(q, "offset", q.offset + 1),
    "alpha and beta changed": without_gradient(lambda q: (q.alpha.mul_(2), q.beta.mul_(0.5))),
    "state loaded": restored,
    "deep copy changed": copied,
    "SGD": trained_by(torch.optim.SGD),
    "SGD for each": trained_by(torch.optim.SGD, foreach=True),
    "Adam": trained_by(torch.optim.Adam),
    # A fused step does not raise a tensor's version.
    "SGD fused": trained_by(torch.optim.SGD, fused=True),
    "Adam fused": trained_by(torch.optim.Adam, fused=True),
}


@pytest.mark.parametrize("reader", ["table in torch", "table in C"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_the_next_call_sees_every_change(
    change: str, learned: bool, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, reader)
    stair = STAIRS["uneven"]
    quantizer = Quantizer(stair, 50)
    quantizer.biases.requires_grad_(learned)
    x, g = inputs(stair, 50, 5_001)
    names = ("alpha", "beta", "biases") if learned else ("alpha", "beta")

    def check(quantizer: Quantizer) -> None:
        given = quantizer.given()
        leaf = x.detach().requires_grad_()
        y = quantizer(leaf)
        wanted = [leaf, *(getattr(quantizer, name) for name in names)]
        gradients = dict(zip(["x", *names], torch.autograd.grad(y, wanted, g), strict=True))
        assert_equation_7(x, given, {"value": y, **gradients}, g, table=True)

    check(quantizer)
    changed = CHANGES[change](quantizer) or quantizer
    check(changed)
    check(quantizer)  # where the changed one is another
    with torch.no_grad():
        quantizer.temperature.fill_(50)  # and back
    check(quantizer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_may_be_moved_to_another_dtype_and_back(dtype: torch.dtype) -> None:
    quantizer = Quantizer(STAIRS["uneven"], 50)
    with torch.no_grad():
        quantizer.biases.add_(0.3001)  # which bfloat16 rounds
    x, g = inputs(STAIRS["uneven"], 50, 100_003)
    for moved in (torch.float32, dtype, torch.float32):
        # Parameters keep their identity and version when they are moved; buffers become others.
        quantizer.to(moved)
        y = quantizer(x.to(dtype) if dtype == torch.float64 else x)
        wide = x.to(y.dtype)
        assert_equation_7(wide, quantizer.given(), {"value": y}, g, table=dtype != torch.float64)


# Layouts


def image(dtype: torch.dtype = torch.float32) -> Tensor:
    x, _ = inputs(STAIRS["4 steps"], 5, 4 * 6 * 17 * 16, dtype)
    return x.view(4, 6, 17, 16)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "one channel, last": lambda x: x.view(-1, 1, 17, 16).to(memory_format=torch.channels_last),
    "volume, channels last": lambda x: x.view(2, 2, 6, 17, 16).to(
        memory_format=torch.channels_last_3d
    ),
    "transposed": lambda x: x.transpose(1, 3),
    "every second": lambda x: x[:, ::2, 1:, ::2],
    "part of channels last": lambda x: x.to(memory_format=torch.channels_last)[1:, 2:],
    "part of a batch": lambda x: x[1:3],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "a row": lambda x: x.view(1, -1),
    "a column": lambda x: x.view(-1, 1),
    "one value": lambda x: x[0, 0, 0, 0],
    "one value in four dimensions": lambda x: x[:1, :1, :1, :1],
    "empty": lambda x: x[:0],
    "empty in the middle": lambda x: x[:, :, :0],
}


def upstream(kind: str, x: Tensor) -> Tensor:
    """A gradient of the shape of x, whatever its own layout."""
    g = torch.from_numpy(np.random.default_rng(3).standard_normal(x.shape)).to(x.dtype)
    if kind == "as x":
        return torch.empty_like(x).copy_(g)
    if kind == "reversed strides":
        order = tuple(reversed(range(x.dim())))
        return g.permute(order).contiguous().permute(order)
    if kind == "one value":
        return torch.full((), 1.5, dtype=x.dtype).expand(x.shape)
    if kind == "every second":
        return torch.stack([g, torch.full_like(g, torch.nan)], -1)[..., 0]
    return g


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_makes_no_difference(
    dtype: torch.dtype, layout: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, reader)
    given = STAIRS["4 steps"].arguments(5)
    x = LAYOUTS[layout](image(dtype))
    before = x.clone()
    for kind in ("contiguous", "as x", "reversed strides", "one value", "every second"):
        g = upstream(kind, x)
        computed = run(x, given, g)
        if x.numel():
            assert_equation_7(x, given, computed, g, table=True)
        else:
            assert computed["alpha"] == computed["beta"] == 0
    assert torch.equal(x, before)


def test_channels_last_stays_channels_last() -> None:
    x = image().to(memory_format=torch.channels_last).requires_grad_()
    y = staircase(x, **STAIRS["4 steps"].arguments(5))
    assert y.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


# NaN and infinity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "temperature"), [("1 step", 5), ("6 steps", 5), ("30 steps", 550), ("255 steps", 550)]
)
def test_nan_stays_nan_and_touches_nothing_else(
    name: str,
    temperature: float,
    device: str,
    reader: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stair = STAIRS[name]
    force(monkeypatch, reader, len(stair.biases), device)
    given = stair.arguments(temperature, device=device)
    x, g = (t.to(device) for t in inputs(stair, temperature, 1_001, dtype))
    clean = run(x, given, g)
    x = x.clone()
    # Of either sign, quiet, and with any payload in the bits that are left.
    patterns = [0x7FC00000, -0x400000, 0x7FC00001, 0x7FC00155, 0x7FFFFFFF, -1, 0x7FD50000]
    nans = torch.tensor(patterns, dtype=torch.int32).view(torch.float32).to(device, dtype)
    assert nans.isnan().all()
    places = torch.arange(len(nans), device=device) * 140 + 3
    x[places] = nans
    dirty = run(x, given, g)
    mine = torch.zeros_like(x, dtype=torch.bool)
    mine[places] = True
    for key in ("value", "x"):
        before, after = clean[key], dirty[key]
        assert after.isnan().equal(mine), key
        assert after[~mine].equal(before[~mine]), key
    for key in ("alpha", "beta"):
        gradient = dirty[key]
        assert gradient.isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "temperature"), [("1 step", 5), ("6 steps", 5), ("30 steps", 550), ("255 steps", 550)]
)
def test_infinities_and_huge_values_are_on_the_outermost_levels_without_a_gradient(
    name: str,
    temperature: float,
    device: str,
    reader: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stair = STAIRS[name]
    force(monkeypatch, reader, len(stair.biases), device)
    given = stair.arguments(temperature, device=device)
    values = [-torch.inf, -3e38, -1e30, 1e30, 3e38, torch.inf]
    x = torch.tensor(values, device=device).to(dtype).repeat(200)
    computed = run(x, given, torch.ones_like(x))
    y, gradient, to_alpha = (computed[key] for key in ("value", "x", "alpha"))
    ends = np.array([-stair.offset, sum(stair.scales) - stair.offset])
    exact = np.tile(np.repeat(stair.alpha * ends, 3), 200)
    size = stair.alpha * sum(stair.scales)
    error = np.full_like(exact, (2.0**-8 if dtype == torch.bfloat16 else 1e-6) * size)
    assert_within(y, exact, error, "value")
    assert (gradient == 0).all()
    # β's gradient is a sum over x · 0: finite for huge values, anything for infinity.
    assert float(to_alpha) == pytest.approx(600 * ends.sum(), abs=600 * 1e-6 * size / stair.alpha)
    finite = x[x.isfinite()]
    to_beta = run(finite, given, torch.ones_like(finite))["beta"]
    assert to_beta == 0


# The same bits


@NEEDS_C
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "temperature"), [("6 steps", 5), ("30 steps", 550)])
def test_the_bits_do_not_depend_on_the_number_of_threads(
    name: str, temperature: float, dtype: torch.dtype
) -> None:
    given = STAIRS[name].arguments(temperature)
    x, g = inputs(STAIRS[name], temperature, 2**19 + 77, dtype)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 2, 1):
            torch.set_num_threads(threads)
            results.append(run(x, given, g))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for key, expected in results[0].items():
            found = other[key]
            assert found.equal(expected), key


@pytest.mark.parametrize("reader", READERS)
def test_twice_the_same_gives_the_same_bits(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, reader)
    given = STAIRS["30 steps"].arguments(50)
    x, g = inputs(STAIRS["30 steps"], 50, 20_003)
    names = ("alpha", "beta", "biases")
    first, second = run(x, given, g, names), run(x, given, g, names)
    for key, expected in first.items():
        found = second[key]
        assert found.equal(expected), key


# Ways to call it


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a compiler"
)
def test_torch_compile_takes_it_whole() -> None:
    stair = STAIRS["6 steps"]
    x, g = inputs(stair, 50, 5_001)
    given = stair.arguments(50)
    names = ("alpha", "beta", "biases")
    leaves = [x.detach().requires_grad_(), *(given[name].requires_grad_() for name in names)]
    scales, offset, temperature = given["scales"], given["offset"], given["temperature"]

    @torch.compile(fullgraph=True)
    def compiled(x: Tensor, alpha: Tensor, beta: Tensor, biases: Tensor) -> Tensor:
        return 1.0 * staircase(x, alpha, beta, biases, scales, offset, temperature)

    y = compiled(*leaves)
    gradients = torch.autograd.grad(y, leaves, g)
    computed = {"value": y, **dict(zip(["x", *names], gradients, strict=True))}
    assert_equation_7(x, given, computed, g, table=False)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_call_without_gradients_is_no_different_and_leaves_no_trace(
    mode: Callable[[], Any], reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, reader)
    given = STAIRS["6 steps"].arguments(50)
    x, g = inputs(STAIRS["6 steps"], 50, 5_001)
    with mode():
        y = staircase(x.clone(), **given)
        own = staircase(x.clone(), **STAIRS["6 steps"].arguments(50))  # all made in this mode
    assert not y.requires_grad
    assert_equation_7(x, given, {"value": own}, g, table=True)
    assert_equation_7(x, given, {"value": y}, g, table=True)
    assert_equation_7(x, given, run(x, given, g), g, table=True)  # the table was built in the mode


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(
    dtype: torch.dtype, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, reader)
    given = STAIRS["6 steps"].arguments(50)
    x, g = inputs(STAIRS["6 steps"], 50, 5_001, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        computed = run(x, given, g)
    assert_equation_7(x, given, computed, g, table=True)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("default", ["device", "dtype"])
def test_defaults_of_torch_make_no_difference(
    default: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    force(monkeypatch, reader)
    call = kernels.call

    def careful(function: str, tensors: Sequence[Tensor], *arguments: Any) -> None:
        assert {tensor.device.type for tensor in tensors} == {"cpu"}  # C would crash
        call(function, tensors, *arguments)

    monkeypatch.setattr(kernels, "call", careful)
    given = STAIRS["6 steps"].arguments(50)
    x, g = inputs(STAIRS["6 steps"], 50, 5_001)
    before = torch.get_default_dtype()
    try:
        if default == "device":
            with torch.device("meta"):  # stands for a GPU
                computed = run(x, given, g)
        else:
            torch.set_default_dtype(torch.bfloat16)
            computed = run(x, given, g)
    finally:
        torch.set_default_dtype(before)
    assert_equation_7(x, given, computed, g, table=True)


# What holds of any soft staircase


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    steps=st.lists(
        st.tuples(st.floats(-20, 20), st.floats(0.1, 10)), min_size=1, max_size=12, unique=True
    ),
    alpha=st.floats(0.01, 10),
    beta=st.floats(0.01, 10),
    offset=st.floats(-30, 30),
    temperature=st.floats(0.5, 2000),
)
def test_with_steps_upwards_it_never_falls_and_stays_between_the_outermost_levels(
    steps: list[tuple[float, float]], alpha: float, beta: float, offset: float, temperature: float
) -> None:
    biases, scales = (torch.tensor(part, dtype=torch.float64) for part in zip(*steps, strict=True))
    ends = torch.linspace(-30 / beta, 30 / beta, 400, dtype=torch.float64)
    near = (biases[:, None] + torch.linspace(-20, 20, 81).double() / temperature) / beta
    x = torch.cat([ends, near.flatten()]).sort().values
    number = functools.partial(torch.tensor, dtype=torch.float64)
    y = staircase(x, number(alpha), number(beta), biases, scales, offset, number(temperature))
    size = alpha * (float(scales.sum()) + abs(offset))
    assert float(y.diff().min()) >= -1e-14 * size
    assert float(y.min()) >= -offset * alpha - 1e-14 * size
    assert float(y.max()) <= (float(scales.sum()) - offset) * alpha + 1e-14 * size


# The hard staircase


def equation_5(x: Array, given: dict[str, Any]) -> Array:
    """y = α(Σ s_i A(βx − b_i) − o), A(z) = 1 where z ≥ 0."""
    alpha, beta, b, s = (
        given[name].double().numpy() for name in ("alpha", "beta", "biases", "scales")
    )
    total = np.where((beta * x)[:, None] >= b, s, 0.0).sum(1)
    exact: Array = alpha * (total - given["offset"])
    return exact


def hard(x: Tensor, given: dict[str, Any]) -> Tensor:
    return hard_staircase(x, **{k: v for k, v in given.items() if k != "temperature"})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", STAIRS)
def test_the_hard_staircase_of_every_width_is_a_sum_of_unit_steps(
    name: str, dtype: torch.dtype
) -> None:
    # β is a power of two, so that βx is exact and what is a threshold is one in every precision.
    given = STAIRS[name].arguments(1) | {"beta": torch.tensor(2.0), "alpha": torch.tensor(0.25)}
    biases = given["biases"]
    toward = torch.tensor([-torch.inf, torch.inf])[:, None]
    close = torch.cat([biases, biases.nextafter(toward).flatten()]) / 2
    x = torch.cat([close, inputs(STAIRS[name], 5, 3_001)[0], toward.flatten()]).to(dtype)
    y = hard(x, given)
    assert y.dtype == dtype
    exact = torch.from_numpy(equation_5(x.double().numpy(), given)).to(dtype)
    assert y.equal(exact)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", STAIRS)
def test_the_soft_staircase_is_as_close_to_the_hard_one_as_its_temperature_says(
    name: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # |σ(z) − A(z)| ≤ e^−|z|, of which 2^-24 |u| are roundings.
    stair = STAIRS[name]
    force(monkeypatch, reader, len(stair.biases))
    x, _ = inputs(stair, 5, 3_001)
    b = np.asarray(stair.biases, dtype=np.float32).astype(np.float64)
    beta = float(np.float32(stair.beta))
    distance = np.abs(beta * x.double().numpy()[:, None] - b)
    away = distance.min(1) > 0.01
    for temperature in (5, 275, 2000):
        given = stair.arguments(temperature)
        exact = equation_5(x.double().numpy(), given)[away]
        soft = staircase(x, **given).double().numpy()[away]
        rounding = 2.0**-24 * temperature * (2 * np.abs(b).max() + 50)
        apart = stair.alpha * (stair.scales * np.exp(-temperature * distance[away])).sum(1)
        error = apart * np.exp(rounding) + 2.0**-20 * stair.alpha * sum(stair.scales)
        assert_within(soft, exact, error, f"T = {temperature}")
    assert error.max() < 1e-4 * sum(stair.scales)


# Without a compiler, and with one that fails


@pytest.fixture
def fresh_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Build the loops anew, in an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.load.cache_clear()
    yield tmp_path
    kernels.load.cache_clear()


def assert_it_works() -> None:
    given = STAIRS["6 steps"].arguments(50)
    x, g = inputs(STAIRS["6 steps"], 50, 5_001)
    assert_equation_7(x, given, run(x, given, g), g, table=True)


SCRIPT = """
import sys
import torch
from qbench.quant.staircase import kernels
from qbench.quant.staircase.staircase import staircase
loaded = kernels.load() is not None
x = torch.load(sys.argv[1])
leaves = [x, torch.tensor(0.37), torch.tensor(1.7)]
for leaf in leaves:
    leaf.requires_grad_()
given = torch.load(sys.argv[2])
y = staircase(*leaves, given["biases"], given["scales"], given["offset"], given["temperature"])
y.sum().backward()
torch.save((loaded, y.detach(), [leaf.grad for leaf in leaves]), sys.argv[3])
"""


def started(folder: Path, name: str, **environment: str) -> subprocess.Popen[str]:
    """A fresh process that computes a staircase."""
    stair = STAIRS["6 steps"]
    given = stair.arguments(50)
    if not (folder / "x").exists():
        torch.save(inputs(stair, 50, 5_001)[0], folder / "x")
        torch.save(given, folder / "given")
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, folder / "x", folder / "given", folder / name],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str], folder: Path, name: str) -> tuple[bool, str]:
    """Whether it had the loops in C, and what it printed; its numbers are right."""
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    loaded, y, (to_x, to_alpha, to_beta) = torch.load(folder / name)
    stair = STAIRS["6 steps"]
    x, _ = inputs(stair, 50, 5_001)
    computed = {"value": y, "x": to_x, "alpha": to_alpha, "beta": to_beta}
    assert_equation_7(x, stair.arguments(50), computed, torch.ones_like(x), table=True)
    return loaded, printed


def test_a_machine_without_a_compiler_computes_the_same(tmp_path: Path) -> None:
    process = started(tmp_path, "y", CC="/nonexistent", XDG_CACHE_HOME=str(tmp_path / "cache"))
    loaded, printed = finished(process, tmp_path, "y")
    assert not loaded
    assert "Error" not in printed


@NEEDS_C
def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    # A compiler that begins when the other one has as well.
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    compiler = tmp_path / "compiler"
    real = shutil.which(os.environ.get("CC", "cc"))
    compiler.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && exec {real} --version\n'
        f": > {waiting}/$$\n"
        f"for i in $(seq 300); do [ $(ls {waiting} | wc -l) -ge 2 ] && break; sleep 0.1; done\n"
        f'exec {real} "$@"\n',
        encoding="utf-8",
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    environment = {"CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    processes = {name: started(tmp_path, name, **environment) for name in ("first", "second")}
    for name, process in processes.items():
        loaded, printed = finished(process, tmp_path, name)
        assert loaded, printed
        assert "Error" not in printed
    assert len(list(waiting.iterdir())) == 2
    assert [path.suffix for path in (tmp_path / "cache" / "qbench").iterdir()] == [".so"]


@pytest.mark.parametrize(
    "compiler",
    ["exit 1", '[ "$1" = --version ] || { echo no such flag >&2; exit 1; }', "exit 0"],
    ids=["fails at once", "fails to compile", "writes nothing"],
)
def test_a_compiler_that_fails_is_a_warning_and_torch_takes_its_place(
    compiler: str,
    fresh_load: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = fresh_load / "compiler"
    script.write_text(f"#!/bin/sh\n{compiler}\n", encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    with caplog.at_level(logging.WARNING, logger="qbench.quant.staircase.kernels"):
        assert kernels.load() is None
        assert_it_works()
    assert len(caplog.records) == 1
    assert "torch takes their place" in caplog.text


@NEEDS_C
@pytest.mark.parametrize("folder", ["/dev/null", "/proc/nonexistent"])
def test_a_cache_folder_that_cannot_be_written_is_done_without(
    folder: str, fresh_load: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    monkeypatch.setattr("tempfile.tempdir", str(fresh_load))
    assert kernels.load() is not None
    assert_it_works()
    assert not caplog.records
    assert list(fresh_load.glob("*/*.so"))


def test_a_user_without_a_home_folder_is_served_too(
    fresh_load: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in containers, where HOME is not set and the user has no entry in the system's list.
    def nowhere() -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr("tempfile.tempdir", str(fresh_load))
    assert_it_works()


@NEEDS_C
def test_a_broken_library_in_the_cache_is_a_warning(
    fresh_load: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert kernels.load() is not None
    (library,) = fresh_load.glob("qbench/*.so")
    broken = fresh_load / "other" / "qbench" / library.name
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"half a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(broken.parent.parent))
    kernels.load.cache_clear()
    with caplog.at_level(logging.WARNING, logger="qbench.quant.staircase.kernels"):
        assert_it_works()
    assert len(caplog.records) == 1

"""Every engine computes the same staircase, whatever the steps, the size and the values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.helpers.stairs import (
    COUNTS,
    DEVICES,
    NEEDS_C,
    READERS,
    STAIRS,
    TEMPERATURES,
    Stair,
    assert_equation_7,
    assert_within,
    equation_7,
    force,
    inputs,
    run,
)


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

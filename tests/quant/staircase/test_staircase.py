"""The staircase of sigmoids, soft and hard, as it is called, against its formulas in float64."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qbench.quant.staircase import kernels
from qbench.quant.staircase.staircase import hard_staircase, staircase
from tests.helpers.stairs import (
    READERS,
    STAIRS,
    Array,
    assert_equation_7,
    assert_within,
    force,
    inputs,
    run,
)


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

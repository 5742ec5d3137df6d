"""Tables of a staircase: one per temperature, which follows every change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench.quant.staircase import table
from qbench.quant.staircase.staircase import staircase
from tests.helpers.stairs import (
    STAIRS,
    Stair,
    assert_equation_7,
    force,
    inputs,
    run,
)


def test_a_table_is_built_once_per_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    force(monkeypatch, "table in torch")
    build, built = table.Table.build, []

    def counted(*arguments: Any) -> Any:
        built.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(table.Table, "build", counted)
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

from __future__ import annotations

from typing import Any

import pytest
import torch

from qbench.quant.attach import Handle, attach
from qbench.quant.options import build_method
from qbench.spec.recipe import Recipe
from qbench.train.optimizer import build_optimizer, build_schedule, learning_rate_factor
from tests.helpers.training import train, trial


def recipe(**changes: Any) -> Recipe:
    basis = {"epochs": 4, "batch_size": 500, "optimizer": "sgd", "lr": 1.0}
    return Recipe.model_validate({**basis, **changes})


@pytest.fixture
def handle() -> Handle:
    """A small network with quantizers that have parameters of their own."""
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    lsq = build_method("lsq", {})
    return attach(network, lsq, bits="2/2", layers="all", calibration=[torch.rand(8, 4)])


def test_every_parameter_is_optimized_once(handle: Handle) -> None:
    optimizer = build_optimizer(handle, recipe())
    optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in handle.model.parameters())


def test_sgd_has_the_momentum_of_the_recipe(handle: Handle) -> None:
    optimizer = build_optimizer(handle, recipe(momentum=0.7, nesterov=True))
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.7, True)}


def test_adam_has_the_learning_rate_of_the_recipe(handle: Handle) -> None:
    optimizer = build_optimizer(handle, recipe(optimizer="adam", lr=0.01))
    assert isinstance(optimizer, torch.optim.Adam)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}


def test_parameters_outside_quantized_layers_may_have_another_rate() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    handle = attach(network, build_method("ste", {}), bits="2/32", layers="all")
    optimizer = build_optimizer(handle, recipe(lr=0.1, other_lr=0.001))
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(network[1].weight)] == rates[id(network[1].bias)] == 0.001
    assert {rates[id(p)] for p in handle.layers[0].module.parameters()} == {0.1}


@pytest.mark.parametrize(
    "schedule", ["constant", "cosine", "cosine_restarts", "linear", "step", "exponential"]
)
def test_every_schedule_starts_at_the_initial_rate(schedule: str) -> None:
    milestones = (2,) if schedule in ("cosine_restarts", "step") else ()
    chosen = recipe(schedule=schedule, final_lr=0.01, milestones=milestones)
    assert learning_rate_factor(chosen, 0) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "exponential"])
def test_a_schedule_ends_at_its_final_rate(schedule: str) -> None:
    last = learning_rate_factor(recipe(schedule=schedule, lr=0.5, final_lr=0.05), 4)
    assert last == pytest.approx(0.1)


def test_a_schedule_without_epochs_is_defined() -> None:
    assert learning_rate_factor(recipe(epochs=0, schedule="cosine"), 0) == 1.0


def test_the_schedule_scales_the_rate_of_every_group(handle: Handle) -> None:
    optimizer = build_optimizer(handle, recipe(lr=0.1, other_lr=0.001))
    schedule = build_schedule(optimizer, recipe(schedule="linear"))
    before = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    schedule.step()
    after = [group["lr"] for group in optimizer.param_groups]
    assert after == pytest.approx([0.75 * rate for rate in before])


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1]),
        ({"schedule": "cosine"}, [1, 0.8535534, 0.5, 0.1464466]),
        ({"schedule": "step", "milestones": (1, 3), "gamma": 0.1}, [1, 0.1, 0.1, 0.01]),
        ({"schedule": "exponential", "final_lr": 0.0001}, [1, 0.1, 0.01, 0.001]),
        ({"schedule": "linear", "final_lr": 0.2}, [1, 0.8, 0.6, 0.4]),
        ({"schedule": "cosine_restarts", "milestones": (1, 3)}, [1, 1, 0.5, 1]),
    ],
)
def test_a_trial_records_the_learning_rate_of_its_schedule(
    schedule: dict[str, object], rates: list[float]
) -> None:
    recipe = Recipe.model_validate(
        {"epochs": 4, "batch_size": 500, "optimizer": "sgd", "lr": 1.0, **schedule}
    )
    result, _ = train(trial("fp32", bits="32/32", recipe=recipe))
    assert [record["lr"] for record in result.history] == pytest.approx(rates)

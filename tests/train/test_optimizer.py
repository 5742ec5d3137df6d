from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from qbench.spec.recipe import Recipe
from qbench.train.optimizer import Schedule, build_optimizer, learning_rate_factor
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
    schedule = Schedule(optimizer, recipe(schedule="linear"))
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


# The regime of BinaryNet.pytorch's alexnet_binary.py: the rate from an epoch on, epochs from 0.
BNN = {0: 5e-3, 20: 1e-3, 30: 5e-4, 35: 1e-4, 40: 1e-5}
# That of XNOR-Net's train.lua, epochs from 1: last epoch, rate, weight decay.
BWN = [(18, 1e-2, 5e-4), (29, 5e-3, 5e-4), (43, 1e-3, 0), (52, 5e-4, 0), (55, 1e-4, 0)]


def values(chosen: Recipe, handle: Handle, steps: int = 1) -> list[list[tuple[float, float]]]:
    """Return the learning rate and weight decay of each group in each step of a training."""
    optimizer = build_optimizer(handle, chosen)
    schedule = Schedule(optimizer, chosen)
    found = []
    for _ in range(chosen.epochs):
        for step in range(1, steps + 1):
            schedule.start_step(step, steps)
            optimizer.step()
            found.append([(g["lr"], g["weight_decay"]) for g in optimizer.param_groups])
        schedule.step()
    return found


def test_rates_may_be_listed_for_the_milestones(handle: Handle) -> None:
    chosen = recipe(
        epochs=45,
        optimizer="adam",
        lr=5e-3,
        schedule="step",
        milestones=(20, 30, 35, 40),
        milestone_lrs=(1e-3, 5e-4, 1e-4, 1e-5),
    )
    expected = [BNN[max(start for start in BNN if start <= epoch)] for epoch in range(45)]
    assert [groups[0][0] for groups in values(chosen, handle)] == pytest.approx(expected)


def test_listed_rates_are_those_of_torch_where_one_factor_gives_them(handle: Handle) -> None:
    chosen = recipe(
        epochs=9, lr=0.3, schedule="step", milestones=(2, 5), milestone_lrs=(0.03, 0.003)
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    torchs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.1)
    expected = []
    for _ in range(9):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    assert [groups[0][0] for groups in values(chosen, handle)] == pytest.approx(expected)


def test_listed_rates_scale_what_starts_at_another_rate(handle: Handle) -> None:
    chosen = recipe(
        epochs=2, lr=0.1, other_lr=0.02, schedule="step", milestones=(1,), milestone_lrs=(0.05,)
    )
    before, after = values(chosen, handle)
    assert [lr for lr, _ in after] == pytest.approx([lr / 2 for lr, _ in before])


def test_the_weight_decay_may_change_at_milestones(handle: Handle) -> None:
    chosen = recipe(
        epochs=55,
        lr=1e-2,
        weight_decay=5e-4,
        schedule="step",
        milestones=(18, 29, 43, 52),
        milestone_lrs=(5e-3, 1e-3, 5e-4, 1e-4),
        milestone_weight_decays=(5e-4, 0, 0, 0),
    )
    found = values(chosen, handle)
    for epoch, (network, quantizers) in enumerate(found, 1):
        _, lr, decay = next(regime for regime in BWN if epoch <= regime[0])
        assert network == pytest.approx((lr, decay))
        assert quantizers == pytest.approx((lr, 0.0)), "the method decides for its quantizers"


def test_the_weight_decay_may_change_with_any_schedule(handle: Handle) -> None:
    chosen = recipe(milestones=(1, 3), weight_decay=0.5, milestone_weight_decays=(0.25, 0))
    assert [groups[0][1] for groups in values(chosen, handle)] == [0.5, 0.25, 0.25, 0]


@pytest.mark.parametrize(
    ("which", "decayed"),
    [
        ("network", {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}),
        ("weights", {"0.weight", "3.weight"}),
        ("quantized", {"0.weight"}),
        ("classifier", {"3.weight"}),
    ],
)
@pytest.mark.parametrize("other_lr", [None, 0.01])
def test_the_weight_decay_applies_to_the_parameters_that_are_named(
    which: str, decayed: set[str], other_lr: float | None
) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )
    parameters = dict(network.named_parameters())
    handle = attach(
        network, build_method("lsq", {}), bits="2/2", layers=["0"],
        calibration=[torch.rand(8, 1, 4, 4)],
    )  # fmt: skip
    chosen = recipe(lr=0.1, momentum=0, weight_decay=0.5, weight_decay_on=which, other_lr=other_lr)
    optimizer = build_optimizer(handle, chosen)
    for parameter in handle.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.step()
    for name, parameter in parameters.items():
        lr = other_lr if other_lr is not None and not name.startswith("0.") else 0.1
        decay = 0.5 if name in decayed else 0.0
        expected = before[name] - lr * (1 + decay * before[name])
        torch.testing.assert_close(parameter.detach(), expected)


def test_the_weight_decay_may_include_the_parameters_of_the_method(handle: Handle) -> None:
    chosen = recipe(
        weight_decay=0.5, weight_decay_on="all", milestones=(2,), milestone_weight_decays=(0.25,)
    )
    groups = values(chosen, handle)
    assert [[decay for _, decay in each] for each in groups] == [
        [d, d] for d in (0.5, 0.5, 0.25, 0.25)
    ]
    before = values(recipe(weight_decay=0.5), handle)
    assert [decay for _, decay in before[0]] == [0.5, 0.0]


def test_a_warm_up_is_the_linear_one_of_torch(handle: Handle) -> None:
    chosen = recipe(epochs=3, lr=0.4, schedule="constant", warmup_epochs=1.5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    torchs = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 6, total_iters=5)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    found = values(chosen, handle, steps=4)
    assert [groups[0][0] for groups in found] == pytest.approx(expected)
    assert found[0][0][0] == pytest.approx(0.4 / 6)
    assert found[6][0][0] == 0.4


def test_a_warm_up_rises_to_what_the_schedule_gives(handle: Handle) -> None:
    chosen = recipe(epochs=4, lr=1.0, schedule="linear", warmup_epochs=2)
    found = [groups[0][0] for groups in values(chosen, handle, steps=2)]
    expected = [1 / 4, 2 / 4, 0.75 * 3 / 4, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [1e-8, 0.1])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_are_those_of_their_papers(name: str, epsilon: float) -> None:
    """Kingma & Ba, Algorithm 1, and Loshchilov & Hutter, Algorithm 2, in NumPy."""
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2, bias=False).double()
    handle = attach(network, build_method("fp32", {}), bits="32/32", layers="all")
    chosen = recipe(optimizer=name, lr=0.01, weight_decay=0.2, epsilon=epsilon)
    optimizer = build_optimizer(handle, chosen)
    theta = network.weight.detach().numpy().copy()
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, 6):
        g = np.sin(theta + t)
        network.weight.grad = torch.from_numpy(np.sin(network.weight.detach().numpy() + t))
        optimizer.step()
        if name == "adam":
            g = g + 0.2 * theta
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        change = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + epsilon)
        decayed = 0.2 * theta if name == "adamw" else 0
        theta = theta - 0.01 * (change + decayed)
    np.testing.assert_allclose(network.weight.detach().numpy(), theta, rtol=1e-12)


def test_adamw_decays_no_group_for_which_a_method_sets_no_decay(
    handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        type(handle.method),
        "parameter_groups",
        lambda self, parameters, lr: [{"params": parameters}],
    )
    optimizer = build_optimizer(handle, recipe(optimizer="adamw", weight_decay=0.1))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]

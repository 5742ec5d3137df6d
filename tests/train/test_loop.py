from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench import registry, tasks
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from qbench.spec.recipe import Recipe
from qbench.train.checkpoint import pack, unpack
from qbench.train.loading import evaluation_loader, training_loader
from qbench.train.loop import TrainingLoop, training_step
from qbench.train.optimizer import Schedule, build_optimizer
from qbench.train.recorder import WeightRecorder

RECIPE = Recipe(epochs=3, batch_size=300, optimizer="sgd", lr=0.1, momentum=0.9, schedule="linear")
CPU = torch.device("cpu")


class Hooks:
    """Stands for a handle: records which hooks are called, and when."""

    def __init__(self, penalty: float = 0.0) -> None:
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)
        self.calls: list[str] = []
        self._penalty = penalty

    def on_step_start(self, step: int, steps: int) -> None:
        self.calls.append(f"start {step}/{steps}")

    def regularization_loss(self) -> Tensor:
        self.calls.append("penalty")
        return torch.tensor(self._penalty)

    def before_optimizer_step(self) -> None:
        self.calls.append(f"before, gradient {self.weight.grad is not None}")

    def after_optimizer_step(self) -> None:
        self.calls.append(f"after, weight {self.weight.tolist()}")

    def loss(self) -> Tensor:
        self.calls.append("loss")
        return self.weight.square().sum() / 2  # its gradient is the weight


def step(hooks: Any, **changes: Any) -> Tensor:
    return training_step(hooks, hooks.optimizer, hooks.loss, 2, 5, **changes)


def test_a_step_calls_every_hook_in_order() -> None:
    hooks = Hooks()
    step(hooks)
    assert hooks.calls == [
        "start 2/5",
        "loss",
        "penalty",
        "before, gradient True",
        "after, weight [0.0, 0.0]",
    ]


def test_the_loss_of_a_step_includes_the_penalty_and_is_detached() -> None:
    loss = step(Hooks(penalty=0.5))
    assert loss.item() == 13.0
    assert not loss.requires_grad


def test_a_step_starts_from_no_gradient() -> None:
    hooks = Hooks()
    hooks.weight.grad = torch.tensor([100.0, 100.0])
    step(hooks)
    assert hooks.weight.tolist() == [0.0, 0.0]


def test_the_norm_of_all_gradients_together_is_clipped() -> None:
    hooks = Hooks()
    step(hooks, gradient_clip=1.0)
    assert hooks.weight.tolist() == pytest.approx([3 - 0.6, 4 - 0.8])


@pytest.fixture
def loop() -> TrainingLoop:
    return prepared()


def prepared() -> TrainingLoop:
    """Return a small trial that is ready to train, the same each time."""
    torch.manual_seed(0)
    dataset, task = registry.build_dataset("digits"), tasks.get("classification")
    order = torch.Generator().manual_seed(0)
    calibration = training_loader(dataset, RECIPE, 0, order, 0, CPU, shared=False)
    model = registry.build_model("convnet_tiny", dataset.num_classes, dataset.image_shape[0])
    handle = attach(model, build_method("ste", {}), bits="2/32")
    optimizer = build_optimizer(handle, RECIPE)
    return TrainingLoop(
        task,
        dataset,
        handle,
        handle.model,
        optimizer,
        Schedule(optimizer, RECIPE),
        WeightRecorder(handle.layers, RECIPE.epochs, soft=False),
        training_loader(dataset, RECIPE, 0, order, 0, CPU),
        evaluation_loader(dataset, RECIPE, 0, CPU),
        calibration,
        order,
    )


def test_an_epoch_trains_on_every_batch_and_steps_the_schedule_once(
    loop: TrainingLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, ...]] = []
    monkeypatch.setattr(loop.handle, "on_step_start", lambda *numbers: steps.append(numbers))
    first = loop.run_epoch(RECIPE)
    count = len(loop.loader)
    assert steps == [(i, count) for i in range(1, count + 1)]
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 2 / 3)
    assert loop.run_epoch(RECIPE) < first


def test_evaluation_trains_nothing(loop: TrainingLoop) -> None:
    before = {name: value.clone() for name, value in loop.handle.model.state_dict().items()}
    loop.handle.model.eval()
    metrics = loop.evaluate()
    assert metrics == loop.evaluate()
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 100
    after = loop.handle.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_training_continues_from_a_state_with_the_same_bits(loop: TrainingLoop) -> None:
    loop.run_epoch(RECIPE)
    state = unpack(pack(loop.state()))
    losses = [loop.run_epoch(RECIPE) for _ in range(2)]
    weights = {name: value.clone() for name, value in loop.handle.model.state_dict().items()}
    other = prepared()
    other.restore(state)
    assert [other.run_epoch(RECIPE) for _ in range(2)] == losses
    again = other.handle.model.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)

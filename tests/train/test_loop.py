from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench import registry, tasks
from qbench.method import Layer, Learned, Method, Quantizer
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


class Recording(Quantizer):
    """Leaves a weight as it is, and records which hooks are called, and when."""

    def __init__(self, penalty: float) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.penalty = penalty

    def forward(self, w: Tensor) -> Tensor:
        return w.clone()

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        self.calls.append(f"epoch {epoch}/{epochs}")

    def on_step_start(self, layer: Layer, step: int, steps: int) -> None:
        self.calls.append(f"step {step}/{steps}")

    def before_optimizer_step(self, layer: Layer) -> None:
        self.calls.append(f"before, gradient {layer.latent_weight.grad is not None}")

    def after_optimizer_step(self, layer: Layer) -> None:
        self.calls.append(f"after, weight {layer.latent_weight.flatten().tolist()}")

    def regularization_loss(self, layer: Layer) -> Tensor:
        self.calls.append("regularization loss")
        return torch.tensor(self.penalty)


class Records(Method):
    """Quantizes nothing, and records the hooks."""

    weights = Learned()
    penalty: float = 0.0

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> Recording:
        return Recording(self.penalty)


class Stepped:
    """A weight (3, 4) whose loss is half its square, trained at a learning rate of 1."""

    def __init__(self, penalty: float = 0.0) -> None:
        layer = nn.Linear(2, 1, bias=False)
        self.handle = attach(
            nn.Sequential(layer), Records(penalty=penalty), bits="2/32", layers="all"
        )
        self.weight = self.handle.layers[0].latent_weight
        self.weight.data = torch.tensor([[3.0, 4.0]])
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)
        self.handle.attach_optimizer(self.optimizer)

    @property
    def calls(self) -> list[str]:
        quantizer = self.handle.layers[0].weight_quantizer
        assert isinstance(quantizer, Recording)
        return quantizer.calls

    def step(self, **changes: Any) -> Tensor:
        """Take one training step."""

        def loss() -> Tensor:
            self.calls.append("loss")
            return self.weight.square().sum() / 2  # its gradient is the weight

        return training_step(self.handle, self.optimizer, loss, **changes)


def test_a_step_calls_every_hook_in_order() -> None:
    trained = Stepped()
    trained.handle.on_epoch_start(2, 5, steps=2)
    trained.step()
    assert trained.calls == [
        "epoch 2/5",
        "step 1/2",
        "loss",
        "regularization loss",
        "before, gradient True",
        "after, weight [0.0, 0.0]",
        "step 2/2",
    ]


def test_no_step_starts_after_the_last_of_an_epoch() -> None:
    trained = Stepped()
    trained.handle.on_epoch_start(1, 1, steps=2)
    trained.step()
    trained.step()
    assert [call for call in trained.calls if call.startswith("step")] == ["step 1/2", "step 2/2"]


def test_the_loss_of_a_step_includes_the_regularization_and_is_detached() -> None:
    loss = Stepped(penalty=0.5).step()
    assert loss.item() == 13.0
    assert not loss.requires_grad


def test_a_step_starts_from_no_gradient() -> None:
    trained = Stepped()
    trained.weight.grad = torch.tensor([[100.0, 100.0]])
    trained.step()
    assert trained.weight.tolist() == [[0.0, 0.0]]


def test_the_norm_of_all_gradients_together_is_clipped() -> None:
    trained = Stepped()
    trained.step(gradient_clip=1.0)
    assert trained.weight.flatten().tolist() == pytest.approx([3 - 0.6, 4 - 0.8])


@pytest.fixture
def loop() -> TrainingLoop:
    return prepared()


def prepared() -> TrainingLoop:
    """Return a small trial that is ready to train, the same each time."""
    torch.manual_seed(0)
    dataset, task = registry.build_dataset("digits"), tasks.get("classification")
    order = torch.Generator().manual_seed(0)
    calibration = training_loader(dataset, dataset.train(), RECIPE, 0, order, 0, CPU, shared=False)
    model = registry.build_model("convnet_tiny", dataset.num_classes, dataset.image_shape[0])
    handle = attach(model, build_method("ste", {}), bits="2/32")
    optimizer = build_optimizer(handle, RECIPE)
    handle.attach_optimizer(optimizer)
    return TrainingLoop(
        task,
        dataset,
        handle,
        handle.model,
        optimizer,
        Schedule(optimizer, RECIPE),
        WeightRecorder(handle.layers, RECIPE.epochs, soft=False),
        training_loader(dataset, dataset.train(), RECIPE, 0, order, 0, CPU),
        evaluation_loader(dataset, dataset.test(), RECIPE, 0, CPU),
        calibration,
        order,
    )


def test_an_epoch_trains_on_every_batch_and_steps_the_schedule_once(
    loop: TrainingLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, ...]] = []
    method = loop.handle.method
    monkeypatch.setattr(method, "on_step_start", lambda *numbers: steps.append(numbers))
    loop.handle.on_epoch_start(1, RECIPE.epochs, len(loop.loader))
    first = loop.run_epoch(RECIPE)
    count = len(loop.loader)
    assert steps == [(i, count) for i in range(1, count + 1)]
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 2 / 3)
    assert loop.run_epoch(RECIPE)["train_loss"] < first["train_loss"]


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

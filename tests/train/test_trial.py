from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qbench import registry
from qbench.errors import QbenchError
from qbench.plugins import Plugin, load_plugin
from qbench.quant.options import build_method, method_options
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.train.building import ExecutionEnvironment
from qbench.train.checkpoint import load_weights
from qbench.train.trial import Training, remeasure
from tests.helpers import plugins
from tests.helpers.checkpoints import Kept, poison
from tests.helpers.foreign_models import Branched
from tests.helpers.training import RECIPE, train, trial


@pytest.fixture
def bad_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_of_files", {"methods": {}, "models": {}, "datasets": {}})
    load_plugin(Plugin("bad.py", plugins.BAD))
    load_plugin(Plugin("hard_not_finite.py", plugins.HARD_NOT_FINITE))


@pytest.mark.parametrize("method", ["ste", "lq_nets", "quantization_networks"])
def test_two_runs_of_a_trial_give_the_same_bits(method: str) -> None:
    first, weights = train(trial(method))
    torch.rand(7)  # whatever a worker did before must not matter
    second, again = train(trial(method))
    assert first.status == "done"
    assert first.history == second.history
    assert first.metrics == second.metrics
    assert weights is not None
    assert again is not None
    left, right = load_weights(weights), load_weights(again)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_predictions_are_those_of_the_accuracy() -> None:
    result, _ = train(trial())
    assert result.predictions is not None
    dataset = registry.build_dataset("digits", {})
    _, measured = dataset.splits()
    labels = [int(measured[i][1]) for i in range(len(result.predictions.values))]
    right = [p == label for p, label in zip(result.predictions.values, labels, strict=True)]
    assert result.metrics["top1"] == pytest.approx(100 * sum(right) / len(right))


def test_another_seed_gives_another_result() -> None:
    assert train(trial())[0].history != train(trial(seed=1))[0].history


def test_a_trial_starts_from_its_full_precision_weights() -> None:
    base = trial(full_precision=RECIPE).base
    assert base is not None
    _, weights = train(base)
    frozen = {"lr": 1e-12, "epochs": 1}
    start = trial(
        "twn", bits="2/32", full_precision=RECIPE, recipe=RECIPE.model_copy(update=frozen)
    )
    result, hardened = train(start, weights)
    assert result.status == "done"
    assert weights is not None
    assert hardened is not None
    # The first convolution is not quantized, and with a rate of zero it does not move.
    torch.testing.assert_close(
        load_weights(hardened)["0.weight"], load_weights(weights)["0.weight"]
    )


def test_missing_weights_fail_the_trial_with_that_reason() -> None:
    result, _ = train(trial(full_precision=RECIPE))
    assert result.status == "failed"
    assert "full-precision weights" in result.reason


def test_every_epoch_is_recorded() -> None:
    result, _ = train(trial())
    assert [record["epoch"] for record in result.history] == [1, 2]
    assert {"train_loss", "top1", "top5", "lr"} <= result.history[0].keys()
    assert result.metrics["top1"] == result.history[-1]["top1"]
    assert torch.__version__.startswith(result.environment["torch"])


def test_the_accuracy_on_training_images_is_recorded() -> None:
    result, _ = train(trial(recipe=RECIPE.model_copy(update={"epochs": 3})))
    found = [record["train_top1"] for record in result.history]
    assert all(0 < value <= 100 for value in found)
    assert found[-1] > found[0]


def test_soft_and_hard_accuracy_are_recorded_where_a_method_has_both() -> None:
    result, _ = train(trial(recipe=RECIPE.model_copy(update={"epochs": 3})))
    for record in result.history:
        assert {"soft_top1", "soft_test_loss"} <= record.keys()
        assert record["soft_test_loss"] != record["test_loss"]
    result, _ = train(trial("ste"))
    assert "soft_top1" not in result.history[0]


def test_the_gap_between_soft_and_hard_closes_as_the_temperature_grows() -> None:
    gaps = []
    for rate in (1.0, 10_000.0):
        options = method_options(build_method("quantization_networks", {"temperature_rate": rate}))
        result, _ = train(trial(options=options, bits="2/32"))
        last = result.history[-1]
        gaps.append(abs(last["soft_test_loss"] - last["test_loss"]))
    assert gaps[1] < 0.1 * gaps[0]


def test_every_quantized_tensor_is_audited() -> None:
    result, _ = train(trial())
    assert [(count.layer, count.tensor) for count in result.audit] == [
        (layer, tensor) for tensor in ("weight", "input") for layer in ("3", "7", "10")
    ]
    assert result.audit_text == ""


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("raises", "RuntimeError: no such luck"),
        ("not_finite", "the training loss is nan in epoch 1"),
        ("wrong_shape", "must keep shape and dtype"),
        ("exits", "the method called sys.exit(3)"),
        ("hard_not_finite", "the hardened weight of '3' is not finite"),
    ],
)
def test_a_bad_method_fails_its_trial_with_a_reason(
    bad_methods: None, method: str, reason: str
) -> None:
    result, weights = train(trial(method, bits="2/32"))
    assert result.status == "failed"
    assert reason in result.reason
    assert weights is None
    assert Result.model_validate_json(result.model_dump_json()).reason == result.reason


def test_activations_that_are_not_finite_when_hard_fail_the_trial(bad_methods: None) -> None:
    result, weights = train(trial("hard_input_not_finite", bits="32/2"))
    assert result.status == "failed"
    assert result.reason == "the test_loss of the hardened network is not a number"
    assert weights is None


def test_more_levels_than_promised_are_found(bad_methods: None) -> None:
    result, _ = train(trial("too_many_levels", bits="2/32"))
    assert result.status == "done"
    assert result.audit_text.startswith("3.weight has ")
    assert result.audit_text.endswith("4 promised (and 2 more)")


def test_without_epochs_a_network_is_quantized_and_evaluated() -> None:
    none = RECIPE.model_copy(update={"epochs": 0})
    result, weights = train(trial("ptq_mse", bits="4/4", recipe=none))
    assert result.status == "done", result.reason
    assert result.history == []
    assert not result.audit_text
    assert weights is not None


def test_any_torchvision_classifier_can_be_trained() -> None:
    one = RECIPE.model_copy(update={"epochs": 1, "batch_size": 500})
    result, _ = train(trial("ste", model="resnet18", bits="2/2", recipe=one))
    assert result.status == "done", result.reason


def test_every_hook_that_raises_fails_its_trial_with_its_reason() -> None:
    load_plugin(Plugin("wrong.py", plugins.WRONG))
    for hook in plugins.HOOKS:
        result, _ = train(trial(f"in_{hook}", bits="1/32", options={}))
        assert (result.status, result.reason) == ("failed", f"RuntimeError: wrong in {hook}")
        assert 'raise RuntimeError(f"wrong in {hook}")' in result.traceback


@pytest.mark.parametrize("damage", [lambda data: data, lambda data: data[:100], lambda data: b""])
def test_poisoned_or_damaged_weights_are_refused_by_name(tmp_path: Path, damage: Any) -> None:
    start = trial("ste").recipe.model_copy(update={"initialization": "pretrained"})
    what = trial("ste", recipe=start, full_precision=start)
    result, _ = train(what, damage(poison(tmp_path)))
    assert result.status == "failed"
    assert f"weights/{what.source}.pt, are refused" in result.reason
    assert not (tmp_path / "owned").exists()


def test_a_poisoned_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    what = trial("ste")
    training = Training(what, None, ExecutionEnvironment(checkpoints=Kept(poison(tmp_path))))
    assert list(training.epochs()) == []
    assert f"checkpoints/{what.key}.pt, is refused" in training.result.reason
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("method", ["quantization_networks", "inq"])
def test_a_stopped_trial_is_the_beginning_of_the_whole_one(method: str) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 3, "steps": 2})
    whole = trial(method, recipe=recipe, validation=50, bits="2/32")
    expected, weights = train(whole)
    kept = Kept()
    for stop in (1, 2):
        training, fresh = with_checkpoints(whole.changed(stop_after=stop), kept)
        assert fresh == [stop]
        assert training.result.history == expected.history[:stop]
        assert training.result.metrics["top1"] == expected.history[stop - 1]["top1"]
    training, fresh = with_checkpoints(whole, kept)
    assert fresh == [3]
    assert training.result.history == expected.history
    assert training.weights == weights

    shorter, fresh = with_checkpoints(whole.changed(stop_after=1), kept)
    assert fresh == [1]  # the checkpoint of a longer trial is of no use to it
    assert shorter.result.history == expected.history[:1]


def with_checkpoints(what: Trial, kept: Kept) -> tuple[Training, list[int]]:
    """Train with checkpoints, and return which epochs were trained here."""
    training = Training(what, None, ExecutionEnvironment(checkpoints=kept))
    fresh = [int(record["epoch"]) for record in training.epochs()]
    assert training.result.status == "done", training.result.traceback
    return training, fresh


@pytest.mark.usefixtures("foreign_models")
@pytest.mark.parametrize(("method", "bits"), [("fp32", "32/32"), ("ste", "2/32")])
def test_a_network_with_an_auxiliary_classifier_is_trained(method: str, bits: str) -> None:
    result, weights = train(trial(method, model="branched", bits=bits))
    assert (result.status, result.reason) == ("done", "")
    assert result.metrics["top1"] > 20
    assert weights is not None
    torch.manual_seed(0)
    start = Branched().side.weight
    assert not torch.equal(load_weights(weights)["side.weight"], start)


@pytest.mark.parametrize("placement", ["layer_inputs", "after_activation"])
def test_stored_weights_are_measured_again_to_the_last_digit(placement: str) -> None:
    what = trial("lsq", placement=placement, recipe=RECIPE.model_copy(update={"epochs": 1}))
    result, weights = train(what)
    assert weights is not None
    again = remeasure(what, weights, ExecutionEnvironment())
    assert again.metrics == result.metrics
    assert again.predictions == result.predictions
    assert again.audit == result.audit


def test_weights_of_another_network_are_not_measured() -> None:
    _, weights = train(trial("fp32", bits="32/32", recipe=RECIPE, model="resnet_tiny"))
    assert weights is not None
    with pytest.raises(QbenchError, match="the hardened weights do not fit"):
        remeasure(trial(), weights, ExecutionEnvironment())
    with pytest.raises(QbenchError, match="the hardened weights are refused"):
        remeasure(trial(), b"none", ExecutionEnvironment())

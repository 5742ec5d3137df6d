from __future__ import annotations

import pytest
import torch

from qbench import registry
from qbench.quant.options import build_method, method_options
from qbench.quant.plugins import Plugin, load_plugin
from qbench.spec.recipe import Recipe
from qbench.train.checkpoint import load_weights
from tests.helpers import plugins
from tests.helpers.training import RECIPE, train, trial


@pytest.fixture
def bad_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_methods_of_files", {})
    load_plugin(Plugin("bad.py", plugins.BAD))


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


def test_the_distribution_of_every_quantized_weight_is_recorded() -> None:
    result, hardened = train(trial(bits="3(±4)/2"))
    assert hardened is not None
    state = load_weights(hardened)
    assert [weights.layer for weights in result.weights] == ["3", "7", "10"]
    for weights in result.weights:
        count = state[f"{weights.layer}.weight"].numel()
        assert sum(weights.before) == sum(weights.after) == count
        assert len(weights.edges) == len(weights.before) + 1
        found = state[f"{weights.layer}.weight"].unique()
        assert weights.levels == pytest.approx(found.tolist(), rel=1e-5)
        assert len(weights.thresholds) == len(weights.levels) - 1
        assert weights.thresholds == sorted(weights.thresholds)


def test_weights_quantized_filter_by_filter_have_no_levels_of_the_layer() -> None:
    result, _ = train(trial("bwn", bits="1/32"))
    assert result.weights[0].levels == result.weights[0].thresholds == []
    assert sum(result.weights[0].after) > 0
    assert result.curve is None


def test_the_function_that_quantizes_is_recorded_as_it_hardens() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 6})
    result, _ = train(trial(bits="2/32", recipe=recipe))
    curve = result.curve
    assert curve is not None
    assert curve.layer == "3"
    assert {1, 6} <= curve.soft.keys() <= set(range(1, 7))
    assert len(set(curve.hard)) == 3
    hard = torch.tensor(curve.hard)
    distances = [
        float((torch.tensor(y) - hard).abs().mean()) for _, y in sorted(curve.soft.items())
    ]
    assert distances == sorted(distances, reverse=True)


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
    ],
)
def test_a_bad_method_fails_its_trial_with_a_reason(
    bad_methods: None, method: str, reason: str
) -> None:
    result, weights = train(trial(method, bits="2/32"))
    assert result.status == "failed"
    assert reason in result.reason
    assert weights is None


def test_more_levels_than_promised_are_found(bad_methods: None) -> None:
    result, _ = train(trial("too_many_levels", bits="2/32"))
    assert result.status == "done"
    assert result.audit_text.startswith("3.weight has ")
    assert result.audit_text.endswith("4 promised (and 2 more)")


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
def test_the_learning_rate_follows_its_schedule(
    schedule: dict[str, object], rates: list[float]
) -> None:
    recipe = Recipe.model_validate(
        {"epochs": 4, "batch_size": 500, "optimizer": "sgd", "lr": 1.0, **schedule}
    )
    result, _ = train(trial("fp32", bits="32/32", recipe=recipe))
    assert [record["lr"] for record in result.history] == pytest.approx(rates)


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

"""Statistics of batch normalization, estimated again after training."""

from __future__ import annotations

import torch
from torch import nn

from qbench.spec.recipe import Recipe
from qbench.train.building import ExecutionEnvironment
from qbench.train.checkpoint import load_weights
from qbench.train.reestimation import norms_of, reestimate, repeated
from qbench.train.trial import remeasure
from tests.helpers.training import RECIPE, train, trial

AGAIN = Recipe.model_validate({**dict(RECIPE), "reestimate_batches": 3})


def test_the_statistics_are_the_means_over_the_batches() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    batches = [torch.randn(8, 3) for _ in range(5)]
    reestimate(model, batches)
    with torch.no_grad():
        seen = [model[0](batch) for batch in batches]
    norm = model[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([y.mean(0) for y in seen]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([y.var(0) for y in seen]).mean(0))
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_statistics_that_are_not_kept_are_not_estimated() -> None:
    assert norms_of(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False))) == []


def test_batches_are_taken_from_as_many_passes_as_it_takes() -> None:
    assert list(repeated("ab", 5)) == list("ababa")
    assert list(repeated("ab", 2)) == list("ab")


def test_a_trial_reestimates_after_training_and_records_what_it_changes() -> None:
    plain, weights = train(trial("ste", bits="2/2"))
    found, again = train(trial("ste", bits="2/2", recipe=AGAIN))
    assert found.history == plain.history
    assert found.before_reestimation == plain.metrics
    assert found.metrics["test_loss"] != plain.metrics["test_loss"]
    assert plain.before_reestimation == {}
    assert weights is not None
    assert again is not None
    before, after = load_weights(weights), load_weights(again)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[-1] for name in changed} == {
        *("running_mean", "running_var", "num_batches_tracked")
    }


def test_it_is_measured_again_with_the_new_statistics() -> None:
    what = trial("ste", bits="2/2", recipe=AGAIN)
    found, hardened = train(what)
    assert hardened is not None
    assert remeasure(what, hardened, ExecutionEnvironment()).metrics == found.metrics


def test_a_method_that_does_not_train_reestimates_too() -> None:
    once = Recipe.model_validate({**dict(AGAIN), "epochs": 0})
    found, _ = train(trial("ptq_minmax", bits="2/2", recipe=once))
    assert found.before_reestimation.keys() == found.metrics.keys()


def test_without_batch_normalization_there_is_nothing_to_estimate() -> None:
    found, _ = train(trial("ste", bits="2/32", model="vit_tiny", recipe=AGAIN))
    assert found.status == "done"
    assert found.before_reestimation == {}

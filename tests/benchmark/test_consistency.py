from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qbench import registry
from qbench.benchmark.consistency import contradiction, copies
from qbench.benchmark.labels import labels_here, split_of
from qbench.spec.predictions import Predictions
from qbench.spec.recipe import Recipe
from qbench.spec.result import CodeFingerprint, Result
from tests.helpers.results import classified
from tests.helpers.training import RECIPE


def found(result: Result, labels: bool = True) -> str:
    return contradiction(result, labels_here(split_of(result.trial)) if labels else None)


def with_history(index: int, **values: float) -> Callable[[Result], Any]:
    return lambda result: result.history[index].update(values)


def test_a_result_that_agrees_with_itself_is_in_order() -> None:
    assert found(classified()) == ""


def test_a_failed_result_may_have_fewer_epochs() -> None:
    result = classified().model_copy(update={"status": "failed", "metrics": {}})
    result.history.pop()
    assert found(result) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.metrics.update(top1=95.0), "top1 is 95, and 90 after the last epoch"),
        (with_history(-1, top1=91.0), "top1 is 90, and 91 after the last epoch"),
        (with_history(-1, test_loss=2.0), "test_loss is 1, and 2 after the last epoch"),
        (with_history(-1, epoch=3), "its history has epoch 3 where epoch 2 belongs"),
        (lambda r: r.history.pop(0), "its history has epoch 2 where epoch 1 belongs"),
        (lambda r: r.history.pop(), "its history has 1 epoch, and it trains 2"),
        (lambda r: r.history.append({"epoch": 3}), "its history has 3 epochs, and it trains 2"),
        (lambda r: r.metrics.clear(), "it is done and has no top1"),
        (lambda r: r.metrics.update(top1=101.0), "top1 is 101, which is no percentage"),
        (lambda r: setattr(r, "suite", ""), "it names no suite"),
    ],
)
def test_what_contradicts_the_rest_is_named(change: Callable[[Result], Any], message: str) -> None:
    result = classified()
    change(result)
    assert message in found(result)


def test_rounding_is_no_contradiction_and_one_image_is() -> None:
    result = classified()
    result.history[-1] |= {"test_loss": 1.0001, "top1": 90.05}
    assert found(result, labels=False) == ""
    result.history[-1] |= {"test_loss": 1.0, "top1": 90.05}  # the same network, to the last digit
    assert "after the last epoch" in found(result)


def test_predictions_must_give_the_accuracy() -> None:
    result = classified()
    result.predictions = classified(wrong=37).predictions
    assert "top1 is 90, and its predictions give 89.7222" in found(result)
    assert found(result, labels=False) == ""
    result.predictions = Predictions.of([0] * 7, 10)
    assert "top1 is 90, which 7 predictions cannot give" in found(result, labels=False)
    result.predictions = Predictions.of([0] * 10, 10)
    assert "10 predictions of 10 classes, and was measured on 360" in found(result)


def test_images_that_could_not_be_read_have_no_prediction() -> None:
    result = classified()
    assert result.predictions is not None
    result.predictions = Predictions.of(result.predictions.values[:350], 10)
    result.unreadable = ["x.png"]
    assert found(result) == ""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"revision": 9}, "its fingerprint is that of revision 2 of dorefa, and it says 9"),
        ({"syntax": "0123456789abcdef"}, ""),  # code that is not known: the result is stale
        ({"syntax": "0123456789abcdef", "revision": 9}, ""),
        ({"syntax": "", "revision": 1}, ""),  # recorded before there were fingerprints
        ({"syntax": "none"}, "'none' is no fingerprint"),
        ({"revision": 0}, "revision 0 is none"),
    ],
)
def test_a_fingerprint_must_fit_its_revision(code: dict[str, Any], message: str) -> None:
    result = classified()
    assert registry.method_class("dorefa").revision == 2
    result.code = CodeFingerprint.model_validate({**result.code.model_dump(), **code})
    assert (message in found(result)) if message else (found(result) == "")


def test_copies_differ_in_their_seed_only() -> None:
    first, other = classified(seed=0), classified(seed=1)
    copy = first.model_copy(update={"trial": other.trial})
    assert not copies([("a", first), ("b", other)])
    assert copies([("a", first), ("b", copy)]).keys() == {
        ("a", first.trial.key),
        ("b", copy.trial.key),
    }
    another = first.model_copy(update={"trial": classified("pact").trial})
    assert not copies([("a", first), ("b", another)])  # two methods can be the same function


def test_given_weights_that_are_only_measured_are_alike_for_each_seed() -> None:
    untrained = Recipe.model_validate({**RECIPE.model_dump(), "epochs": 0})
    same = [classified(seed=seed, recipe=untrained) for seed in (0, 1)]
    assert not copies([(str(each.trial.seed), each) for each in same])

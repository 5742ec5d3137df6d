"""Trials that learn from their full-precision network."""

from __future__ import annotations

import pytest

from qbench.spec.recipe import Recipe, Teacher
from qbench.spec.result import Result
from qbench.spec.trial import TeacherNetwork, Trial
from qbench.train.building import ExecutionEnvironment
from qbench.train.trial import Training
from tests.helpers.checkpoints import Kept
from tests.helpers.training import RECIPE, train, trial


def taught(weight: float = 1.0, **changes: object) -> Trial:
    recipe = Recipe.model_validate({**dict(RECIPE), "epochs": 2, "teacher": {"weight": weight}})
    teacher = TeacherNetwork(recipe=RECIPE) if weight else None
    return trial("ste", bits="2/32", recipe=recipe, teacher=teacher, **changes)


@pytest.fixture(scope="module")
def teacher() -> bytes:
    base = taught().taught_by
    assert base is not None
    _, weights = train(base)
    assert weights is not None
    return weights


def test_without_weight_a_teacher_changes_no_bit(teacher: bytes) -> None:
    plain = trial("ste", bits="2/32")
    first, weights = train(taught(0), None, teacher)
    again, same = train(plain)
    assert taught(0).key == plain.key
    assert (first.history, weights) == (again.history, same)


def test_a_teacher_changes_the_training_and_not_its_start(teacher: bytes) -> None:
    frozen = Recipe.model_validate({**dict(RECIPE), "lr": 1e-12, "epochs": 1})
    learning = frozen.model_copy(update={"teacher": Teacher(weight=0.5)})
    found, _ = train(taught().changed(recipe=learning), None, teacher)
    plain, _ = train(trial("ste", bits="2/32", recipe=frozen))
    assert found.history[0]["top1"] == plain.history[0]["top1"]
    assert found.history[0]["train_loss"] != plain.history[0]["train_loss"]


def test_a_network_comes_closer_to_its_teacher(teacher: bytes) -> None:
    found, _ = train(taught(), None, teacher)
    assert found.status == "done"
    first, last = (record["train_loss"] for record in found.history)
    assert last < first


def test_a_missing_teacher_fails_the_trial_with_that_reason() -> None:
    found, _ = train(taught())
    assert found.status == "failed"
    assert found.reason == "the full-precision weights of its teacher are missing"


def test_a_trial_with_a_teacher_goes_on_from_its_checkpoint(teacher: bytes) -> None:
    whole, _ = train(taught(), None, teacher)
    kept = Kept()
    execution = ExecutionEnvironment(checkpoints=kept, checkpoint_seconds=0)
    next(Training(taught(), None, execution, teacher).epochs())
    again = Training(taught(), None, execution, teacher)
    for _ in again.epochs():
        pass
    assert courses(again.result) == courses(whole)


def courses(result: Result) -> list[float]:
    return [record["train_loss"] for record in result.history]

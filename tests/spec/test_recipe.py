from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from qbench.spec.recipe import Recipe

STEP = {"schedule": "step", "milestones": (2, 4)}


def recipe(**changes: Any) -> Recipe:
    basis = {"epochs": 8, "batch_size": 16, "optimizer": "sgd", "lr": 0.1}
    return Recipe.model_validate({**basis, **changes})


def test_fields_that_came_later_are_left_out_of_json_at_their_defaults() -> None:
    assert set(recipe().model_dump()) == set(Recipe.model_fields) - Recipe.later
    assert set(recipe(milestone_lrs=(0.05, 0.01), **STEP).model_dump()) - set(
        recipe().model_dump()
    ) == {"milestone_lrs"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {**STEP, "milestone_lrs": (0.05,)},
            r"milestone_lrs has 1 value and milestones has 2: \[0.05\] for \[2, 4\]; write one",
        ),
        (
            {**STEP, "milestone_weight_decays": (0, 0, 0)},
            r"milestone_weight_decays has 3 values and milestones has 2: .* write one value for",
        ),
        (
            {"schedule": "step", "milestones": (4, 2), "milestone_lrs": (0.05, 0.01)},
            r"milestone_lrs needs milestones in ascending order, \[2, 4\], not \[4, 2\]",
        ),
        (
            {"milestones": (2, 2), "milestone_weight_decays": (0.1, 0)},
            r"milestone_weight_decays needs milestones in ascending order, \[2\], not \[2, 2\]",
        ),
        (
            {"milestones": (2,), "milestone_lrs": (0.05,)},
            "milestone_lrs need the schedule 'step', not 'cosine'",
        ),
        ({"milestone_weight_decays": (0.1,)}, "has 1 value and milestones has 0"),
        ({**STEP, "milestone_lrs": (0.05, 0)}, "greater than 0"),
        ({**STEP, "milestone_weight_decays": (0.05, -1)}, "greater than or equal to 0"),
        ({"weight_decay_on": "biases"}, "'network', 'weights', 'quantized', 'classifier' or 'all'"),
        ({"optimizer": "adamax"}, "'sgd', 'adam' or 'adamw'"),
        ({"warmup_epochs": -1}, "greater than or equal to 0"),
        ({"label_smoothing": 1}, "less than 1"),
        ({"epsilon": 0}, "greater than 0"),
    ],
)
def test_a_field_that_cannot_be_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


def test_a_teacher_has_the_whole_weight_by_default() -> None:
    found = recipe(teacher={})
    assert found.model_dump()["teacher"] == {"weight": 1.0, "temperature": 1.0}
    assert found.teacher is not None
    assert found.teacher.text == "weight 1, temperature 1"


def test_a_teacher_without_weight_is_none() -> None:
    assert recipe(teacher={"weight": 0}) == recipe(teacher=None) == recipe()


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"weight": 1.5}, "weight"),
        ({"temperature": 0}, "temperature"),
        ({"weight": True}, "is no truth value"),
        ({"temprature": 2}, "temprature"),
    ],
)
def test_a_teacher_is_checked(teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(teacher=teacher)

"""Trials and their keys."""

from __future__ import annotations

from typing import Any

import pytest

from qbench.spec.recipe import Recipe
from qbench.spec.trial import Trial, full_precision_trial, given_weights_key

RECIPE = Recipe(epochs=3, batch_size=8, optimizer="sgd", lr=0.1)


def trial(**changes: Any) -> Trial:
    values: dict[str, Any] = {
        "method": "ste",
        "model": "resnet18",
        "dataset": "digits",
        "task": "classification",
        "bits": "2/2",
        "recipe": RECIPE,
        "seed": 0,
    }
    return Trial(**{**values, **changes})


def test_a_key_does_not_depend_on_an_order() -> None:
    assert trial(layers=("a", "b")).key == trial(layers=("b", "a")).key
    assert trial(options={"a": 1, "b": 2}).key == trial(options={"b": 2, "a": 1}).key


@pytest.mark.parametrize("name", Trial.later)
def test_a_later_field_at_its_default_is_no_part_of_a_key(name: str) -> None:
    default = Trial.model_fields[name].get_default(call_default_factory=True)
    assert name not in trial(**{name: default}).model_dump(mode="json")


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"bits": "4/4"}, {"data": {"classes": 3}}, {"rehearsal": True}]
)
def test_what_may_change_a_number_changes_the_key(changes: dict[str, Any]) -> None:
    assert trial(**changes).key != trial().key


def test_a_trial_starts_from_the_full_precision_trial_of_the_same_network_and_data() -> None:
    quantized = trial(full_precision=RECIPE, data={"classes": 3}, seed=7)
    assert quantized.base == full_precision_trial(quantized, RECIPE)
    assert quantized.base is not None
    assert (quantized.base.method, quantized.base.bits) == ("fp32", "32/32")
    assert (quantized.base.data, quantized.base.seed) == ({"classes": 3}, 7)
    assert quantized.source == quantized.base.key
    assert trial().source is None


@pytest.mark.parametrize("weights", ["backbone:torchvision:X", "finetune:sha256:1"])
def test_a_trial_may_start_from_given_weights_and_train(weights: str) -> None:
    first = trial(weights=weights)
    assert first.starts_from_initial_weights
    assert first.source == given_weights_key("resnet18", weights)
    assert not trial(weights=weights, full_precision=RECIPE).starts_from_initial_weights
    assert not trial(weights="torchvision:X").starts_from_initial_weights

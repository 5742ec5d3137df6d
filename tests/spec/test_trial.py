"""Trials and their keys."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from qbench.spec.recipe import Recipe, Teacher
from qbench.spec.trial import (
    Preparation,
    TeacherNetwork,
    Trial,
    full_precision_trial,
    given_weights_key,
)

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


@pytest.mark.parametrize("name", sorted(Trial.later))
def test_a_later_field_at_its_default_is_no_part_of_a_key(name: str) -> None:
    default = Trial.model_fields[name].get_default(call_default_factory=True)
    assert name not in trial(**{name: default}).model_dump(mode="json")
    assert trial(**{name: default}).key == "5a593a77b0ef3ab6"


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"bits": "4/4"}, {"data": {"classes": 3}}, {"rehearsal": True}]
)
def test_what_may_change_a_number_changes_the_key(changes: dict[str, Any]) -> None:
    assert trial(**changes).key != trial().key


def test_a_stopped_trial_is_the_beginning_of_another() -> None:
    whole = trial(validation=5)
    stopped = whole.changed(stop_after=2)
    assert stopped.key != whole.key == stopped.whole.key
    assert (stopped.epochs, whole.epochs) == (2, 3)
    assert stopped.recipe == whole.recipe
    assert stopped.name == f"{whole.name}, 2 of 3 epochs"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stop_after": 2}, "is for a trial that is measured on validation images"),
        ({"stop_after": 3, "validation": 5}, "must be less than the 3 epochs of the recipe, not 3"),
    ],
)
def test_no_trial_of_a_table_is_stopped(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        trial(**changes)


def test_a_changed_trial_has_a_key_and_a_base_of_its_own() -> None:
    first = trial(full_precision=RECIPE)
    assert first.base is not None  # now both are computed
    other = first.changed(validation=5, seed=3)
    assert other.key == trial(full_precision=RECIPE, validation=5, seed=3).key != first.key
    assert other.base is not None
    assert (other.base.validation, other.base.seed) == (5, 3)


def test_a_trial_starts_from_the_full_precision_trial_of_the_same_network_and_data() -> None:
    quantized = trial(full_precision=RECIPE, data={"classes": 3}, seed=7)
    assert quantized.base == full_precision_trial(quantized, RECIPE)
    assert quantized.base is not None
    assert (quantized.base.method, quantized.base.bits) == ("fp32", "32/32")
    assert (quantized.base.data, quantized.base.seed) == ({"classes": 3}, 7)
    assert quantized.source == quantized.base.key
    assert trial().source is None


@pytest.mark.parametrize(
    "changes",
    [
        {"full_precision": RECIPE, "layers": ("b", "a")},
        {"method": "fp32", "prepared": Preparation(method="bireal", bits="1/1")},
        {"weights": "torchvision:X", "options": {"seed": 3}},
    ],
)
def test_a_trial_with_another_seed_is_the_one_that_would_be_made(changes: dict[str, Any]) -> None:
    first = trial(**changes)
    assert first.key
    assert first.source or first.base is None  # what is cached is not taken over
    other, expected = first.with_seed(7), trial(**changes, seed=7)
    assert other == expected
    assert (other.key, other.source, other.base) == (expected.key, expected.source, expected.base)


def test_a_key_is_the_hash_of_the_fields_in_json() -> None:
    content = trial(seed=12).model_dump(mode="json")
    text = json.dumps(content, sort_keys=True)
    assert trial(seed=12).key == hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("weights", ["backbone:torchvision:X", "finetune:sha256:1"])
def test_a_trial_may_start_from_given_weights_and_train(weights: str) -> None:
    first = trial(weights=weights)
    assert first.starts_from_initial_weights
    assert first.source == given_weights_key("resnet18", weights)
    assert not trial(weights=weights, full_precision=RECIPE).starts_from_initial_weights
    assert not trial(weights="torchvision:X").starts_from_initial_weights


CHANGED = Preparation(method="xnor", options={"scale_map": False}, bits="1/1")


def xnor(**changes: Any) -> Trial:
    own = {"method": "xnor", "bits": "1/1", "recipe": RECIPE, "full_precision": RECIPE}
    where = {"model": "convnet_tiny", "dataset": "digits", "task": "classification", "seed": 0}
    return Trial.model_validate({**own, **where, **changes})


def test_the_key_of_a_quantized_trial_does_not_name_what_changed_its_network() -> None:
    """It follows from the method, and the keys of recorded trials must not change."""
    assert xnor(prepared=CHANGED).key == xnor().key


def test_a_changed_full_precision_network_is_a_trial_of_its_own() -> None:
    plain, changed = xnor().base, xnor(prepared=CHANGED).base
    assert plain is not None
    assert changed is not None
    assert changed.prepared == CHANGED
    assert changed.key != plain.key
    assert changed.model_copy(update={"prepared": None}).model_dump() == plain.model_dump()
    assert "prepared" not in plain.model_dump()


def test_the_key_of_a_changed_network_depends_on_what_changed_it() -> None:
    def key(**changes: Any) -> str:
        own = CHANGED.model_copy(update=changes)
        return full_precision_trial(xnor(prepared=own), RECIPE).key

    keys = [key(), key(method="bnn"), key(options={"scale_map": True}), key(bits="1/2")]
    assert len(set(keys)) == len(keys)


def test_a_declared_network_is_part_of_every_key_and_of_the_name() -> None:
    plain, declared = xnor(), xnor(network="tbn_resnet18")
    assert declared.key != plain.key
    assert "network" not in plain.model_dump()
    assert declared.base is not None
    assert declared.base == full_precision_trial(xnor(method="tbn", network="tbn_resnet18"), RECIPE)
    assert declared.base.name == "fp32 32/32 convnet_tiny as tbn_resnet18 digits seed 0"
    assert (plain.architecture, declared.architecture) == ("convnet_tiny", "tbn_resnet18")
    assert not declared.starts_from(None), "which was recorded before networks were declared"


def test_a_trial_starts_from_its_base() -> None:
    changed = xnor(prepared=CHANGED)
    assert changed.base is not None
    assert changed.source == changed.base.key
    assert changed.base.source is None


def test_a_start_that_was_not_recorded_was_the_unchanged_network() -> None:
    plain, changed = xnor(), xnor(prepared=CHANGED)
    assert plain.starts_from(None)
    assert plain.starts_from(plain.source)
    assert changed.starts_from(changed.source)
    assert not changed.starts_from(None)
    assert not changed.starts_from(plain.source)
    assert not plain.starts_from(changed.source)


def test_the_code_of_a_changed_network_is_that_of_the_method_that_changed_it() -> None:
    changed = xnor(prepared=CHANGED)
    assert changed.base is not None
    assert changed.code_method == changed.base.code_method == "xnor"
    assert changed.base.method == "fp32"
    assert xnor().base.code_method == "fp32"  # type: ignore[union-attr]
    assert changed.base.name == "fp32 for xnor 32/32 convnet_tiny digits seed 0"


TAUGHT = RECIPE.model_copy(update={"teacher": Teacher()})


def test_a_teacher_is_the_full_precision_trial_of_the_model_data_and_seed() -> None:
    quantized = trial(
        recipe=TAUGHT,
        seed=7,
        data={"classes": 3},
        validation=5,
        network="preact_resnet18",
        teacher=TeacherNetwork(recipe=RECIPE),
    )
    plain = trial(seed=7, data={"classes": 3}, validation=5)
    assert quantized.taught_by == full_precision_trial(plain, RECIPE)
    assert quantized.sources == (quantized.taught_by.key,)
    assert quantized.needs == (quantized.taught_by,)


def test_a_teacher_that_is_also_the_start_is_needed_once() -> None:
    quantized = trial(recipe=TAUGHT, full_precision=RECIPE, teacher=TeacherNetwork(recipe=RECIPE))
    assert quantized.needs == (quantized.base,) == (quantized.taught_by,)
    assert quantized.sources == (quantized.source,)


def test_a_teacher_may_have_weights_that_are_given() -> None:
    given = TeacherNetwork(recipe=RECIPE, weights="torchvision:IMAGENET1K_V1")
    taught_by = trial(recipe=TAUGHT, teacher=given).taught_by
    assert taught_by is not None
    assert taught_by.weights == "torchvision:IMAGENET1K_V1"


def test_another_seed_has_another_teacher() -> None:
    first = trial(recipe=TAUGHT, teacher=TeacherNetwork(recipe=RECIPE))
    assert first.taught_by is not None  # now it is computed
    other = first.with_seed(3)
    assert other == first.changed(seed=3)
    assert other.taught_by == first.changed(seed=3).taught_by != first.taught_by


def test_a_trial_without_a_teacher_needs_what_it_starts_from() -> None:
    assert trial().needs == ()
    assert trial().sources == ()
    assert trial(full_precision=RECIPE).needs == (trial(full_precision=RECIPE).base,)


def test_a_reestimation_changes_the_key_and_none_does_not() -> None:
    again = RECIPE.model_copy(update={"reestimate_batches": 50})
    assert trial(recipe=again).key != trial().key
    none = RECIPE.model_copy(update={"reestimate_batches": 0})
    assert trial(recipe=none).key == trial().key

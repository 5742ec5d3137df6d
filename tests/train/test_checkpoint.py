"""An interrupted trial ends with the same bits as one that was not interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qbench.quant.options import build_method, method_options
from qbench.spec.recipe import Recipe
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.train.building import ExecutionEnvironment
from qbench.train.checkpoint import (
    RefusedError,
    load_weights,
    pack,
    random_state,
    set_random_state,
    unpack,
)
from qbench.train.trial import Training
from tests.helpers.checkpoints import Kept, poison

RECIPE = Recipe(
    epochs=4, batch_size=128, optimizer="sgd", lr=0.05, schedule="step", milestones=(2,)
)


def trial(method: str, options: dict[str, Any], **changes: object) -> Trial:
    return Trial.model_validate(
        {
            "method": method,
            "options": method_options(build_method(method, options)),
            "model": "convnet_tiny",
            "dataset": "digits",
            "task": "classification",
            "bits": "2/2",
            "recipe": RECIPE,
            "seed": 0,
            **changes,
        }
    )


def train(what: Trial, kept: Kept | None = None, until: int = 99) -> tuple[Result, bytes | None]:
    training = Training(what, None, ExecutionEnvironment(checkpoints=kept, checkpoint_seconds=0))
    for record in training.epochs():
        if record["epoch"] == until:
            break  # killed here: nothing after it runs
    return training.result, training.weights


PLACED = {"placement": "after_activation", "model": "resnet_tiny"}


@pytest.mark.parametrize(
    ("method", "options", "bits", "changes"),
    [
        ("fp32", {}, "32/32", {}),
        ("ste", {}, "2/2", {}),
        ("lq_nets", {}, "2/2", {}),
        ("quantization_networks", {}, "3(±4)/2", {}),
        ("admm", {}, "2/32", {}),
        ("inq", {}, "3/32", {}),
        ("binary_connect", {"stochastic": True}, "1/32", {}),
        ("dorefa", {"gradient_bits": 4}, "2/2", {}),
        ("lsq", {}, "2/2", {}),
        ("quantization_networks", {}, "3(±4)/2", PLACED),
        ("jacob", {}, "2/2", PLACED | {"placement": "after_activation_and_add"}),
        ("friesen_domingos", {}, "32/1", PLACED),
    ],
)
def test_a_killed_trial_goes_on_to_the_same_bits(
    method: str, options: dict[str, Any], bits: str, changes: dict[str, Any]
) -> None:
    what = trial(method, options, bits=bits, **changes)
    undisturbed, weights = train(what)
    assert undisturbed.status == "done", undisturbed.reason
    kept = Kept()
    train(what, kept, until=2)
    assert kept.data is not None
    torch.rand(5)  # whatever happens in between must not matter
    resumed, again = train(what, kept)
    assert resumed.status == "done", resumed.reason
    assert resumed.history == undisturbed.history
    assert resumed.metrics == undisturbed.metrics
    assert resumed.curve == undisturbed.curve
    assert weights is not None
    assert again is not None
    left, right = load_weights(weights), load_weights(again)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("until", [1, 2, 3])
def test_rates_and_decays_that_change_over_time_go_on_to_the_same_bits(until: int) -> None:
    recipe = RECIPE.model_copy(
        update={
            "optimizer": "adamw",
            "milestones": (2, 3),
            "milestone_lrs": (0.01, 0.004),
            "milestone_weight_decays": (0.1, 0.0),
            "weight_decay": 0.2,
            "weight_decay_on": "weights",
            "warmup_epochs": 1.5,
            "label_smoothing": 0.1,
            "epsilon": 1e-5,
        }
    )
    what = trial("lsq", {}, recipe=Recipe.model_validate(recipe.model_dump()))
    undisturbed, weights = train(what)
    assert undisturbed.status == "done", undisturbed.reason
    kept = Kept()
    train(what, kept, until=until)
    resumed, again = train(what, kept)
    assert resumed.history == undisturbed.history
    assert weights is not None
    assert again is not None
    left, right = load_weights(weights), load_weights(again)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_what_was_trained_before_the_kill_is_not_trained_again() -> None:
    kept = Kept()
    train(trial("ste", {}), kept, until=3)
    training = Training(
        trial("ste", {}), None, ExecutionEnvironment(checkpoints=kept, checkpoint_seconds=0)
    )
    assert [record["epoch"] for record in training.epochs()] == [4]
    assert [record["epoch"] for record in training.result.history] == [1, 2, 3, 4]


def test_a_checkpoint_of_another_version_of_the_method_is_not_used() -> None:
    kept = Kept()
    train(trial("ste", {}), kept, until=3)
    assert kept.data is not None
    for code in ({"syntax": "of another day"}, {"revision": 2}, {"numerics": 2}):
        kept.data = pack({**unpack(kept.data), "code": code})
        training = Training(trial("ste", {}), None, ExecutionEnvironment(checkpoints=kept))
        assert [record["epoch"] for record in training.epochs()] == [1, 2, 3, 4]


def test_a_checkpoint_of_before_code_had_fingerprints_is_used() -> None:
    kept = Kept()
    train(trial("ste", {}), kept, until=3)
    assert kept.data is not None
    content = unpack(kept.data)
    del content["code"]
    kept.data = pack({**content, "method_source": "the hash of a file's text"})
    training = Training(trial("ste", {}), None, ExecutionEnvironment(checkpoints=kept))
    assert [record["epoch"] for record in training.epochs()] == [4]


def test_a_short_trial_leaves_no_checkpoint() -> None:
    kept = Kept()
    training = Training(trial("ste", {}), None, ExecutionEnvironment(checkpoints=kept))
    assert len(list(training.epochs())) == 4
    assert kept.data is None


def test_the_generators_of_python_numpy_and_torch_go_back() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), random.gauss(), np.random.normal(), float(torch.randn(()))]

    draw()
    state = unpack(pack(random_state()))
    first = draw()
    draw()
    set_random_state(state)
    assert draw() == first


def test_a_checkpoint_that_is_more_than_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        unpack(poison(tmp_path))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("length", [0, 100])
def test_a_damaged_checkpoint_is_refused(length: int) -> None:
    with pytest.raises(RefusedError, match="holds more than data, or is damaged"):
        unpack(pack({"epochs": 3})[:length])

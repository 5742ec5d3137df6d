"""The space that ``recipe: tuned`` searches."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qbench.plugins import Plugin, load_plugin
from qbench.quant.options import build_method, determining_options
from qbench.spec.recipe import Recipe
from qbench.spec.trial import Preparation, Trial
from qbench.spec.tunable import Tunable
from qbench.suite.space import axes, dimensions, points, scaled, tuned
from tests.helpers.training import trial

STEPS = Recipe(
    epochs=3, batch_size=8, optimizer="sgd", lr=0.1, schedule="step", milestones=(1, 2),
    milestone_lrs=(0.01, 0.001), weight_decay=1e-4, other_lr=0.02,
)  # fmt: skip
DECAYING = {"recipe": STEPS}
RANGED = """
    from typing import Annotated

    from qbench.method import Field, Method, Tunable, Uniform

    class Ranged(Method):
        "A method with ranges of its own."

        title = "Ranged"
        rho: Annotated[float, Field(gt=0), Tunable(0.1, 10, log=True)] = 1.0
        rounds: Annotated[int, Field(ge=1), Tunable(1, 9)] = 3
"""


@pytest.fixture
def ranged(tmp_path: Path) -> Trial:
    path = tmp_path / "ranged.py"
    path.write_text(textwrap.dedent(RANGED), encoding="utf-8")
    load_plugin(Plugin.read(path))
    return trial("ranged", **DECAYING)


def test_the_points_of_shared_axes_are_the_same_for_every_method() -> None:
    few, many = points("quasirandom", 1, 7, 2), points("quasirandom", 1, 7, 5)
    assert np.array_equal(few, many[:, :2])
    few, many = points("random", 1, 7, 2), points("random", 1, 7, 5)
    assert np.array_equal(few, many[:, :2])


def test_more_trials_keep_those_that_were_run() -> None:
    assert np.array_equal(points("quasirandom", 1, 12, 3)[:7], points("quasirandom", 1, 7, 3))


def test_studies_have_points_of_their_own_that_cover_every_axis() -> None:
    studies = [points("quasirandom", study, 8, 4) for study in (1, 2)]
    assert not np.isin(studies[0], studies[1]).any()
    for each in studies:
        assert ((each >= 0) & (each < 1)).all()
        # Of eight points one is in each eighth of every axis, and two in each quarter of a plane.
        assert (np.sort(np.floor(8 * each), axis=0) == np.arange(8)[:, None]).all()
        quarters = Counter(map(tuple, np.floor(2 * each[:, :2]).tolist()))
        assert set(quarters.values()) == {2}


def test_the_points_are_those_of_every_version_of_the_libraries() -> None:
    found = points("quasirandom", 3, 3, 2).round(6).tolist()
    assert found == [[0.660534, 0.688257], [0.196975, 0.260663], [0.483632, 0.76371]]


def test_a_method_has_the_shared_axes_and_its_own(ranged: Trial) -> None:
    assert list(axes(trial("dorefa", **DECAYING), {})) == ["lr", "weight_decay"]
    assert list(axes(trial("qil", **DECAYING), {})) == ["lr", "weight_decay", "lr_factor"]
    assert list(axes(ranged, {})) == ["lr", "weight_decay", "rho", "rounds"]
    assert axes(ranged, {})["rho"] == Tunable(0.1, 10, log=True)


def test_what_a_suite_sets_or_training_does_not_use_is_not_searched(ranged: Trial) -> None:
    assert "rho" not in axes(ranged, {"rho": 1.0})
    assert "lr_factor" not in axes(trial("qil", **DECAYING), {"lr_factor": 0.1})
    untrained = ranged.changed(recipe=STEPS.model_copy(update={"epochs": 0}))
    assert list(axes(untrained, {})) == ["rho", "rounds"]
    without = trial("dorefa", recipe=Recipe(epochs=1, batch_size=8, optimizer="sgd", lr=0.1))
    assert list(axes(without, {})) == ["lr"]


def test_all_rates_and_decays_of_a_recipe_have_the_factor() -> None:
    found = scaled(STEPS, ("lr", "other_lr", "milestone_lrs"), 2)
    assert (found.lr, found.other_lr, found.milestone_lrs) == (0.2, 0.04, (0.02, 0.002))
    assert found.weight_decay == STEPS.weight_decay


def test_the_middle_of_the_space_is_the_recipe_as_it_is(ranged: Trial) -> None:
    ranges = axes(ranged, {})
    assert dimensions(ranges) == 5
    found, values = tuned(ranged, {}, ranges, [0.5] * 5)
    assert values == {"lr": 0.1, "weight_decay": 1e-4, "rho": 1.0, "rounds": 5}
    assert found.recipe == STEPS
    assert found.options == {"rho": 1.0, "rounds": 5}


def test_a_point_that_changes_nothing_keeps_the_key() -> None:
    own = trial("qil", **DECAYING, options=determining_options(build_method("qil", {})))
    found, values = tuned(own, {}, axes(own, {}), [0.5, 0.5, 0])
    assert values["lr_factor"] == 0.01  # the default
    assert found.key == own.key


def test_the_network_that_a_method_changes_has_the_options_of_the_point(ranged: Trial) -> None:
    before = Preparation(method="ranged", options=ranged.options, bits="1/1")
    found, _ = tuned(ranged.changed(prepared=before), {}, axes(ranged, {}), [0.5] * 4 + [0])
    assert found.prepared is not None
    assert found.prepared.options == found.options == {"rho": 1.0, "rounds": 1}

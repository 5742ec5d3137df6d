"""The two stages of a suite with ``recipe: tuned``."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from qbench.spec.trial import FP32
from qbench.suite.grid import expand
from qbench.suite.suite import Suite
from qbench.suite.tuned import TunedGrid, fresh_seeds, search_seed
from tests.helpers.suites import load, problems
from tests.helpers.tuned import SUITE


def suite(tmp_path: Path, *assignments: str) -> Suite:
    return load(tmp_path, SUITE, *assignments)


def test_no_seed_belongs_to_two_studies_or_stages() -> None:
    every = [s for study in range(1, 20) for s in (search_seed(study), *fresh_seeds(study, 999))]
    assert len(set(every)) == len(every)


def test_each_row_has_the_same_trials_in_each_study(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path))
    assert [(each[0].label, each[0].study, len(each)) for each in grid.studies] == [
        ("Full precision", 1, 3),
        ("DoReFa-Net", 1, 3),
        ("Full precision", 2, 3),
        ("DoReFa-Net", 2, 3),
    ]
    full, dorefa, *_ = grid.studies
    factors = [
        [each.trial.recipe.lr / own.trial.recipe.lr for each, own in itertools.pairwise(row)]
        for row in (full, dorefa)
    ]
    assert factors[0] == pytest.approx(factors[1], rel=0.02)  # the same points, to three digits


def test_a_trial_of_the_first_stage_and_its_start_never_see_validation_images(
    tmp_path: Path,
) -> None:
    for planned in TunedGrid(suite(tmp_path)).first_stage():
        assert planned.trial.validation == 50
        assert planned.trial.seed in (search_seed(1), search_seed(2))
    bases = [p for p in TunedGrid(suite(tmp_path)).first_stage() if p.label.endswith(", start")]
    assert [p.trial.seed for p in bases] == [search_seed(1), search_seed(2)]


def test_the_second_stage_is_the_winner_on_fresh_seeds(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path))
    winner = grid.studies[3][1]
    finals = grid.second_stage(winner)
    assert [p.trial.seed for p in finals] == fresh_seeds(2, 2)
    for planned in finals:
        same = planned.trial.changed(seed=winner.trial.seed, validation=50)
        assert same.key == winner.trial.key
        assert planned.values == winner.values
    everything = grid.with_bases(finals)
    assert [p.trial.method for p in everything] == [FP32, FP32, "dorefa", "dorefa"]


def test_a_trial_of_the_second_stage_is_that_of_a_suite_with_its_values(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path))
    final = grid.second_stage(grid.studies[1][0])[0]
    recipe = final.trial.recipe
    written = suite(
        tmp_path, "recipe.name=aligned", f"recipe.lr={recipe.lr}", "seeds=[1001]",
        f"recipe.weight_decay={recipe.weight_decay}", "methods=[dorefa]",
    )  # fmt: skip
    assert final.trial.key in [planned.trial.key for planned in expand(written)]


def test_equal_configurations_are_trained_once(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path, "methods=[ptq_minmax]"))
    assert [len(candidates) for candidates in grid.studies] == [1, 1]


def test_what_a_method_does_not_support_is_planned_and_not_trained(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path, "methods=[bwn]"))
    assert not grid.studies
    assert [p.study for p in grid.unsupported] == [1, 1, 2, 2]
    assert all(p.unsupported for p in grid.unsupported)


def test_tuning_is_for_tuned_suites_and_leaves_images_to_train_on(tmp_path: Path) -> None:
    (none,) = problems(tmp_path, SUITE.replace("\nrecipe", "\n# "))
    assert none == "suite.yaml:9: tuning: is for `recipe: tuned`, which is missing"
    (many,) = problems(tmp_path, SUITE, "tuning.validation=800")
    assert many.startswith("--set tuning.validation=800: tuning.validation: a validation split of")
    assert "718 at most" in many
    (other,) = problems(tmp_path, SUITE, "tuning.serch=random")
    assert "tuning.serch: no such key; did you mean 'search'?" in other


def test_the_limit_of_trials_counts_those_of_studies(tmp_path: Path) -> None:
    assert suite(tmp_path).max_trials() == 2 * (3 + 2) * 3

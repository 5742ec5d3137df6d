"""The two stages of a suite with ``recipe: tuned``."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.spec.trial import FP32
from qbench.suite.grid import PlannedTrial, expand
from qbench.suite.suite import Suite
from qbench.suite.tuned import TunedGrid, fresh_seeds, search_seed
from tests.helpers.suites import load, problems
from tests.helpers.tuned import SUITE


def suite(tmp_path: Path, *assignments: str) -> Suite:
    return load(tmp_path, SUITE, *assignments)


def studies(grid: TunedGrid) -> list[list[PlannedTrial]]:
    return [search.known for search in grid.searches({})]


def first_stage(grid: TunedGrid) -> list[PlannedTrial]:
    return grid.with_bases([each for study in studies(grid) for each in study])


def test_no_seed_belongs_to_two_studies_or_stages() -> None:
    every = [s for study in range(1, 20) for s in (search_seed(study), *fresh_seeds(study, 999))]
    assert len(set(every)) == len(every)


def test_each_row_has_the_same_trials_in_each_study(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path))
    assert [(each[0].label, each[0].study, len(each)) for each in studies(grid)] == [
        ("Full precision", 1, 3),
        ("DoReFa-Net", 1, 3),
        ("Full precision", 2, 3),
        ("DoReFa-Net", 2, 3),
    ]
    full, dorefa, *_ = studies(grid)
    factors = [
        [each.trial.recipe.lr / own.trial.recipe.lr for each, own in itertools.pairwise(row)]
        for row in (full, dorefa)
    ]
    assert factors[0] == pytest.approx(factors[1], rel=0.02)  # the same points, to three digits


def test_a_trial_of_the_first_stage_and_its_start_never_see_validation_images(
    tmp_path: Path,
) -> None:
    for planned in first_stage(TunedGrid(suite(tmp_path))):
        assert planned.trial.validation == 50
        assert planned.trial.seed in (search_seed(1), search_seed(2))
    bases = [p for p in first_stage(TunedGrid(suite(tmp_path))) if p.label.endswith(", start")]
    assert [p.trial.seed for p in bases] == [search_seed(1), search_seed(2)]


def test_the_second_stage_is_the_winner_on_fresh_seeds(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path))
    winner = studies(grid)[3][1]
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
    final = grid.second_stage(studies(grid)[1][0])[0]
    recipe = final.trial.recipe
    written = suite(
        tmp_path, "recipe.name=aligned", f"recipe.lr={recipe.lr}", "seeds=[1001]",
        f"recipe.weight_decay={recipe.weight_decay}", "methods=[dorefa]",
    )  # fmt: skip
    assert final.trial.key in [planned.trial.key for planned in expand(written)]


def test_equal_configurations_are_trained_once(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path, "methods=[ptq_minmax]"))
    assert [len(candidates) for candidates in studies(grid)] == [1, 1]


def test_a_row_that_fixes_a_searched_option_stands_beside_one_that_does_not(
    tmp_path: Path,
) -> None:
    rows = "methods=[dsq, {dsq: {alpha: 0.2}}]"  # its default
    first, fixed, *_ = studies(TunedGrid(suite(tmp_path, rows)))
    assert [first[0].label, fixed[0].label] == ["DSQ", "DSQ (alpha=0.2)"]
    assert "alpha" in first[0].values
    assert "alpha" not in fixed[0].values
    with pytest.raises(QbenchError, match="'DoReFa-Net' and 'other' are the same at 2/2"):
        TunedGrid(suite(tmp_path, "methods=[dorefa, {dorefa: {}, label: other}]"))


def test_a_network_that_a_method_changes_is_the_same_for_all_learning_rates(
    tmp_path: Path,
) -> None:
    grid = TunedGrid(suite(tmp_path, "methods=[n2uq]", "tuning.studies=1"))
    (search,) = studies(grid)
    assert len({each.trial.options["lr_factor"] for each in search}) == 3
    labels = [each.label for each in first_stage(grid) if each.trial.method == FP32]
    assert len(labels) == 1
    assert labels[0].startswith("Full precision, changed")


def test_what_a_method_does_not_support_is_planned_and_not_trained(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path, "methods=[bwn]"))
    assert not studies(grid)
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


def test_optuna_chooses_once_the_scores_before_are_known(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    grid = TunedGrid(suite(tmp_path, "tuning.search=optuna", "tuning.trials=5", "methods=[dorefa]"))
    even = TunedGrid(suite(tmp_path, "tuning.trials=5", "methods=[dorefa]"))
    (search, other), (same, _) = grid.searches({}), even.searches({})
    assert (len(search.known), len(search.following)) == (3, 2)
    assert search.known == same.known[:3]
    scores = {each.trial.key: float(place) for place, each in enumerate(search.known)}
    (next_one, waiting) = grid.searches(scores)
    assert (len(next_one.known), len(next_one.following)) == (4, 1)
    assert next_one.known[:3] == search.known
    assert waiting == other  # a study knows its own scores only
    scores[next_one.known[3].trial.key] = math.nan  # it failed
    (whole, _) = TunedGrid(
        suite(tmp_path, "tuning.search=optuna", "tuning.trials=5", "methods=[dorefa]")
    ).searches(scores)  # another process asks for the same configurations
    assert whole.known[:4] == next_one.known
    assert (len({each.trial.key for each in whole.known}), whole.following) == (5, [])


def test_optuna_searches_nothing_where_there_is_no_axis(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    grid = TunedGrid(suite(tmp_path, "methods=[ptq_minmax]", "tuning.search=optuna"))
    assert [(len(each.known), each.following) for each in grid.searches({})] == [(1, [])] * 2


def test_optuna_has_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (missing,) = problems(tmp_path, SUITE, "tuning.search=optuna")
    assert missing == (
        "--set tuning.search=optuna: tuning.search: needs optuna, which is not installed: "
        "pip install 'qbench-quant[optuna]'"
    )


def test_the_name_of_a_trial_tells_its_configuration(tmp_path: Path) -> None:
    halved = ("tuning.scheduler=asha", "recipe.epochs=9", "methods=[dorefa]", "tuning.studies=1")
    (search,) = TunedGrid(suite(tmp_path, *halved)).searches({})
    assert len({each.name for each in search.known}) == 3
    first = search.known[0]
    values = ", ".join(f"{name} {value}" for name, value in first.values.items())
    assert values.startswith("lr ")
    assert first.name == (f"DoReFa-Net 2/2 convnet_tiny digits seed 1000 ({values}), 1 of 9 epochs")


@pytest.mark.parametrize(
    ("changes", "effort"),
    [
        ((), "Each study tries 3 quasirandom configurations on 50 validation images. It"),
        (
            ("tuning.search=random", "tuning.trials=1", "tuning.scheduler=asha"),
            "Each study tries 1 random configuration on 50 validation images; asha stops the "
            "worse ones. It",
        ),
    ],
)
def test_the_effort_is_told_in_a_sentence(
    tmp_path: Path, changes: tuple[str, ...], effort: str
) -> None:
    assert suite(tmp_path, *changes).tuning.effort == (
        f"{effort} trains the best one on 2 fresh seeds and measures it on the test split."
    )


def test_tuning_is_a_mapping(tmp_path: Path) -> None:
    text = "\n".join(line for line in SUITE.splitlines() if not line.startswith("tuning"))
    (wrong,) = problems(tmp_path, text + "\ntuning: 5\n")
    assert wrong == "suite.yaml:9: tuning: must be a mapping, not 5"


def test_a_scheduler_starts_configurations_with_the_first_rung(tmp_path: Path) -> None:
    halved = ("tuning.scheduler=asha", "tuning.trials=7", "recipe.epochs=12", "methods=[dorefa]")
    grid, plain = (TunedGrid(suite(tmp_path, *changes)) for changes in (halved, halved[1:]))
    for search, same in zip(grid.searches({}), plain.searches({}), strict=True):
        assert [each.trial.whole.key for each in search.known] == [
            each.trial.key for each in same.known
        ]
        assert {each.trial.epochs for each in search.known} == {2}
        assert [each.trial.epochs for each in search.following] == [4, 4, 4, 12]
        assert search.finalists == []
        assert same.finalists == same.known


def test_stopped_trials_start_from_networks_of_full_length(tmp_path: Path) -> None:
    halved = ("tuning.scheduler=asha", "recipe.epochs=9", "full_precision.epochs=5")
    grid = TunedGrid(suite(tmp_path, *halved))
    bases = [p for p in first_stage(grid) if p.label.endswith(", start")]
    assert {(p.trial.epochs, p.trial.stop_after) for p in bases} == {(5, 0)}
    for planned in grid.second_stage(studies(grid)[1][0]):
        assert (planned.trial.epochs, planned.epochs_before) == (9, 0)


def test_without_an_axis_no_configuration_is_stopped(tmp_path: Path) -> None:
    grid = TunedGrid(suite(tmp_path, "methods=[ptq_minmax]", "tuning.scheduler=asha"))
    assert [(len(each.finalists), each.following) for each in grid.searches({})] == [(1, [])] * 2


def test_the_limit_of_trials_counts_those_of_all_rungs(tmp_path: Path) -> None:
    halved = suite(tmp_path, "tuning.scheduler=asha", "tuning.trials=7")
    assert halved.max_trials() == 2 * (7 + 3 + 1 + 2) * 3


def test_an_unknown_scheduler_is_told_the_nearest_one(tmp_path: Path) -> None:
    (wrong,) = problems(tmp_path, SUITE, "tuning.scheduler=ash")
    assert wrong == (
        "--set tuning.scheduler=ash: tuning.scheduler: 'ash' is not one; did you mean 'asha'?"
    )


def test_optuna_chooses_by_the_scores_of_the_first_rung(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    changes = ("tuning.search=optuna", "tuning.scheduler=asha", "tuning.trials=5",
               "recipe.epochs=9", "methods=[dorefa]", "tuning.studies=1")  # fmt: skip
    grid, scores = TunedGrid(suite(tmp_path, *changes)), dict[str, float]()
    lengths = []
    while (search := grid.searches(scores)[0]).following or len(scores) < len(search.known):
        lengths.append([each.trial.epochs for each in search.following])
        scores |= {each.trial.key: each.trial.recipe.lr for each in search.known}
    assert lengths == [[1, 1, 3, 3, 9], [1, 3, 3, 9], [3, 3, 9], [9], []]
    assert len(search.finalists) == 1

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.estimate import START_SECONDS, TRIAL_SECONDS, Estimator
from tests.helpers.suites import GOOD
from tests.helpers.tuned import SUITE, record


@pytest.mark.usefixtures("foreign_models")
def test_a_model_that_cannot_be_timed_leaves_the_others_estimated(
    tmp_path: Path, elsewhere: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(GOOD, encoding="utf-8")
    assignments = ["models=[convnet_tiny, fails_in_training]", "methods=[ste]", "seeds=[0]"]
    benchmark = Benchmark.open(suite, elsewhere, assignments)
    trials = benchmark.to_do()
    estimator = Estimator(benchmark)
    seconds = {each.trial.model: estimator.seconds(each) for each in trials}
    assert seconds["convnet_tiny"] > 0
    assert seconds["fails_in_training"] != seconds["fails_in_training"]  # NaN
    assert estimator.total_seconds(trials) > 0
    assert estimator.disk_bytes(trials) > 0
    assert estimator.problems == ["the time of fails_in_training: AttributeError: no such thing"]


def test_a_small_run_takes_the_start_of_ray_and_what_surrounds_training(
    tmp_path: Path, elsewhere: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(GOOD, encoding="utf-8")
    short = ["methods=[ste]", "seeds=[0]", "recipe.epochs=1", "full_precision.epochs=1"]
    benchmark = Benchmark.open(suite, elsewhere, short)
    trials = benchmark.to_do()
    estimator = Estimator(benchmark)
    assert all(estimator.seconds(each) > TRIAL_SECONDS for each in trials)
    least = START_SECONDS + len(trials) * TRIAL_SECONDS / estimator.at_once
    assert estimator.run_seconds(trials) > least
    assert estimator.run_seconds([]) == 0


def test_evaluation_is_counted(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(GOOD, encoding="utf-8")
    benchmark = Benchmark.open(suite, elsewhere)
    first = benchmark.to_do()[0]
    found = []
    for test in (0, 10_000_000):
        monkeypatch.setattr(type(benchmark.dataset), "sizes", lambda _, test=test: (1000, test))
        found.append(Estimator(benchmark).seconds(first))
    assert found[1] > 10 * found[0]


def test_tuned_trials_take_what_those_with_the_aligned_recipe_took(
    tmp_path: Path, elsewhere: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    small = ("methods=[dorefa]", "seeds=[0]", "recipe.initialization=scratch")
    aligned = Benchmark.open(suite, elsewhere, (*small, "recipe.name=aligned"))
    for planned in aligned.planned:
        record(aligned, planned, 90.0)
    first = Benchmark.open(suite, elsewhere, small).to_do()[0]
    assert first.trial.validation
    estimator = Estimator(Benchmark.open(suite, elsewhere, small))
    assert estimator.seconds(first) == 2.0  # what is recorded


def test_only_the_epochs_that_a_trial_trains_are_counted(tmp_path: Path, elsewhere: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    small = ("methods=[dorefa]", "recipe.initialization=scratch", "tuning.studies=1")
    halved = ("tuning.trials=7", "tuning.scheduler=asha", "recipe.epochs=9")
    benchmark = Benchmark.open(suite, elsewhere, (*small, *halved))
    record(benchmark, benchmark.to_do()[0], 90.0)  # one epoch, and two seconds
    benchmark.refresh()
    estimator, waiting = Estimator(benchmark), benchmark.awaited()
    assert [(p.trial.epochs, p.epochs_before) for p in waiting] == [
        *[(3, 1)] * 3, (9, 3), *[(9, 0)] * 2,
    ]  # fmt: skip
    assert [estimator.seconds(each) for each in waiting] == [4.0] * 3 + [12.0] + [18.0] * 2
    more = estimator.disk_bytes(benchmark.to_do()) / estimator.disk_bytes(waiting)
    assert more > 2  # a checkpoint of each first trial is kept

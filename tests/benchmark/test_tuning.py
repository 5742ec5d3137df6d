"""Suites with ``recipe: tuned``: winners, what follows from them, and that no test decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.tuned_frames import configurations
from qbench.benchmark.tuning import awaited, planned, scores_of, stopped, study_of
from qbench.data.fashion_mnist import write_idx
from qbench.spec.result import Result
from qbench.store.run import Run
from qbench.store.tags import FINAL, REASON
from qbench.suite.grid import PlannedTrial
from qbench.suite.tuned import Search, TunedGrid, fresh_seeds
from qbench.train.building import ExecutionEnvironment
from qbench.train.trial import Training
from tests.helpers import fashion
from tests.helpers.suites import load
from tests.helpers.tuned import SUITE, record


def run(top1: float | None) -> Run:
    """Return the run of a trial that nobody trained; None: it failed."""
    if top1 is None:
        return Run("id", "name", "0", "FAILED", 0, 1, "", {REASON: "it broke"}, {})
    return Run("id", "name", "0", "FINISHED", 0, 1, "", {}, {f"{FINAL}top1": top1})


def grid(tmp_path: Path, *assignments: str) -> TunedGrid:
    return TunedGrid(load(tmp_path, SUITE, *assignments))


def finals(trials: list[PlannedTrial]) -> list[PlannedTrial]:
    return [p for p in trials if p.study and not p.trial.validation]


def test_the_second_stage_follows_once_a_study_has_ended(tmp_path: Path) -> None:
    found = grid(tmp_path, "methods=[dorefa]")
    first, second = (search.known for search in found.searches({}))
    assert len(awaited(found, {}, "top1")) == 8  # four trials, and their starts
    tops = zip([*first, *second[:2]], (80, 90, 85, 70, 70), strict=True)
    runs = {each.trial.key: run(top1) for each, top1 in tops}
    known = finals(planned(found, runs, "top1"))
    assert [(p.study, p.trial.seed) for p in known] == [(1, seed) for seed in fresh_seeds(1, 2)]
    assert all(p.values == first[1].values for p in known)
    assert len(awaited(found, runs, "top1")) == 4

    runs[second[2].trial.key] = run(60)
    known = finals(planned(found, runs, "top1"))
    assert len(known) == 4
    assert known[-1].values == second[0].values  # the first of equal ones
    assert not awaited(found, runs, "top1")


def test_a_configuration_that_failed_does_not_win(tmp_path: Path) -> None:
    (search,) = grid(tmp_path, "methods=[dorefa]", "tuning.studies=1").searches({})
    first, *others = search.known
    runs = {first.trial.key: run(None)} | {each.trial.key: run(10) for each in others}
    found = study_of(search, scores_of(runs, "top1"))
    assert found is not None
    assert (found.ranking, found.scores) == (others, [10, 10])


def test_what_follows_from_scores_is_awaited_and_planned(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    changes = ("methods=[dorefa]", "tuning.studies=1", "tuning.search=optuna", "tuning.trials=4")
    found, runs = grid(tmp_path, *changes), dict[str, Run]()
    assert len(awaited(found, runs, "top1")) == 2 + 4  # the second stage with its starts
    for known in (2, 3, 4):
        searched = [p for p in planned(found, runs, "top1") if p.study and p.trial.validation]
        assert len(searched) == known
        assert not finals(planned(found, runs, "top1"))
        runs |= {p.trial.key: run(50.0 + p.trial.recipe.lr) for p in searched}
    best = max(searched, key=lambda p: p.trial.recipe.lr)
    assert [p.values for p in finals(planned(found, runs, "top1"))] == [best.values] * 2
    assert not awaited(found, runs, "top1")


def test_if_all_configurations_failed_the_second_stage_says_why(tmp_path: Path) -> None:
    found = grid(tmp_path, "methods=[dorefa]", "tuning.studies=1")
    runs = {each.trial.key: run(None) for each in found.searches({})[0].known}
    second = finals(planned(found, runs, "top1"))
    assert [p.unsupported for p in second] == ["every configuration failed: it broke"] * 2


def test_configurations_that_failed_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "tuned.yaml"
    path.write_text(SUITE, encoding="utf-8")
    benchmark = Benchmark.open(path, tmp_path / "results", ("methods=[dorefa]", "tuning.studies=1"))
    assert benchmark.tuned is not None
    study = benchmark.tuned.searches({})[0].known
    for each, top1 in zip(study, (None, 80.0, 90.0), strict=True):
        record(benchmark, each, top1)
    benchmark.refresh()
    found = configurations(benchmark)
    assert found["key"].tolist() == [study[i].trial.key for i in (2, 1, 0)]
    assert found["place"].tolist() == [1, 2, 3]
    assert found["score"].tolist()[:2] == [90, 80]
    assert found["score"].isna().tolist() == [False, False, True]


def test_rungs_follow_from_stored_scores(tmp_path: Path) -> None:
    changes = ("methods=[dorefa]", "tuning.studies=1", "tuning.scheduler=asha", "recipe.epochs=9")
    found, runs = grid(tmp_path, *changes), dict[str, Run]()
    epochs = []
    while todo := [p for p in planned(found, runs, "top1") if p.trial.key not in runs]:
        epochs.append([p.trial.epochs for p in todo if p.study])
        assert len(awaited(found, runs, "top1")) == [1 + 4, 4, 0][len(epochs) - 1]
        # After an epoch the lowest rate is the best, and at the end the highest.
        runs |= {p.trial.key: run(50 - p.trial.recipe.lr * (p.trial.epochs < 9)) for p in todo}
    assert epochs == [[1, 1, 1], [9], [9, 9]]
    search = found.searches({})[0]
    lowest = min(search.known, key=lambda p: p.trial.recipe.lr)
    last = finals(planned(found, runs, "top1"))
    assert [p.values for p in last] == [lowest.values] * 2
    assert [p.trial.stop_after for p in last] == [0, 0]


def test_no_stopped_configuration_wins(tmp_path: Path) -> None:
    changes = ("methods=[dorefa]", "tuning.studies=1", "tuning.scheduler=asha", "recipe.epochs=9")
    found = grid(tmp_path, *changes)
    runs = {p.trial.key: run(90 + i) for i, p in enumerate(found.searches({})[0].known)}
    finalist = found.searches(scores_of(runs, "top1"))[0].finalists[0]
    runs[finalist.trial.key] = run(40)  # less than those that were stopped
    search = found.searches(scores_of(runs, "top1"))[0]
    ended = study_of(search, scores_of(runs, "top1"))
    assert ended is not None
    assert (ended.ranking, ended.scores) == ([finalist], [40])
    gone = stopped(found, runs, "top1")
    assert {trial.stop_after for trial in gone} == {1}
    assert len(gone) == 3  # their checkpoints are of no use any more

    runs[finalist.trial.key] = run(None)
    search = found.searches(scores_of(runs, "top1"))[0]
    assert study_of(search, scores_of(runs, "top1")) is None  # the next best goes on
    assert stopped(found, runs, "top1") == []


def test_stopped_configurations_come_behind_those_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "tuned.yaml"
    path.write_text(SUITE, encoding="utf-8")
    changes = ("methods=[dorefa]", "tuning.studies=1", "tuning.scheduler=asha", "recipe.epochs=9")
    benchmark = Benchmark.open(path, tmp_path / "results", changes)
    first = benchmark.tuned.searches({})[0].known if benchmark.tuned is not None else []
    for each, top1 in zip(first, (None, 80.0, 90.0), strict=True):
        record(benchmark, each, top1)
    benchmark.refresh()
    (last,) = [p for p in benchmark.to_do() if p.study and not p.trial.stop_after]
    assert (last.values, last.epochs_before) == (first[2].values, 1)
    record(benchmark, last, 70.0)
    benchmark.refresh()
    found = configurations(benchmark)
    assert found["key"].tolist() == [last.trial.key, first[1].trial.key, first[0].trial.key]
    assert found["stop_after"].tolist() == [0, 1, 1]
    assert found["score"].tolist()[:2] == [70, 80]

    key = last.trial.key
    for every in (first[1].trial.whole.key, first[0].trial.whole.key, key):
        benchmark.spool.keep_checkpoint(every, b"state")
    benchmark.discard_checkpoints()
    assert benchmark.spool.checkpoint(key) is None
    assert benchmark.spool.checkpoint(first[1].trial.whole.key) is None
    assert benchmark.spool.checkpoint(first[0].trial.whole.key)  # it failed: the next run tries it


def test_a_benchmark_plans_what_follows_from_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "tuned.yaml"
    path.write_text(SUITE, encoding="utf-8")
    small = ("methods=[dorefa]", "tuning.studies=1", "tuning.trials=2")
    benchmark = Benchmark.open(path, tmp_path / "results", small)
    assert benchmark.tuned is not None
    study = benchmark.tuned.searches({})[0].known
    part = benchmark.part(study[:1])
    assert [p.trial.method for p in part.planned] == ["fp32", "dorefa"]
    assert len(benchmark.awaited()) == 4
    for each, top1 in zip(study, (80.0, 90.0), strict=True):
        record(benchmark, each, top1)
    benchmark.refresh()
    second = finals(benchmark.planned)
    assert [p.values for p in second] == [study[1].values] * 2
    assert {p.trial.key for p in benchmark.to_do()} >= {p.trial.key for p in second}
    assert not benchmark.awaited()
    assert Benchmark.open(path, tmp_path / "results", small).planned == benchmark.planned


@pytest.mark.parametrize(
    ("changes", "finals_of_all"),
    [
        ((), 12),  # four winners on two seeds, and what they start from
        (("tuning.scheduler=asha", "recipe.epochs=2", "tuning.studies=1", "methods=[dorefa]"), 4),
    ],
)
def test_test_labels_do_not_change_a_winner(
    tmp_path: Path, changes: tuple[str, ...], finals_of_all: int
) -> None:
    def tuned(name: str, *, permuted: bool) -> tuple[TunedGrid, dict[str, Result]]:
        root = fashion.write(tmp_path / name, train=60)
        if permuted:
            labels = np.random.RandomState(7).permutation(np.arange(20) % 10)
            write_idx(root / "t10k-labels-idx1-ubyte", labels.astype(np.uint8))
        options = f"data={{root: {root}, image_size: 14, train_images: 40}}"
        found = grid(tmp_path, "dataset=fashion_mnist", options, "tuning.validation=20", *changes)
        return found, trained(found, {"root": str(root), "image_size": 14, "train_images": 40})

    plain, results = tuned("plain", permuted=False)
    permuted, others = tuned("permuted", permuted=True)
    assert not results.keys() & others.keys()  # the keys tell the labels apart
    decided = (
        found.searches(scores_of(runs_of(all_of), "top1"))
        for found, all_of in ((plain, results), (permuted, others))
    )
    for one, other in zip(*decided, strict=True):
        first, second = (winner(each, found) for each, found in ((one, results), (other, others)))
        assert first == second
        assert first[1]  # it has a score
    tests = [[r.metrics["test_loss"] for r in found.values() if not r.trial.validation]
             for found in (results, others)]  # fmt: skip
    assert len(tests[0]) == finals_of_all
    assert tests[0] != tests[1]


def winner(search: Search, results: dict[str, Result]) -> tuple[object, list[float]]:
    found = study_of(search, scores_of(runs_of(results), "top1"))
    assert found is not None
    return found.ranking[0].values, found.scores


def runs_of(results: dict[str, Result]) -> dict[str, Run]:
    return {key: run(each.metrics["top1"]) for key, each in results.items()}


def trained(found: TunedGrid, data: dict[str, object]) -> dict[str, Result]:
    """Train both stages in this process, each trial once."""
    results: dict[str, Result] = {}
    weights: dict[str, bytes | None] = {}
    while True:
        todo = [p for p in planned(found, runs_of(results), "top1") if p.trial.key not in results]
        if not todo:
            return results
        for each in todo:
            start = weights[each.trial.source] if each.trial.source else None
            training = Training(each.trial, start, ExecutionEnvironment(data))
            for _ in training.epochs():
                pass
            assert training.result.status == "done", training.result.traceback
            results[each.trial.key] = training.result
            weights[each.trial.key] = training.weights

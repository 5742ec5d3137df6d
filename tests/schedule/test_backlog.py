from __future__ import annotations

import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import ray

from qbench.schedule import recorder
from qbench.schedule.backlog import TRIES, reason_of
from qbench.spec.recipe import Teacher
from qbench.spec.trial import TeacherNetwork, Trial
from qbench.store.spool import Spool
from qbench.train.limits import Limits
from tests.helpers.grids import Grid, done
from tests.helpers.training import RECIPE, trial


@pytest.fixture
def short_trial() -> Trial:
    return trial("ste")


def test_a_trial_waits_for_its_full_precision_trial(tmp_path: Path) -> None:
    quantized = trial("ste", full_precision=RECIPE)
    base = quantized.base
    assert base is not None
    grid = Grid(tmp_path, [quantized, base])
    name = grid.start()
    assert grid.backlog.running[name] == base
    assert grid.backlog.suggest("waiting") is None
    grid.spool.put(done(base), b"weights")
    grid.backlog.on_trial_complete(name, {"done": True})
    assert grid.spool.weights(base.key) == b"weights"
    grid.finish()
    grid.close()
    assert grid.recorded == [base.key, quantized.key]


def test_a_failed_full_precision_trial_fails_those_that_start_from_it(tmp_path: Path) -> None:
    quantized = trial("ste", full_precision=RECIPE)
    base = quantized.base
    assert base is not None
    grid = Grid(tmp_path, [base, quantized])
    name = grid.start()
    failed = done(base).model_copy(update={"status": "failed", "reason": "it broke"})
    grid.spool.put(failed, None)
    grid.backlog.on_trial_complete(name, {"done": True})
    grid.close()
    assert grid.backlog.suggest("next") == "FINISHED"
    assert [(r.trial.method, r.status, r.reason) for r in grid.heard.results] == [
        ("fp32", "failed", "it broke"),
        ("ste", "failed", "the full-precision network it starts from failed: it broke"),
    ]


def test_a_trial_whose_worker_dies_is_tried_again_three_times(
    tmp_path: Path, short_trial: Trial
) -> None:
    grid = Grid(tmp_path, [short_trial])
    for _ in range(3):
        assert grid.backlog.suggest("x") is not None
        grid.backlog.waiting.insert(0, grid.backlog.running.pop("x"))
        grid.die()
    grid.close()
    died = "its worker died: out of memory, killed, or crashed"
    assert [text for text in grid.heard.said if "died" in text] == [
        f"retried 0: {died}",
        f"retried 0: {died}",
        f"failed 0: {died}; tried 3 times",
    ]
    assert grid.backlog.suggest("y") == "FINISHED"


def test_a_trial_that_died_once_may_still_be_done(tmp_path: Path, short_trial: Trial) -> None:
    grid = Grid(tmp_path, [short_trial])
    grid.die()
    grid.finish()
    grid.close()
    assert [result.status for result in grid.heard.results] == ["done"]
    assert grid.recorded == [short_trial.key]


def test_what_a_worker_left_before_it_died_counts(tmp_path: Path, short_trial: Trial) -> None:
    grid = Grid(tmp_path, [short_trial])
    name = grid.start()
    grid.spool.put(done(short_trial), None)
    grid.backlog.on_trial_complete(name, error=True)
    grid.close()
    assert [result.status for result in grid.heard.results] == ["done"]


def test_an_old_failure_does_not_end_a_new_try(tmp_path: Path, short_trial: Trial) -> None:
    grid = Grid(tmp_path, [short_trial])
    old = done(short_trial).model_copy(update={"status": "failed", "reason": "old"})
    grid.spool.put(old, None)  # the store was away until now
    grid.die()
    grid.finish()
    grid.close()
    assert [result.status for result in grid.heard.results] == ["done"]


def test_memory_that_ran_out_is_called_so(tmp_path: Path, short_trial: Trial) -> None:
    grid = Grid(tmp_path, [short_trial])
    grid.die(ray.exceptions.OutOfMemoryError("1 worker(s) were killed\nwith a page of statistics"))
    grid.close()
    assert grid.heard.said[-1] == "retried 0: the machine ran out of memory"


def test_a_hang_that_no_guard_could_end_is_not_tried_again(
    tmp_path: Path, short_trial: Trial
) -> None:
    grid = Grid(tmp_path, [short_trial], Limits(seconds=0.01))
    name = grid.start()
    time.sleep(0.02)
    grid.backlog.on_trial_complete(name, error=True)
    grid.close()
    (result,) = grid.heard.results
    assert result.reason == "it took longer than its time limit of 0.01 s"


def test_when_tune_falls_what_was_running_waits_again(tmp_path: Path) -> None:
    trials = [trial("ste", seed=seed) for seed in (0, 1, 2)]
    grid = Grid(tmp_path, trials)
    grid.start()
    grid.spool.put(done(trials[1]), None)  # ended as Tune fell
    grid.start()
    grid.backlog.take_back(ray.exceptions.OutOfMemoryError("gone"))
    assert [waiting.seed for waiting in grid.backlog.waiting] == [0, 2]
    assert not grid.backlog.running
    grid.close()
    assert grid.recorded == [trials[1].key]


def test_a_trial_that_no_worker_had_started_when_tune_fell_was_not_tried(tmp_path: Path) -> None:
    trials = [trial("ste", seed=seed) for seed in (0, 1)]
    grid = Grid(tmp_path, trials)
    for _ in range(TRIES + 1):
        grid.backlog.suggest("waits for its worker")
        grid.backlog.take_back(ray.exceptions.OutOfMemoryError("gone"))
    grid.close()
    assert grid.backlog.waiting == trials
    assert not grid.heard.results


def test_a_failure_that_cannot_be_written_down_is_told(
    tmp_path: Path, short_trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(Spool, "put", Mock(side_effect=OSError("no space left on device")))
    grid = Grid(tmp_path, [short_trial])
    for _ in range(3):
        grid.die()
    grid.close()
    assert [result.status for result in grid.heard.results] == ["failed"]
    assert f"{short_trial.key} cannot be read" in grid.summary.unrecorded


@pytest.mark.parametrize("left", [None, '{"trial": {'])
def test_a_result_that_was_reported_and_is_not_there_is_said_to_be_so_once(
    tmp_path: Path, short_trial: Trial, left: str | None
) -> None:
    grid = Grid(tmp_path, [short_trial])
    name = grid.start()
    folder = grid.spool.folder(short_trial.key)
    if left is not None:
        folder.mkdir(parents=True)
        (folder / "outcome.json").write_text(left)
    grid.backlog.on_trial_complete(name, {"done": True})
    grid.close()
    (ended,) = grid.heard.results
    place = f"spool/{short_trial.key}"
    assert ended.status == "failed"
    assert ended.reason == (
        f"its worker reported that it had ended, and {place} has no readable result"
    )
    assert grid.backlog.suggest("next") == "FINISHED"


def test_the_reason_of_a_worker_that_failed_is_its_last_line() -> None:
    error = RuntimeError("while starting:\n  no such device")
    assert reason_of(error) == "its worker failed:   no such device"
    assert reason_of(None) == "its worker died: out of memory, killed, or crashed"


def test_a_trial_waits_for_its_teacher_and_fails_with_it(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"teacher": Teacher()})
    taught = trial("ste", recipe=recipe, teacher=TeacherNetwork(recipe=RECIPE))
    teacher = taught.taught_by
    assert teacher is not None
    grid = Grid(tmp_path, [taught, teacher])
    name = grid.start()
    assert grid.backlog.running[name] == teacher
    assert grid.backlog.suggest("waiting") is None
    failed = done(teacher).model_copy(update={"status": "failed", "reason": "it broke"})
    grid.spool.put(failed, None)
    grid.backlog.on_trial_complete(name, {"done": True})
    grid.close()
    assert [(r.trial.method, r.reason) for r in grid.heard.results] == [
        ("fp32", "it broke"),
        ("ste", "the full-precision network that teaches it failed: it broke"),
    ]

"""What goes wrong costs what it must, and no more."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
import ray
import torch

from qbench.errors import QbenchError
from qbench.quant.plugins import Plugin, load_plugin
from qbench.schedule import recorder, tune
from qbench.schedule.backlog import Backlog
from qbench.schedule.cluster import connect
from qbench.schedule.progress import Summary
from qbench.schedule.recorder import ResultRecorder
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.store.spool import Spool
from qbench.suite.suite import Resources
from qbench.train.limits import Limits
from qbench.train.trial import ExecutionEnvironment, Training
from tests.conftest import MakeQbench, TinyRun
from tests.helpers.checkpoints import Kept
from tests.helpers.commands import tables
from tests.helpers.plugins import HOOKS, WRONG
from tests.helpers.training import train, trial

# Limits ------------------------------------------------------------------------------------------

GUARDED = """
import sys, time
from pathlib import Path
from qbench.train.limits import Guard, Limits

def give_up(reason, where):
    Path(sys.argv[1]).write_text(f"{reason}\\n{where}")

def spend():
    %s

guard = Guard(Limits(%s), give_up)
spend()
guard.close()
print("ended by itself")
"""


@pytest.mark.parametrize(
    ("spend", "limits", "reason"),
    [
        ("while True: pass", "seconds=1", "it took longer than its time limit of 1 s"),
        ("time.sleep(1000)", "seconds=1", "it took longer than its time limit of 1 s"),
        ("x = bytearray(2**28)\n    time.sleep(60)", "memory=0.1", "GiB of memory, and may take 0"),
    ],
)
def test_what_exceeds_a_limit_is_ended_and_says_where_it_was(
    tmp_path: Path, spend: str, limits: str, reason: str
) -> None:
    told = tmp_path / "told"
    command = [sys.executable, "-c", GUARDED % (spend, limits), str(told)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "ended by itself" not in done.stdout
    assert reason in told.read_text()
    assert "in spend" in told.read_text()


def test_what_keeps_within_its_limits_ends_by_itself(tmp_path: Path) -> None:
    code = GUARDED % ("time.sleep(1.5)", "seconds=60, memory=4")
    command = [sys.executable, "-c", code, str(tmp_path / "told")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "ended by itself\n")


# Workers that die --------------------------------------------------------------------------------


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.results: list[Result] = []

    def started(self, trial: Trial) -> None:
        self.said.append(f"started {trial.seed}")

    def progressed(self, trial: Trial, epoch: int) -> None:
        self.said.append(f"progressed {trial.seed}")

    def retried(self, trial: Trial, reason: str) -> None:
        self.said.append(f"retried {trial.seed}: {reason}")

    def ended(self, result: Result) -> None:
        self.results.append(result)
        self.said.append(f"{result.status} {result.trial.seed}: {result.reason}")


class Grid:
    """A backlog with everything around it, as Tune would drive it."""

    def __init__(self, folder: Path, trials: list[Trial], limits: Limits | None = None) -> None:
        self.heard, self.summary, self.spool = Heard(), Summary(), Spool(folder)
        self.recorded: list[str] = []
        self.refusing = ""
        records = ResultRecorder(self.record, self.spool, self.summary)
        self.backlog = Backlog(
            "suite", trials, self.spool, records, self.heard, self.summary, limits or Limits()
        )
        self.close = records.close
        self._names = iter("abcdefghij")

    def record(self, result: Result) -> None:
        if self.refusing:
            raise OSError(self.refusing)
        self.recorded.append(result.trial.key)

    def start(self) -> str:
        name = next(self._names)
        assert isinstance(self.backlog.suggest(name), dict)
        self.backlog.started(name)
        return name

    def die(self, error: BaseException | None = None) -> None:
        name = self.start()
        self.backlog.errors[name] = error
        self.backlog.on_trial_complete(name, error=True)

    def finish(self) -> None:
        name = self.start()
        key = self.backlog.running[name].key
        self.spool.put(done(self.backlog.running[name]), None)
        self.backlog.on_trial_complete(name, {"done": True})
        assert key not in {trial.key for trial in self.backlog.waiting}


def done(what: Trial) -> Result:
    return Result(trial=what, status="done", metrics={"top1": 90.0}, started=time.time())


@pytest.fixture
def short_trial() -> Trial:
    return trial("ste")


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


def test_a_grid_goes_on_after_tune_has_fallen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [trial("ste", seed=seed) for seed in (0, 1)]
    falls = [True, True, False]

    def fallible(backlog: Any, *arguments: Any) -> None:
        while (config := backlog.suggest(name := f"{len(falls)}")) != "FINISHED":
            what = Trial.model_validate_json(config["trial"])
            if falls.pop(0):
                raise ray.exceptions.OutOfMemoryError("gone")
            spool.put(done(what), None)
            backlog.on_trial_complete(name, {"done": True})
            falls.append(False)

    spool, heard = Spool(tmp_path), Heard()
    monkeypatch.setattr(tune, "_train", fallible)
    resources = Resources()
    summary = tune.run("suite", trials, spool, lambda _: None, heard, resources)
    assert [result.status for result in heard.results] == ["done", "done"]
    assert summary.ended == 2
    assert (summary.stopped, summary.interrupted) == ("", False)
    falls[:] = [True] * 9
    again = [trial("ste", seed=seed) for seed in range(5, 15)]
    summary = tune.run("suite", again, spool, lambda _: None, heard, resources)
    assert summary.stopped == "the machine ran out of memory"
    assert {result.status for result in heard.results[2:]} <= {"failed"}


def test_another_version_of_ray_is_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 1.0\n")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(QbenchError, match=r"Version mismatch.* started with: Ray: 1\.0"):
        connect(None)


# The store away ----------------------------------------------------------------------------------


def test_what_the_store_refuses_is_delivered_when_it_is_back(tmp_path: Path) -> None:
    grid = Grid(tmp_path, [trial("ste", seed=seed) for seed in range(4)])
    grid.refusing = "database is locked"
    grid.finish()
    grid.finish()
    while grid.summary.unrecorded != "database is locked":
        time.sleep(0.01)
    grid.refusing = ""
    grid.finish()
    grid.close()
    assert sorted(grid.recorded) == sorted(o.trial.key for o in grid.heard.results)
    assert grid.summary.unrecorded == ""


def test_what_is_never_accepted_is_told_and_waits_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PATIENCE_SECONDS", 0.1)
    grid = Grid(tmp_path, [trial("ste", seed=seed) for seed in range(2)])
    grid.refusing = "no space left on device"
    grid.finish()
    grid.finish()
    grid.close()
    assert grid.summary.unrecorded == "no space left on device"
    assert len(list(grid.spool.waiting())) == 2


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


# Poison ------------------------------------------------------------------------------------------


def poison(folder: Path) -> bytes:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "owned",)

    buffer = io.BytesIO()
    torch.save({"3.weight": Evil()}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [lambda data: data, lambda data: data[:100], lambda data: b""])
def test_poisoned_or_damaged_weights_are_refused_by_name(tmp_path: Path, damage: Any) -> None:
    start = trial("ste").recipe.model_copy(update={"initialization": "pretrained"})
    what = trial("ste", recipe=start, full_precision=start)
    result, _ = train(what, damage(poison(tmp_path)))
    assert result.status == "failed"
    assert f"weights/{what.source}.pt, are refused" in result.reason
    assert not (tmp_path / "owned").exists()


def test_a_poisoned_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    what = trial("ste")
    training = Training(what, None, ExecutionEnvironment(checkpoints=Kept(poison(tmp_path))))
    assert list(training.epochs()) == []
    assert f"checkpoints/{what.key}.pt, is refused" in training.result.reason
    assert not (tmp_path / "owned").exists()


# Methods that do wrong ---------------------------------------------------------------------------

SUITE = """\
name: wrong
dataset: digits
models: [convnet_tiny]
bits: [1/32]
methods: [binary_connect]
seeds: [0]
recipe: {name: aligned, epochs: 3, steps: 2, initialization: scratch}
resources: {time_limit: 60 s, memory: 1.5}
"""


def test_every_hook_that_raises_fails_its_trial_with_its_reason() -> None:
    load_plugin(Plugin("wrong.py", WRONG))
    for hook in HOOKS:
        result, _ = train(trial(f"in_{hook}", bits="1/32", options={}))
        assert (result.status, result.reason) == ("failed", f"RuntimeError: wrong in {hook}")
        assert 'raise RuntimeError(f"wrong in {hook}")' in result.traceback


@pytest.mark.slow
def test_whatever_methods_do_each_fails_alone(tmp_path: Path, qbench_in: MakeQbench) -> None:
    (tmp_path / "wrong.yaml").write_text(SUITE, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    qbench = qbench_in(tmp_path / "results")
    arguments = ("run", tmp_path / "wrong.yaml", "--methods", tmp_path / "wrong.py")
    output = qbench(*arguments, code=1, timeout=900)
    trials = pd.read_csv(qbench.results / "wrong/trials.csv").set_index("method")
    assert len(output) < 40_000  # what methods print does not reach the terminal
    alive = {"binary_connect", "base", "prints", "forks"}
    assert set(trials.index[trials["status"] == "done"]) == alive
    reasons = trials["reason"]
    for hook in HOOKS:
        assert reasons[f"in_{hook}"] == f"RuntimeError: wrong in {hook}"
    assert reasons["hangs"] == "it took longer than its time limit of 60 s"
    assert "GiB of memory, and may take 1.5" in reasons["leaks"]
    assert reasons["nan_later"] == "the training loss is nan in epoch 3"
    assert reasons["interrupts"] == "the method raised KeyboardInterrupt"
    for killed in ("crashes", "kills_itself"):
        assert reasons[killed].startswith("its worker died")
        assert reasons[killed].endswith("tried 3 times")
        assert f"{killed}: its worker died" in output
    table = (qbench.results / "wrong/leaderboard.md").read_text(encoding="utf-8")
    assert all(reason in table for reason in reasons.dropna())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.9 MB, room for a database and a few trials."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1900k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounting, check=False).returncode:
        pytest.skip("this user may mount nothing")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_is_told_and_costs_nothing_that_was_finished(
    small_disk: Path, tiny_run: TinyRun, qbench_in: MakeQbench
) -> None:
    qbench = qbench_in(small_disk / "results")
    output = qbench("run", tiny_run.suite, code=2)
    assert "No space left on device; tried 3 times" in output
    assert output.endswith("qbench: No space left on device\n")
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    output = qbench("run", tiny_run.suite)
    assert "16 trials to train, 0 of 16" not in output
    assert tables(small_disk / "results/tiny") == tables(tiny_run.folder)

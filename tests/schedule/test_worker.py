from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from qbench.schedule import worker
from qbench.schedule.driver import DriverSpool
from qbench.schedule.worker import TrialActor, WorkerConfig
from qbench.spec.recipe import Teacher
from qbench.spec.trial import TeacherNetwork, Trial
from qbench.store.spool import Spool
from tests.helpers.results import result
from tests.helpers.training import RECIPE, trial


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerConfig:
    """Configuration of a worker on the driver's node."""
    monkeypatch.setattr(DriverSpool, "call", lambda self, f, *args: f(self.spool, *args))
    return WorkerConfig(DriverSpool(Spool(tmp_path), "driver"), "suite")


def actor(config: WorkerConfig, what: Trial) -> TrialActor:
    """Return an actor that was given a trial, without Ray around it."""
    made = TrialActor.__new__(TrialActor)
    made.setup(given(what), worker=config)
    return made


def given(what: Trial) -> dict[str, Any]:
    return {"trial": what.model_dump_json()}


@pytest.mark.parametrize(
    ("method", "rehearsal", "kept"),
    [("ste", False, True), ("ste", True, False), ("fp32", True, True)],
)
def test_a_rehearsal_keeps_only_weights_that_others_start_from(
    config: WorkerConfig, method: str, rehearsal: bool, kept: bool
) -> None:
    what = trial(method, rehearsal=rehearsal)
    config.deliver(result().model_copy(update={"trial": what}), b"weights")
    folder = config.driver.spool.folder(what.key)
    assert (folder / "weights.pt").exists() == kept
    delivered = config.driver.spool.get(what.key)
    assert delivered is not None
    assert delivered.suite == "suite"


def test_a_step_ends_after_some_seconds_and_the_last_says_that_the_trial_is_done(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "REPORT_SECONDS", 0.0)
    what = trial("ste")
    trained = actor(config, what)
    assert [trained.step() for _ in range(3)] == [
        {"epoch": 1, "done": False},
        {"epoch": 2, "done": False},
        {"epoch": 2, "done": True},
    ]
    delivered = config.driver.spool.get(what.key)
    assert delivered is not None
    assert delivered.status == "done", delivered.reason


def test_an_actor_trains_one_trial_after_another(config: WorkerConfig) -> None:
    trials = [
        trial("ste", seed=seed, recipe=RECIPE.model_copy(update={"epochs": 1})) for seed in (0, 1)
    ]
    trained = actor(config, trials[0])
    trained.step()
    assert trained.reset_config(given(trials[1]))
    trained.step()
    assert {r.trial.seed for r in config.driver.spool.waiting()} == {0, 1}


def test_a_worker_gets_variables_of_the_driver_that_its_node_does_not_set(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET_ON_THE_NODE", "here")
    monkeypatch.delenv("NOT_SET_ON_THE_NODE", raising=False)
    driver = {"SET_ON_THE_NODE": "there", "NOT_SET_ON_THE_NODE": "there"}
    dataclasses.replace(config, environment=driver).training(trial("ste"))
    assert os.environ["SET_ON_THE_NODE"] == "here"
    assert os.environ["NOT_SET_ON_THE_NODE"] == "there"
    monkeypatch.delenv("NOT_SET_ON_THE_NODE")


def test_a_quantized_trial_starts_from_the_weights_in_the_spool(config: WorkerConfig) -> None:
    what = trial("ste", full_precision=RECIPE)
    with pytest.raises(FileNotFoundError, match=rf"{what.source}\.pt"):
        config.training(what)
    path = config.driver.spool.weights_path(what.source or "")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert config.training(what)._pretrained == b"weights"


def test_a_trial_gets_the_weights_of_its_teacher(config: WorkerConfig, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"teacher": Teacher()})
    what = trial("ste", recipe=recipe, teacher=TeacherNetwork(recipe=RECIPE))
    assert what.taught_by is not None
    (tmp_path / "file").write_bytes(b"teacher")
    config.driver.spool.keep_weights(what.taught_by.key, tmp_path / "file")
    assert config.training(what)._teacher == b"teacher"

from __future__ import annotations

import time
from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.outcome import Outcome
from qbench.spool import Spool
from qbench.store import Store, trial_of
from tests.test_training import trial


def outcome(status: str = "done", top1: float = 90.0, seed: int = 0) -> Outcome:
    return Outcome.model_validate(
        {
            "trial": trial(seed=seed),
            "suite": "suite",
            "status": status,
            "reason": "" if status == "done" else "it broke",
            "metrics": {"top1": top1} if status == "done" else {},
            "history": [{"epoch": e, "top1": top1 - 1, "train_loss": 1 / e} for e in (1, 2)],
            "started": time.time(),
            "seconds": 2.0,
            "environment": {"torch": "2"},
        }
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(tmp_path / "results")


def test_what_is_recorded_is_found_by_key(store: Store, tmp_path: Path) -> None:
    done = outcome()
    (tmp_path / "weights.pt").write_bytes(b"weights")
    store.record(done, tmp_path)
    run = store.runs([done.trial.key])[done.trial.key]
    assert trial_of(run) == done.trial
    assert run.info.run_name == "quantization_networks 2/2 convnet_tiny digits seed 0"
    assert run.data.metrics["final_top1"] == 90.0
    assert run.data.params["recipe.lr"] == "0.05"
    assert run.data.tags["environment.torch"] == "2"
    assert store.fetch(run, "weights.pt", tmp_path / "..").read_bytes() == b"weights"
    history = store.histories({done.trial.key: run}, ["top1", "train_loss"])
    assert history["epoch"].tolist() == [1, 2]
    assert history["train_loss"].tolist() == [1.0, 0.5]


def test_a_finished_run_counts_over_a_failed_one(store: Store, tmp_path: Path) -> None:
    for each in (outcome("failed"), outcome(top1=80.0), outcome("failed")):
        store.record(each, tmp_path)
    run = store.runs([outcome().trial.key])[outcome().trial.key]
    assert run.info.status == "FINISHED"


def test_the_first_finished_run_counts(store: Store, tmp_path: Path) -> None:
    for top1 in (80.0, 70.0):
        store.record(outcome(top1=top1), tmp_path)
    (run,) = store.runs([outcome().trial.key]).values()
    assert run.data.metrics["final_top1"] == 80.0


def test_a_half_written_run_is_not_listed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(store._client, "log_artifacts", fail)
    with pytest.raises(QbenchError, match="disk full"):
        store.record(outcome(), tmp_path)
    assert store.runs([outcome().trial.key]) == {}


def test_a_store_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(QbenchError, match="cannot open the store"):
        Store(tmp_path)


def test_the_spool_gives_back_what_it_was_given(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    late, early = outcome(seed=1), outcome(seed=0).model_copy(update={"started": 1.0})
    spool.put(late, b"weights")
    spool.put(early, None)
    assert list(spool.waiting()) == [early, late]
    assert (spool.folder(late.trial.key) / "weights.pt").read_bytes() == b"weights"
    spool.discard(early.trial.key)
    assert list(spool.waiting()) == [late]


def test_the_spool_ignores_what_is_half_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(outcome(), None)
    (spool.folder(outcome().trial.key) / "outcome.json").write_text('{"trial": {')
    assert list(spool.waiting()) == []

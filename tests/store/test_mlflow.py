from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.spec.result import LevelCount
from qbench.store.mlflow import Store
from qbench.store.spool import Spool
from qbench.store.sqlite import ended_runs
from qbench.store.tags import trial_of, was_changed
from tests.helpers.results import result


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(tmp_path / "results")


def test_what_is_recorded_is_found_by_key(store: Store, tmp_path: Path) -> None:
    done = result()
    (tmp_path / "weights.pt").write_bytes(b"weights")
    store.record(done, tmp_path)
    run = store.runs([done.trial.key])[done.trial.key]
    assert trial_of(run) == done.trial
    assert run.info.run_name == "quantization_networks 2/2 convnet_tiny digits seed 0"
    assert run.data.metrics["final_top1"] == 90.0
    assert store._client.get_run(run.info.run_id).data.params["recipe.lr"] == "0.05"
    assert run.data.tags["environment.torch"] == "2"
    assert store.fetch(run, "weights.pt", tmp_path / "..").read_bytes() == b"weights"
    history = store.histories({done.trial.key: run}, ["top1", "train_loss"])
    assert history["epoch"].tolist() == [1, 2]
    assert history["train_loss"].tolist() == [1.0, 0.5]


def test_a_finished_run_counts_over_a_failed_one(store: Store, tmp_path: Path) -> None:
    for each in (result("failed"), result(top1=80.0), result("failed")):
        store.record(each, tmp_path)
    run = store.runs([result().trial.key])[result().trial.key]
    assert run.info.status == "FINISHED"


def test_the_first_finished_run_counts(store: Store, tmp_path: Path) -> None:
    for top1 in (80.0, 70.0):
        store.record(result(top1=top1), tmp_path)
    (run,) = store.runs([result().trial.key]).values()
    assert run.data.metrics["final_top1"] == 80.0


def test_a_half_written_run_is_not_listed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(store._client, "log_artifacts", fail)
    with pytest.raises(QbenchError, match="disk full"):
        store.record(result(), tmp_path)
    assert store.runs([result().trial.key]) == {}


def test_a_store_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(QbenchError, match="cannot open the store"):
        Store(tmp_path)


def test_the_spool_gives_back_what_it_was_given(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    late, early = result(seed=1), result(seed=0).model_copy(update={"started": 1.0})
    spool.put(late, b"weights")
    spool.put(early, None)
    assert list(spool.waiting()) == [early, late]
    assert (spool.folder(late.trial.key) / "weights.pt").read_bytes() == b"weights"
    spool.discard(early.trial.key)
    assert list(spool.waiting()) == [late]


def test_the_spool_ignores_what_is_half_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(result(), None)
    (spool.folder(result().trial.key) / "outcome.json").write_text('{"trial": {')
    assert list(spool.waiting()) == []


def test_a_result_told_twice_is_recorded_once(store: Store, tmp_path: Path) -> None:
    done = result()
    store.record(done, tmp_path)
    store.record(done, tmp_path)  # the command was killed before it had forgotten it
    assert len(list(store.finished())) == 1


def test_half_of_a_run_gives_way_to_the_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = result()
    with monkeypatch.context() as broken:
        broken.setattr(store._client, "set_terminated", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.record(done, tmp_path)
    store.record(done, tmp_path)
    of_trial = f"tags.`qbench.key` = '{done.trial.key}'"
    runs = list(store._search(of_trial, "attributes.start_time"))
    assert [run.info.status for run in runs] == ["FINISHED"]


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE latest_metrics SET value = 99.9 WHERE key = 'final_top1'",
        "UPDATE tags SET value = '' WHERE key = 'qbench.audit'",
        "UPDATE tags SET value = replace(value, 'digits', 'x') WHERE key = 'qbench.trial'",
    ],
)
def test_what_was_edited_in_the_database_is_known(store: Store, tmp_path: Path, edit: str) -> None:
    done = result()
    done.audit = [LevelCount(layer="3", tensor="weight", levels=5, promised=4, scope="layer")]
    store.record(done, tmp_path)
    (run,) = store.finished()
    assert not was_changed(run)
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as database:
        assert database.execute(edit).rowcount == 1
    (run,) = store.finished()
    assert was_changed(run)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e-320, 0.1 + 0.2])
def test_no_number_looks_edited_because_of_how_it_is_stored(
    store: Store, tmp_path: Path, value: float
) -> None:
    done = result()
    done.metrics["test_loss"] = value
    store.record(done, tmp_path)
    (run,) = store.finished()
    assert not was_changed(run)


def test_a_run_set_aside_counts_no_longer_and_stays(store: Store, tmp_path: Path) -> None:
    key = result().trial.key
    store.record(result(top1=80.0), tmp_path)
    store.set_aside(store.runs([key]).values())
    assert store.runs([key]) == {}
    store.record(result(top1=70.0), tmp_path)
    assert store.runs([key])[key].data.metrics["final_top1"] == 70.0
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as database:
        ended = database.execute("SELECT * FROM runs WHERE status = 'FINISHED'").fetchall()
    assert len(ended) == 2


def test_the_database_is_read_as_mlflow_reads_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, status in enumerate(("done", "failed", "done")):
        each = result(status, seed=seed)
        each.metrics["test_loss"] = float("nan")
        store.record(each, tmp_path)
    store.set_aside(store.finished()[:1])
    directly = store._ended()
    with monkeypatch.context() as away:
        away.setattr("qbench.store.mlflow.ended_runs", lambda *_: None)
        through_mlflow = store._ended()
    assert len(directly) == 2
    for mine, its in zip(directly, through_mlflow, strict=True):
        assert dict(mine.info) == dict(its.info)
        assert mine.data.tags == its.data.tags
        assert repr(mine.data.metrics) == repr(its.data.metrics)
    assert ended_runs(tmp_path / "nothing.db", "x") is None
    (tmp_path / "text.db").write_text("no database")
    assert ended_runs(tmp_path / "text.db", "x") is None

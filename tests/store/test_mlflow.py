from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow.exceptions import MlflowException

from qbench.errors import QbenchError
from qbench.spec.result import ImageDetections, LevelCount
from qbench.store.mlflow import Store
from qbench.store.tags import LEVELS, was_changed, was_imported
from tests.helpers.results import result


def test_a_recorded_result_is_found_by_its_key(store: Store, tmp_path: Path) -> None:
    done = result()
    store.record(done, tmp_path)
    run = store.runs([done.trial.key, "0" * 16])[done.trial.key]
    assert store.trial(run) == done.trial
    assert store.runs(["0" * 16]) == {}
    assert set(store.find(done.trial.key[:5])) == {done.trial.key}
    assert store.find("x") == {}


def test_a_result_is_read_as_it_was_recorded(store: Store, tmp_path: Path) -> None:
    for each in (result(), result("failed", seed=1)):
        store.record(each, tmp_path)
        run = store.runs([each.trial.key])[each.trial.key]
        started = int(1000 * each.started) / 1000  # MLflow keeps milliseconds
        assert store.result(run) == each.model_copy(update={"started": started})


def test_a_finished_run_counts_over_failed_ones(store: Store, tmp_path: Path) -> None:
    for each in (result("failed"), result(top1=80.0), result("failed")):
        store.record(each, tmp_path)
    run = store.runs([result().trial.key])[result().trial.key]
    assert run.status == "FINISHED"


def test_the_first_finished_run_counts(store: Store, tmp_path: Path) -> None:
    for top1 in (80.0, 70.0):
        store.record(result(top1=top1), tmp_path)
    (run,) = store.runs([result().trial.key]).values()
    assert run.metrics["final_top1"] == 80.0


def test_the_last_failed_run_counts_if_none_finished(store: Store, tmp_path: Path) -> None:
    for reason in ("first", "second"):
        store.record(result("failed").model_copy(update={"reason": reason}), tmp_path)
    (run,) = store.runs([result().trial.key]).values()
    assert run.tags["qbench.reason"] == "second"


def test_a_run_set_aside_no_longer_counts_and_stays(store: Store, tmp_path: Path) -> None:
    key = result().trial.key
    store.record(result(top1=80.0), tmp_path)
    store.set_aside(store.runs([key]).values())
    assert store.runs([key]) == {}
    store.record(result(top1=70.0), tmp_path)
    assert store.runs([key])[key].metrics["final_top1"] == 70.0
    with sqlite3.connect(store.address) as database:
        ended = database.execute("SELECT * FROM runs WHERE status = 'FINISHED'").fetchall()
    assert len(ended) == 2


def test_the_weights_of_a_run_can_be_fetched(store: Store, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    store.record(result(), tmp_path)
    (run,) = store.finished()
    target = tmp_path / "fetched"
    target.mkdir()
    assert store.fetch(run, "weights.pt", target).read_bytes() == b"weights"
    assert [path.name for path in target.iterdir()] == ["weights.pt"]


def test_a_database_elsewhere_has_its_artifacts_in_the_results_folder(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "shared.db"
    shutil.copyfile(empty_database, database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(tmp_path)
    store = Store(Path("results"))
    with store.alone():
        store.record(result(), tmp_path)
    assert len(list((tmp_path / "results" / "artifacts").rglob("history.json"))) == 1
    assert not (tmp_path / "mlruns").exists()
    monkeypatch.chdir("/")
    (run,) = Store(tmp_path / "another folder").finished()
    assert store.result(run).history == result().history


def test_an_artifact_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    store.record(result(), tmp_path)
    (run,) = store.finished()
    with pytest.raises(QbenchError, match=r"cannot fetch weights\.pt of run "):
        store.fetch(run, "weights.pt", tmp_path)


@pytest.mark.parametrize("file", ["there", "gone"])
def test_a_history_has_a_row_for_each_epoch(store: Store, tmp_path: Path, file: str) -> None:
    store.record(result(), tmp_path)
    (run,) = store.finished()
    if file == "gone":  # MLflow has the metrics too
        for path in (tmp_path / "results" / "artifacts").rglob("history.json"):
            path.unlink()
    history = store.histories({"key": run}, ["top1", "train_loss"])
    assert history.columns.tolist() == ["key", "epoch", "top1", "train_loss"]
    assert history["epoch"].tolist() == [1, 2]
    assert history["train_loss"].tolist() == [1.0, 0.5]


def test_levels_are_read_from_the_audit_where_there_is_no_tag(store: Store, tmp_path: Path) -> None:
    done = result()
    done.audit = [
        LevelCount(layer="3", tensor="weight", levels=3, promised=4, scope="layer"),
        LevelCount(layer="3", tensor="input", levels=4, promised=4, scope="layer"),
    ]
    store.record(done, tmp_path)
    (run,) = store.finished()
    assert store.levels(run) == (3, 4)
    del run.tags[LEVELS]
    assert store.levels(run) == (3, 4)
    for path in (tmp_path / "results" / "artifacts").rglob("audit.json"):
        path.unlink()
    assert store.levels(run) == (None, None)


def test_the_detections_of_a_run_are_returned(store: Store, tmp_path: Path) -> None:
    found = ImageDetections(boxes=[[0.0, 1.0, 2.0, 3.0]], scores=[0.5], labels=[1])
    store.record(result(seed=0).model_copy(update={"examples": [found]}), tmp_path)
    store.record(result(seed=1), tmp_path)
    detector, classifier = store.finished()
    assert store.examples(detector) == [found]
    assert store.examples(classifier) == []


@pytest.mark.parametrize("read", ["histories", "result", "examples", "runs"])
def test_a_store_that_cannot_be_read_is_an_error_of_the_user(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    store.record(result(), tmp_path)
    (run,) = store.finished()
    away = Mock(side_effect=MlflowException("the server is away"))
    for call in ("get_metric_history", "get_experiment", "list_artifacts", "search_runs"):
        monkeypatch.setattr(store._connection.client, call, away)
    monkeypatch.setattr(store._connection, "is_default", False)
    monkeypatch.setattr(store._connection, "database", None)
    monkeypatch.setattr("qbench.store.artifacts.on_this_machine", lambda *_: None)
    readers = {
        "histories": lambda: store.histories({"key": run}, ["top1"]),
        "result": lambda: store.result(run),
        "examples": lambda: store.examples(run),
        "runs": lambda: store.runs(["key"]),
    }
    with pytest.raises(QbenchError, match=r"mlflow\.db: the server is away"):
        readers[read]()


def test_results_of_files_are_lent_and_not_recorded(tmp_path: Path) -> None:
    store, lent = Store(tmp_path, local=True), result(seed=1)
    store.lend([("file, line 2", lent)])
    (run,) = store.finished()
    key = lent.trial.key
    assert store.find(key[:4]) == store.runs([key]) == {key: run}
    assert store.result(run) is lent
    assert store.trial(run) == lent.trial
    assert store.metrics(run) == lent.metrics
    assert not was_changed(run)
    assert was_imported(run)
    assert store.histories({key: run}, ["top1"])["top1"].tolist() == [89.0, 90.0]
    assert (store.place(run), store.link_of(run)) == ("file, line 2", "")
    assert store.examples(run) == []
    with pytest.raises(QbenchError, match=r"file, line 2: has no traceback.txt"):
        store.text(run, "traceback.txt")
    assert not (tmp_path / "mlflow.db").exists()


def test_what_is_recorded_comes_before_what_is_lent(store: Store) -> None:
    ours = result(top1=90.0)
    store.record(ours, None)
    store.lend([("file", result(top1=80.0)), ("file", result(seed=1))])
    assert [store.metrics(run)["top1"] for run in store.finished()] == [90.0, 90.0]
    store.set_aside(store.runs([ours.trial.key]).values())
    assert not store.runs([ours.trial.key])  # and is trained again

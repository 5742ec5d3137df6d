from __future__ import annotations

import sqlite3
from pathlib import Path
from unittest.mock import Mock

import pytest

from qbench.errors import QbenchError
from qbench.spec.result import Result
from qbench.store.mlflow import Store
from tests.helpers.results import result


def states(store: Store) -> list[str]:
    """Return the status of each run in the store, incomplete and deleted runs included."""
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as database:
        rows = database.execute("SELECT status FROM runs ORDER BY start_time, status")
        return [status for (status,) in rows]


def fail(store: Store, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException) -> None:
    """Have a call of MLflow's client fail."""
    monkeypatch.setattr(store._connection.client, call, Mock(side_effect=error))


def test_a_run_holds_the_metrics_parameters_and_tags_of_a_result(
    store: Store, tmp_path: Path
) -> None:
    done = result()
    store.record(done, tmp_path)
    (run,) = store.finished()
    assert run.info.run_name == "quantization_networks 2/2 convnet_tiny digits seed 0"
    assert run.data.metrics["final_top1"] == 90.0
    assert run.data.metrics["seconds"] == 2.0
    assert run.data.tags["environment.torch"] == "2"
    params = store._connection.client.get_run(run.info.run_id).data.params
    assert params["recipe.lr"] == "0.05"
    assert params["method"] == "quantization_networks"


def test_a_long_history_is_recorded_whole(store: Store, tmp_path: Path) -> None:
    done = result()
    done.history = [{"epoch": epoch, "train_loss": 1 / epoch} for epoch in range(1, 1203)]
    store.record(done, tmp_path)
    (run,) = store.finished()
    points = store._connection.client.get_metric_history(run.info.run_id, "train_loss")
    assert sorted(point.step for point in points) == list(range(1, 1203))


def test_a_result_is_recorded_once_however_often_it_is_given(store: Store, tmp_path: Path) -> None:
    for each in (result("failed"), result()):
        store.record(each, tmp_path)
        store.record(Result.model_validate_json(each.model_dump_json()), tmp_path)
    assert states(store) == ["FAILED", "FINISHED"]


def test_two_failures_of_a_trial_that_start_at_the_same_time_are_two_results(
    store: Store, tmp_path: Path
) -> None:
    first = result("failed")
    second = first.model_copy(update={"reason": "it broke elsewhere"})
    store.record(first, tmp_path)
    store.record(second, tmp_path)
    assert states(store) == ["FAILED", "FAILED"]


@pytest.mark.parametrize("call", ["log_artifacts", "log_batch", "set_terminated"])
def test_an_incomplete_run_is_not_listed_and_is_completed_later(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    done = result()
    with monkeypatch.context() as broken:
        fail(store, broken, call, OSError("disk full"))
        for _ in range(2):
            with pytest.raises(QbenchError, match=r"cannot record a trial in .*disk full"):
                store.record(done, tmp_path)
    assert store.runs([done.trial.key]) == {}
    store.record(done, tmp_path)
    assert states(store) == ["FINISHED"]  # a failed attempt leaves no run behind
    (run,) = store.finished()
    assert store.result(run).history == done.history


def test_a_killed_command_leaves_a_run_that_the_next_completes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = result()
    with monkeypatch.context() as killed:
        fail(store, killed, "set_terminated", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            store.record(done, tmp_path)
    store.record(done, tmp_path)
    assert states(store) == ["FINISHED"]


def test_a_result_without_a_folder_is_marked_as_imported(store: Store, tmp_path: Path) -> None:
    store.record(result(seed=0), None)
    store.record(result(seed=1), tmp_path)
    imported, trained = store.finished()
    assert imported.data.tags["qbench.imported"] == "true"
    assert "qbench.imported" not in trained.data.tags

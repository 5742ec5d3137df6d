from __future__ import annotations

import sqlite3
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow.entities import RunTag

from qbench.errors import QbenchError
from qbench.spec.predictions import Predictions
from qbench.spec.result import Result
from qbench.store.mlflow import Store
from qbench.store.tags import was_changed
from tests.helpers.results import result


def states(store: Store) -> list[str]:
    """Return the status of each run in the store, incomplete and deleted runs included."""
    with sqlite3.connect(store.address) as database:
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
    assert run.name == "quantization_networks 2/2 seed 0 convnet_tiny digits"
    assert run.metrics["final_top1"] == 90.0
    assert run.metrics["seconds"] == 2.0
    assert run.tags["environment.torch"] == "2"
    params = store._connection.client.get_run(run.run_id).data.params
    assert params["recipe.lr"] == "0.05"
    assert params["method"] == "quantization_networks"


def test_predictions_are_recorded_and_sealed(store: Store, tmp_path: Path) -> None:
    predictions = Predictions.of([3, 1, 2], 10)
    store.record(result().model_copy(update={"predictions": predictions}), tmp_path)
    (run,) = store.finished()
    assert store.result(run).predictions == predictions
    assert not was_changed(run)
    run.tags["qbench.predictions"] = "0"
    assert was_changed(run)
    store.record(result(seed=1), tmp_path)
    assert {store.result(run).predictions is None for run in store.finished()} == {True, False}


def test_a_long_history_is_recorded_whole(store: Store, tmp_path: Path) -> None:
    done = result()
    done.history = [{"epoch": epoch, "train_loss": 1 / epoch} for epoch in range(1, 1203)]
    store.record(done, tmp_path)
    (run,) = store.finished()
    points = store._connection.client.get_metric_history(run.run_id, "train_loss")
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
            with pytest.raises(QbenchError, match=r"cannot .*: disk full$"):
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


def test_a_trial_that_is_too_long_for_a_tag_is_an_artifact(store: Store, tmp_path: Path) -> None:
    done = with_layers(199)
    assert len(done.trial.model_dump_json()) > 8000  # MLflow would cut it
    store.record(done, tmp_path)
    (run,) = store.finished()
    assert not was_changed(run)
    assert store.trial(run) == done.trial
    assert store.result(run).trial.key == done.trial.key
    params = store._connection.client.get_run(run.run_id).data.params
    assert params["layers"].endswith(" …")


def test_a_long_trial_whose_artifact_was_edited_is_refused(store: Store, tmp_path: Path) -> None:
    store.record(with_layers(199), tmp_path)
    (run,) = store.finished()
    (file,) = (tmp_path / "results" / "artifacts").rglob("trial.json")
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(QbenchError, match=r"trial\.json of run .* was changed by hand"):
        store.trial(run)


def test_names_that_mlflow_refuses_are_recorded(store: Store, tmp_path: Path) -> None:
    widths = {f"features.*{i}[a]": "4/4" for i in range(150)}
    done = result()
    done.trial = done.trial.model_copy(update={"layers": widths})
    store.record(done, tmp_path)
    (run,) = store.finished()
    assert store.trial(run).layers == widths


def with_layers(count: int) -> Result:
    """Return a result of a trial that names its layers, as those of a DenseNet are named."""
    names = tuple(f"features.denseblock3.denselayer{i}.conv2.of.a.long.name" for i in range(count))
    done = result()
    done.trial = done.trial.model_copy(update={"layers": names})
    return done


def checked(store: Store, done: Result) -> None:
    store.check("suite", [result(seed=1).trial, done.trial])


def test_a_check_leaves_nothing_that_counts(store: Store, tmp_path: Path) -> None:
    for _ in range(3):
        checked(store, with_layers(199))
    assert len(states(store)) == 1  # it is used again
    assert store.finished() == []
    store.record(result(), tmp_path)
    (run,) = store.finished()
    assert run.name.startswith("quantization_networks")
    client = store._connection.client
    assert len(client.search_runs([run.experiment_id])) == 1


def test_a_check_may_follow_one_of_other_trials(store: Store) -> None:
    for seed in (1, 2):
        store.check("suite", [result(seed=seed).trial])
    assert len(states(store)) == 1


def test_a_check_finds_a_deleted_experiment(store: Store) -> None:
    client = store._connection.client
    client.delete_experiment(store._connection.experiment("suite"))
    with pytest.raises(QbenchError) as error:
        checked(store, result())
    assert f"the experiment 'suite' in {store.address} was deleted" in str(error.value)
    command = str(error.value).partition("`")[2].rstrip("`").replace("mlflow ", "")
    uri, *words = command.split()
    assert words == ["experiments", "restore", "--experiment-id", "1"]
    assert uri == f"MLFLOW_TRACKING_URI=sqlite:///{store.address}"


def test_a_check_finds_an_artifact_store_that_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(store, monkeypatch, "log_artifacts", RuntimeError("no route to s3"))
    for _ in range(3):
        with pytest.raises(QbenchError, match=r"cannot write artifacts to file:.*: no route to s3"):
            checked(store, result())
    assert len(states(store)) == 1
    assert store._connection.client.search_runs(["1"]) == []


def test_a_check_finds_an_artifact_store_that_cannot_be_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qbench.store.artifacts.text", lambda *_: "something else")
    with pytest.raises(QbenchError, match="does not return artifacts as they were written"):
        checked(store, result())


def test_a_check_finds_a_store_that_cuts_tags(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store._connection.client
    log = client.log_batch
    monkeypatch.setattr(
        client,
        "log_batch",
        lambda run, metrics, params, tags: log(
            run, metrics, params, [RunTag(tag.key, tag.value[:250]) for tag in tags]
        ),
    )
    with pytest.raises(QbenchError, match="does not keep a tag of 4000 characters"):
        checked(store, result())


def test_a_check_finds_a_database_that_may_only_be_read(readable: Store) -> None:
    with pytest.raises(
        QbenchError, match=r"^cannot record results in .*mlflow\.db: attempt to write a readonly"
    ):
        checked(readable, result())


def test_a_result_without_a_folder_is_marked_as_imported(store: Store, tmp_path: Path) -> None:
    store.record(result(seed=0), None)
    store.record(result(seed=1), tmp_path)
    imported, trained = store.finished()
    assert imported.tags["qbench.imported"] == "true"
    assert "qbench.imported" not in trained.tags

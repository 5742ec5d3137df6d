"""A results folder can be moved, copied, and read by those who may not write it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.spec.result import ImageDetections
from qbench.store.evidence import evidence_of
from qbench.store.mlflow import Store
from qbench.store.run import Run
from tests.helpers.results import result

FOUND = ImageDetections(boxes=[[0.0, 1.0, 2.0, 3.0]], scores=[0.5], labels=[1])


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> Path:
    """A results folder with one result."""
    (tmp_path / "weights.pt").write_bytes(b"weights")
    store.record(result().model_copy(update={"examples": [FOUND]}), tmp_path)
    return tmp_path / "results"


def assert_read(store: Store, target: Path) -> Run:
    """Read everything that a store has of its only run."""
    (run,) = store.finished()
    assert store.fetch(run, "weights.pt", target).read_bytes() == b"weights"
    assert store.result(run).history[1]["epoch"] == 2
    assert store.result(run).suite == "suite"
    assert store.histories({"key": run}, ["top1"])["top1"].tolist() == [89.0, 90.0]
    assert store.examples(run) == [FOUND]
    assert evidence_of(store, run).trial == store.trial(run).model_dump(mode="json")
    return run


def test_a_moved_folder_is_read(filled: Path, tmp_path: Path) -> None:
    moved = filled.rename(tmp_path / "moved elsewhere")
    run = assert_read(Store(moved), tmp_path)
    assert Path(Store(moved).place(run)).is_relative_to(moved)
    assert not filled.exists()


def test_what_is_recorded_in_a_moved_folder_is_written_there(filled: Path, tmp_path: Path) -> None:
    moved = filled.rename(tmp_path / "moved")
    store = Store(moved)
    store.record(result(seed=1), tmp_path)
    assert not filled.exists()
    for run in store.finished():  # MLflow finds the old artifacts too
        assert Path(run.artifact_uri.removeprefix("file://")).is_relative_to(moved)
        client = store._connection.client
        assert any(item.path == "history.json" for item in client.list_artifacts(run.run_id))


def test_a_copy_and_its_original_are_apart(filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "copy")
    before = sorted((filled / "artifacts").rglob("*"))
    Store(tmp_path / "copy").record(result(seed=1), tmp_path)
    assert sorted((filled / "artifacts").rglob("*")) == before
    assert len(list((tmp_path / "copy").rglob("history.json"))) == 2
    assert_read(Store(filled), tmp_path)


def test_artifacts_elsewhere_than_in_the_folder_are_found_at_their_address(
    filled: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    shutil.copyfile(filled / "mlflow.db", tmp_path / "other" / "mlflow.db")
    assert_read(Store(tmp_path / "other"), tmp_path)


def test_a_damaged_artifact_is_named(filled: Path) -> None:
    (run,) = Store(filled).finished()
    (file,) = filled.rglob("history.json")
    file.write_text("[{")
    with pytest.raises(QbenchError, match=r"history\.json of run .* is damaged: "):
        Store(filled).result(run)


def test_a_folder_that_may_only_be_read_is_read_whole(readable: Store) -> None:
    (run,) = readable.finished()
    assert readable.result(run).trial == result().trial
    assert readable.histories({"key": run}, ["top1"])["epoch"].tolist() == [1, 2]
    assert readable.examples(run) == []
    assert set(readable.find(result().trial.key[:4])) == {result().trial.key}


def test_a_folder_without_a_store_is_not_given_one_by_reading(tmp_path: Path) -> None:
    store = Store(tmp_path / "results", local=True)
    assert store.finished() == []
    assert list((tmp_path / "results").iterdir()) == []

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbench.store.connection import Connection
from qbench.store.mlflow import Store
from tests.helpers.permissions import only_readable
from tests.helpers.results import result


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs. MLflow takes seconds to create one, so tests copy it."""
    folder = tmp_path_factory.mktemp("database")
    Connection(folder, local=True).open()
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in a results folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "results").mkdir()
    shutil.copyfile(empty_database, tmp_path / "results" / "mlflow.db")
    return Store(tmp_path / "results")


@pytest.fixture
def readable(empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with one result, in a results folder that this user may only read."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = Path(tempfile.mkdtemp())  # other users cannot enter the folders of pytest
    shutil.copyfile(empty_database, folder / "mlflow.db")
    Store(folder).record(result(), folder)
    with only_readable(folder):
        yield Store(folder)
    shutil.rmtree(folder)

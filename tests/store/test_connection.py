from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from qbench.errors import QbenchError
from qbench.store.connection import Connection


def test_a_store_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(QbenchError, match="cannot open the store nonsense://store: "):
        Connection(tmp_path)


def test_a_local_connection_ignores_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    assert Connection(tmp_path, local=True).database == tmp_path / "mlflow.db"


def test_a_database_is_created_on_first_use(tmp_path: Path) -> None:
    connection = Connection(tmp_path / "results", local=True)
    assert not (tmp_path / "results" / "mlflow.db").exists()
    connection.open()
    assert (tmp_path / "results" / "mlflow.db").exists()


def test_an_experiment_is_created_once(tmp_path: Path) -> None:
    connection = Connection(tmp_path, local=True)
    first = connection.experiment("suite")
    assert connection.experiment("suite") == first
    assert connection.experiment("another") != first
    assert Connection(tmp_path, local=True).experiment("suite") == first


@pytest.mark.parametrize("error", [MlflowException("no such\nthing"), OSError("no such")])
def test_errors_of_mlflow_are_reported_with_the_address(tmp_path: Path, error: Exception) -> None:
    connection = Connection(tmp_path, local=True)
    with (
        pytest.raises(QbenchError, match=r"^cannot read .*mlflow\.db: no such$"),
        connection.reporting("cannot read"),
    ):
        raise error

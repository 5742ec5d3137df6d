from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
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


def test_an_experiment_says_what_it_is_and_opens_on_its_runs(tmp_path: Path) -> None:
    connection = Connection(tmp_path, local=True)
    tags = connection.client.get_experiment(connection.experiment("suite")).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.note.content"].startswith("Trials of a suite of qbench")


def test_the_runs_of_an_experiment_have_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(tmp_path, local=True)
    number = connection.experiment("suite")
    assert connection.link("suite") == (
        f"`mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db`, "
        f"then http://127.0.0.1:5000/#/experiments/{number}/runs"
    )
    monkeypatch.setattr(connection, "_uri", "https://me:secret@host:1/mlflow/")
    found = connection.link("suite")
    assert found == f"https://host:1/mlflow/#/experiments/{number}/runs"


@pytest.mark.parametrize("error", [MlflowException("no such\nthing"), OSError("no such")])
def test_errors_of_mlflow_are_reported_with_the_address(tmp_path: Path, error: Exception) -> None:
    connection = Connection(tmp_path, local=True)
    with (
        pytest.raises(QbenchError, match=r"^cannot read .*mlflow\.db: no such$"),
        connection.reporting("cannot read"),
    ):
        raise error


@pytest.mark.parametrize("name", ["r?v=1", "a%20b", "a#b", "a b", "größe", "a%sb", "a'b", "a;b"])
def test_every_results_folder_has_a_store_of_its_own(
    tmp_path: Path, empty_database: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copyfile(empty_database, folder / "mlflow.db")
    connection = Connection(folder, local=True)
    connection.experiment("suite")
    assert connection.address == str(folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        rows = database.execute("SELECT artifact_location FROM experiments WHERE name = 'suite'")
        assert rows.fetchall() == [((folder / "artifacts" / "suite").as_uri(),)]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_has_no_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unquoted:
        """Stands for a version of SQLAlchemy that does not quote paths."""

        database = "/elsewhere"

    monkeypatch.setattr("sqlalchemy.make_url", lambda _: Unquoted)
    with pytest.raises(QbenchError, match=r"r\?v=1: a results folder cannot have %, \? or #"):
        Connection(tmp_path / "r?v=1", local=True)


@pytest.mark.parametrize(
    "uri",
    [
        "nonsense://anna:secret-7@host/store",
        "nonsense://anna:secret-7@host:5000",
        "nonsense://anna:secret%2D7@host/store",
        "nonsense://anna:secret-7/with/slashes@host/store",
        "nonsense://host/store?user=anna&password=secret-7",
    ],
)
def test_a_password_is_never_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(QbenchError, match="cannot open the store nonsense://") as error:
        Connection(tmp_path)
    assert "secret" not in str(error.value)
    assert "host" in str(error.value)


def test_a_token_in_the_address_of_a_server_is_never_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for uri in ("http://secret-token@127.0.0.1:1", "http://anna:secret-token@127.0.0.1:1"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(QbenchError, match="cannot open the store") as error:
            Connection(tmp_path)
        assert "secret" not in str(error.value)


def test_the_path_of_a_database_is_printed_whole(tmp_path: Path) -> None:
    folder = tmp_path / "x:secret@host"
    connection = Connection(folder, local=True)
    assert connection.without_password(f"{folder} is away") == f"{folder} is away"


def test_passwords_of_other_addresses_are_hidden_too(tmp_path: Path) -> None:
    connection = Connection(tmp_path, local=True)
    text = "ftp://anna:secret@host/artifacts is away, as is s3://bucket/a@b:c"
    assert connection.without_password(text) == (
        "ftp://anna:***@host/artifacts is away, as is s3://bucket/a@b:c"
    )

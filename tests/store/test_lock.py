"""One command at a time works on a store that several machines share."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from qbench.store import lock


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setattr(lock, "_LOCK_POLL_SECONDS", 0.01)
    return MlflowClient(f"sqlite:///{tmp_path}/shared.db")


@pytest.fixture
def experiment(client: MlflowClient) -> str:
    return str(client.create_experiment(lock.EXPERIMENT))


def test_a_command_waits_until_the_one_before_it_has_ended(
    client: MlflowClient, experiment: str
) -> None:
    inside, leave, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with lock.alone(client, experiment, "the store"):
            inside.set()
            leave.wait()
            order.append("first")

    def second() -> None:
        with lock.alone(client, experiment, "the store"):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    leave.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]


def test_a_command_that_died_is_passed_over(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_DEAD_SECONDS", 0.0)
    client.create_run(experiment, tags={lock._ALIVE: "7", lock._HOLDS: "1"})
    with lock.alone(client, experiment, "the store"):
        (holder,) = client.search_runs(
            [experiment], f"tags.`{lock._HOLDS}` = '1' AND tags.`{lock._ALIVE}` = '0'"
        )
        assert holder.info.status == "RUNNING"


def test_the_mark_of_a_command_is_removed_when_it_ends(
    client: MlflowClient, experiment: str
) -> None:
    with lock.alone(client, experiment, "the store"):
        assert len(client.search_runs([experiment])) == 1
    assert client.search_runs([experiment]) == []

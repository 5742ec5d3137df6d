from __future__ import annotations

import functools
import sqlite3
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from qbench.store.mlflow import Store
from qbench.store.sqlite import ended_runs
from tests.helpers.results import result


def test_the_database_is_read_as_mlflow_reads_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, status in enumerate(("done", "failed", "done")):
        each = result(status, seed=seed)
        each.metrics["test_loss"] = float("nan")
        store.record(each, tmp_path)
    store.set_aside(store.finished()[:1])
    directly = store._ended()
    monkeypatch.setattr("qbench.store.sqlite.ended_runs", lambda *_: None)
    through_mlflow = store._ended()
    assert len(directly) == 2
    for mine, its in zip(directly, through_mlflow, strict=True):
        assert mine._replace(metrics={}) == its._replace(metrics={})
        assert repr(mine.metrics) == repr(its.metrics)


@pytest.mark.parametrize("query", [1, 2])
def test_what_ends_while_the_database_is_read_is_listed_whole_or_not_at_all(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: int
) -> None:
    store.record(result(seed=0), tmp_path)
    queries = []

    class Interrupted(sqlite3.Connection):
        def execute(self, *given: Any) -> Any:
            rows = super().execute(*given).fetchall()
            queries.append(given)
            if len(queries) == query:
                Store(tmp_path / "results").record(result(seed=1), tmp_path)
            found = MagicMock(fetchall=lambda: rows)
            found.__iter__.return_value = iter(rows)
            return found

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Interrupted))
    assert [store.trial(run).seed for run in store.finished()] == [0]
    assert len(queries) >= 3
    assert [store.trial(run).seed for run in store.finished()] == [0, 1]


def test_a_file_that_cannot_be_read_is_left_to_mlflow(tmp_path: Path) -> None:
    assert ended_runs(tmp_path / "nothing.db", "x") is None
    (tmp_path / "text.db").write_text("no database")
    assert ended_runs(tmp_path / "text.db", "x") is None

from __future__ import annotations

from pathlib import Path

from qbench.spec.result import LevelCount
from qbench.store.evidence import evidence_of
from qbench.store.mlflow import Store
from tests.helpers.results import result


def test_evidence_is_what_the_run_recorded(store: Store, tmp_path: Path) -> None:
    done = result()
    done.audit = [LevelCount(layer="3", tensor="weight", levels=4, promised=4, scope="layer")]
    store.record(done, tmp_path)
    (run,) = store.finished()
    found = evidence_of(store, run)
    assert found.trial == done.trial.model_dump(mode="json")
    assert found.environment == {"torch": "2"}
    assert found.audit == [done.audit[0].model_dump()]
    assert found.log == ""


def test_a_traceback_is_shown_without_folders(store: Store, tmp_path: Path) -> None:
    failed = result("failed")
    failed.traceback = 'File "/home/anna/lab/mine.py", line 3, in f\nValueError: no\n'
    store.record(failed, tmp_path)
    (run,) = store.runs([failed.trial.key]).values()
    assert evidence_of(store, run).log == 'File "mine.py", line 3, in f\nValueError: no\n'


def test_artifacts_that_are_gone_leave_evidence_empty(store: Store, tmp_path: Path) -> None:
    store.record(result(), tmp_path)
    (run,) = store.finished()
    for file in (tmp_path / "results" / "artifacts").rglob("audit.json"):
        file.unlink()
    assert evidence_of(store, run).audit == []

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from qbench.spec.result import CodeFingerprint, LevelCount
from qbench.store import tags
from qbench.store.mlflow import Store
from qbench.store.run import Run
from tests.helpers.results import result

RECORDED = {tags.TRIAL: "{}", tags.STATUS: "done", tags.AUDIT: "", "qbench.revision": "1"}
MEASURED = {"final_top1": 90.0, "seconds": 2.0, "train_seconds": 1.0, "top1": 89.0}


def run(run_tags: dict[str, str], metrics: dict[str, float] | None = None) -> Run:
    """Return a run that has these tags and metrics."""
    return Run("0", "", "1", "FINISHED", 0, 0, "", run_tags, metrics or {})


@pytest.mark.parametrize("name", [tags.TRIAL, tags.STATUS, tags.AUDIT, "qbench.revision"])
def test_the_digest_depends_on_every_tag_that_tables_show(name: str) -> None:
    assert tags.digest({**RECORDED, name: "x"}, MEASURED) != tags.digest(RECORDED, MEASURED)


@pytest.mark.parametrize("name", ["final_top1", "seconds", "train_seconds"])
def test_the_digest_depends_on_every_metric_that_tables_show(name: str) -> None:
    assert tags.digest(RECORDED, {**MEASURED, name: 1.5}) != tags.digest(RECORDED, MEASURED)


def test_the_digest_does_not_depend_on_anything_else() -> None:
    more_tags = {**RECORDED, "mlflow.note.content": "mine", tags.REASON: "none"}
    assert tags.digest(more_tags, {**MEASURED, "top1": 0.0}) == tags.digest(RECORDED, MEASURED)


def test_a_run_without_a_digest_counts_as_unchanged() -> None:
    assert not tags.was_changed(run(RECORDED, MEASURED))
    sealed = {**RECORDED, tags.DIGEST: tags.digest(RECORDED, MEASURED)}
    assert not tags.was_changed(run(sealed, MEASURED))
    assert tags.was_changed(run({**sealed, tags.STATUS: "failed"}, MEASURED))


def test_a_run_of_before_code_had_fingerprints_counts_as_revision_1() -> None:
    assert tags.code_of(run({})) == CodeFingerprint(syntax="", revision=1, numerics=1)
    recorded = {"qbench.syntax": "abc", "qbench.revision": "3", "qbench.numerics": "2"}
    assert tags.code_of(run(recorded)) == CodeFingerprint(syntax="abc", revision=3, numerics=2)


def test_only_a_run_with_the_mark_was_imported() -> None:
    assert tags.was_imported(run({tags.IMPORTED: "true"}))
    assert not tags.was_imported(run(RECORDED))


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE latest_metrics SET value = 99.9 WHERE key = 'final_top1'",
        "UPDATE tags SET value = '' WHERE key = 'qbench.audit'",
        "UPDATE tags SET value = replace(value, 'digits', 'x') WHERE key = 'qbench.trial'",
    ],
)
def test_an_edit_in_the_database_is_detected(store: Store, tmp_path: Path, edit: str) -> None:
    done = result()
    done.audit = [LevelCount(layer="3", tensor="weight", levels=5, promised=4, scope="layer")]
    store.record(done, tmp_path)
    (found,) = store.finished()
    assert not tags.was_changed(found)
    with sqlite3.connect(store.address) as database:
        assert database.execute(edit).rowcount == 1
    (found,) = store.finished()
    assert tags.was_changed(found)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e-320, 0.1 + 0.2])
def test_no_number_looks_edited_because_of_how_it_is_stored(
    store: Store, tmp_path: Path, value: float
) -> None:
    done = result()
    done.metrics["test_loss"] = value
    store.record(done, tmp_path)
    (found,) = store.finished()
    assert not tags.was_changed(found)

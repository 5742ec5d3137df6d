from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qbench.benchmark import exchange
from qbench.benchmark.benchmark import Benchmark
from qbench.errors import QbenchError
from qbench.report.columns import TRIAL_COLUMNS
from qbench.store.mlflow import Store
from qbench.store.tags import was_imported
from tests.helpers.results import result


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_what_is_exported_is_what_was_recorded(
    small_suite: Path, small_results: Path, tmp_path: Path
) -> None:
    benchmark = Benchmark.open(small_suite, small_results)
    files, left_out = exchange.export(benchmark, tmp_path / "out")
    assert not left_out
    assert sorted(p.stem for p in files) == sorted(benchmark.runs)
    content = json.loads(files[0].read_text())
    assert content["key"] == files[0].stem
    assert not content.keys() & {"weights", "curve", "examples", "traceback"}
    assert content["metrics"] == {"top1": 99.0}
    assert content["history"][0]["epoch"] == 1
    assert content["environment"] == {"torch": "2"}
    first = files[0].read_bytes()
    exchange.export(benchmark, tmp_path / "out")
    assert files[0].read_bytes() == first


def test_every_column_of_trials_is_described(small_suite: Path, small_results: Path) -> None:
    columns = list(Benchmark.open(small_suite, small_results).trials())
    assert columns == [name for name in TRIAL_COLUMNS if name in columns]


def test_results_combine_by_putting_files_together(
    small_suite: Path, small_results: Path, small_exported: Path, elsewhere: Path
) -> None:
    store = Store(elsewhere)
    found = list(exchange.read([small_exported]))
    assert len(exchange.merge(found, store).added) == 6
    again = exchange.merge(found, store)
    assert (len(again.added), len(again.duplicates), again.conflicts) == (0, 6, [])
    theirs = Benchmark.open(small_suite, elsewhere)
    assert [theirs.status(planned) for planned in theirs.planned] == ["done"] * 6
    pd.testing.assert_frame_equal(
        theirs.trials(), Benchmark.open(small_suite, small_results).trials()
    )


def test_a_conflict_is_told_and_nothing_is_overwritten(elsewhere: Path) -> None:
    store = Store(elsewhere)
    ours, theirs = result(top1=90.0), result(top1=80.0)
    store.record(ours, None)
    merged = exchange.merge([(Path("theirs.json"), theirs)], store)
    (conflict,) = merged.conflicts
    assert (conflict.place, conflict.text) == (Path("theirs.json"), "top1 90, not 80")
    (run,) = store.finished()
    assert store.metrics(run) == {"top1": 90.0}


def test_files_among_themselves_can_conflict(elsewhere: Path) -> None:
    found = [(Path(f"{i}.json"), result(top1=top1)) for i, top1 in enumerate((90.0, 90.0, 80.0))]
    merged = exchange.merge(found, Store(elsewhere))
    assert len(merged.added) == 1
    assert merged.duplicates == [Path("1.json")]
    assert [conflict.place for conflict in merged.conflicts] == [Path("2.json")]


def test_full_precision_from_elsewhere_is_trained_where_its_weights_are_wanted(
    small_suite: Path, small_exported: Path, elsewhere: Path
) -> None:
    found = exchange.read([small_exported])
    full = [each for each in found if each[1].trial.method == "fp32"]
    exchange.merge(full, Store(elsewhere))
    benchmark = Benchmark.open(small_suite, elsewhere)
    assert len(benchmark.to_do()) == 6
    assert all(was_imported(run) for run in benchmark.runs.values())
    for planned in benchmark.planned[:2]:  # once it has been
        weights = benchmark.spool.weights_path(planned.trial.key)
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"weights")
    assert len(benchmark.to_do()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("format"), "format is None, not 'qbench-result-1'"),
        (lambda c: c["trial"].update(seed=7), "its key is "),
        (lambda c: c.pop("status"), "status: field required"),
        (lambda c: c["trial"]["recipe"].update(lr="fast"), "trial.recipe.lr: "),
    ],
)
def test_a_file_that_is_none_is_told(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    content = json.loads(exchange.as_text(result()))
    change(content)
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(QbenchError, match=r"x.json: ") as told:
        list(exchange.read([tmp_path / "x.json"]))
    assert message in str(told.value)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(QbenchError, match=r"x.json: not JSON"):
        list(exchange.read([tmp_path]))
    with pytest.raises(QbenchError, match=r"y.json: No such file"):
        list(exchange.read([tmp_path / "y.json"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(QbenchError, match=r"has no .json files"):
        list(exchange.read([tmp_path / "empty"]))

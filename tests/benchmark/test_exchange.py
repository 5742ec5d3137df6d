from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from qbench.benchmark import exchange, exported
from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.exported import Exported
from qbench.errors import QbenchError
from qbench.report.columns import TRIAL_COLUMNS
from qbench.store.mlflow import Store
from qbench.store.tags import was_imported
from tests.helpers.exchanged import BEFORE, filled
from tests.helpers.results import classified, result


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_what_is_exported_is_what_was_recorded(
    small_suite: Path, small_results: Path, tmp_path: Path
) -> None:
    benchmark = Benchmark.open(small_suite, small_results)
    file, count, left_out = exchange.export(benchmark, tmp_path / "out")
    assert (file, count, left_out) == (tmp_path / "out" / "trials.jsonl.gz", 6, [])
    content = exported.read([file])
    assert not content.refused
    assert {each.result.trial.key for each in content.good} == benchmark.runs.keys()
    for _, each in content.good:
        assert each == benchmark.store.result(benchmark.runs[each.trial.key])
    first = file.read_bytes()
    exchange.export(benchmark, tmp_path / "out")
    assert file.read_bytes() == first


def test_every_column_of_trials_is_described(small_suite: Path, small_results: Path) -> None:
    columns = list(Benchmark.open(small_suite, small_results).trials())
    assert columns == [name for name in TRIAL_COLUMNS if name in columns]


def test_results_combine_by_putting_files_together(
    small_suite: Path, small_results: Path, small_exported: Path, elsewhere: Path
) -> None:
    store = Store(elsewhere)
    found = exported.read([small_exported]).good
    assert len(exchange.merge(found, store).added) == 6
    again = exchange.merge(found, store)
    assert (len(again.added), len(again.duplicates), again.conflicts) == (0, 6, [])
    theirs = Benchmark.open(small_suite, elsewhere)
    assert [theirs.status(planned) for planned in theirs.planned] == ["done"] * 6
    pd.testing.assert_frame_equal(
        theirs.trials(), Benchmark.open(small_suite, small_results).trials()
    )


def test_a_grid_is_completed_from_several_files(
    small_suite: Path, small_exported: Path, elsewhere: Path
) -> None:
    found = exported.read([small_exported]).good
    exchange.merge(found[:4], Store(elsewhere))
    benchmark = Benchmark.open(small_suite, elsewhere)
    file, count, _ = exchange.export(benchmark)
    assert (file, count) == (elsewhere / "small" / "trials.jsonl.gz", 4)
    exchange.merge(found[4:], Store(elsewhere))
    benchmark.refresh()
    assert exchange.export(benchmark)[1] == 6
    assert file.read_bytes() == (small_exported / "trials.jsonl.gz").read_bytes()


def test_further_seeds_are_exported_too(
    small_suite: Path, small_results: Path, elsewhere: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_results, elsewhere, dirs_exist_ok=True)
    wider = tmp_path / "wider.yaml"
    wider.write_text(small_suite.read_text().replace("[0, 1]", "[2]"))
    filled(wider, elsewhere, BEFORE)
    benchmark = Benchmark.open(small_suite, elsewhere)
    assert exchange.export(benchmark)[1] == 9
    assert len(benchmark.runs) == 6


def test_an_export_loses_no_trial_that_only_the_file_has(
    small_suite: Path, small_exported: Path, elsewhere: Path
) -> None:
    exchange.merge(exported.read([small_exported]).good[:4], Store(elsewhere))
    before = (small_exported / "trials.jsonl.gz").read_bytes()
    with pytest.raises(QbenchError, match=r"has 2 trials of small that the store lacks.*import"):
        exchange.export(Benchmark.open(small_suite, elsewhere), small_exported)
    assert (small_exported / "trials.jsonl.gz").read_bytes() == before


def test_a_conflict_is_told_and_nothing_is_overwritten(elsewhere: Path) -> None:
    store = Store(elsewhere)
    ours, theirs = result(top1=90.0), result(top1=80.0)
    store.record(ours, None)
    merged = exchange.merge([Exported("theirs.json", theirs)], store)
    (conflict,) = merged.conflicts
    assert (conflict.place, conflict.text) == ("theirs.json", "top1 90, not 80")
    (run,) = store.finished()
    assert store.metrics(run) == {"top1": 90.0}


def test_files_among_themselves_can_conflict(elsewhere: Path) -> None:
    found = [Exported(f"{i}.json", result(top1=top1)) for i, top1 in enumerate((90.0, 90.0, 80.0))]
    merged = exchange.merge(found, Store(elsewhere))
    assert len(merged.added) == 1
    assert merged.duplicates == ["1.json"]
    assert [conflict.place for conflict in merged.conflicts] == ["2.json"]


def test_a_trial_of_the_store_is_not_taken_again_under_another_seed(elsewhere: Path) -> None:
    store, ours = Store(elsewhere), classified(seed=0)
    store.record(ours, None)
    copy = ours.model_copy(update={"trial": classified(seed=1).trial})
    merged = exchange.merge([Exported("a", copy), Exported("b", classified(seed=2))], store)
    assert [each.trial.seed for each in merged.added] == [2]
    (refusal,) = merged.refused
    assert f"to the last digit that of seed 0 ({ours.trial.key})" in str(refusal)


def test_full_precision_from_elsewhere_is_trained_where_its_weights_are_wanted(
    small_suite: Path, small_exported: Path, elsewhere: Path
) -> None:
    found = exported.read([small_exported]).good
    full = [each for each in found if each.result.trial.method == "fp32"]
    exchange.merge(full, Store(elsewhere))
    benchmark = Benchmark.open(small_suite, elsewhere)
    assert len(benchmark.to_do()) == 6
    assert all(was_imported(run) for run in benchmark.runs.values())
    for planned in benchmark.planned[:2]:  # once it has been
        weights = benchmark.spool.weights_path(planned.trial.key)
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"weights")
    assert len(benchmark.to_do()) == 4

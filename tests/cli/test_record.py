"""Results of which only the files are here, as in a fresh clone of a repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qbench.benchmark import exported
from qbench.benchmark.benchmark import Benchmark
from qbench.store.mlflow import Store
from tests.conftest import QbenchHere
from tests.helpers.lines import Lines, edit, lines_of
from tests.helpers.results import classified


@pytest.fixture
def clone(small_exported: Path, tmp_path: Path) -> Path:
    """A results folder without a store, with the files of two suites."""
    results = tmp_path / "clone"
    shutil.copytree(small_exported, results / "small")
    (results / "other").mkdir()
    seeds = [classified(seed=seed, wrong=30 + 6 * seed) for seed in (0, 1)]
    exported.write(results / "other" / exported.FILE, "other", seeds)
    return results


def key_of(clone: Path, suite: str, seed: int, method: str = "dorefa") -> str:
    (key,) = (
        line["key"]
        for line in lines_of(clone / suite / exported.FILE)[1:]
        if (line["trial"]["method"], line["trial"]["seed"]) == (method, seed)
    )
    return str(key)


def test_show_reads_the_files_and_records_nothing(clone: Path, qbench_here: QbenchHere) -> None:
    key = key_of(clone, "small", 1)
    record = json.loads(qbench_here("show", key[:12], "--results", clone, "--json"))
    assert record["key"] == key
    assert record["metrics"]["final_top1"] == pytest.approx(80.1)
    assert record["measured_on"] == "360 test images"
    assert record["reproduce"] == f"qbench verify {key} --retrain --results {clone}"
    assert record["fingerprint"]["revision"] == 2
    assert record["date"]
    assert record["file"].startswith(f"{clone}/small/{exported.FILE}, line ")
    assert (record["mlflow_run"], record["mlflow_link"]) == ("", "")
    assert not (clone / "mlflow.db").exists()
    told = qbench_here("show", "0123456789abcdef", "--results", clone, code=2)
    assert "no recorded trial has a key" in told


def test_show_links_to_a_run_that_is_recorded(
    small_suite: Path, small_results: Path, qbench_here: QbenchHere
) -> None:
    run = next(iter(Benchmark.open(small_suite, small_results).runs.values()))
    key = run.tags["qbench.key"]
    record = json.loads(qbench_here("show", key, "--results", small_results, "--json"))
    assert record["mlflow_link"].endswith(f"/runs/{run.run_id}")
    assert "mlflow ui --backend-store-uri" in record["mlflow_link"]


def test_what_contradicts_the_file_is_not_shown(clone: Path, qbench_here: QbenchHere) -> None:
    file, key = clone / "other" / exported.FILE, key_of(clone, "other", 1)

    def change(lines: Lines) -> None:
        (line,) = (line for line in lines[1:] if line["key"] == key)
        line["metrics"] = {"top1": 99.0}

    edit(file, change)
    told = qbench_here("show", key, "--results", clone, code=2)
    assert "refused" in told
    assert "was changed after it was exported" in told
    qbench_here("show", key_of(clone, "other", 0), "--results", clone)


def test_tables_and_the_page_are_made_from_the_file(
    clone: Path, small_suite: Path, small_results: Path, qbench_here: QbenchHere
) -> None:
    told = qbench_here("leaderboard", small_suite, "--results", clone, "--html")
    assert f"6 trials read from {clone}/small/{exported.FILE}; not in the store." in told
    assert (clone / "small" / "leaderboard.html").exists()
    assert not (clone / "mlflow.db").exists()
    own = ("compare", clone, small_suite, "--results", small_results)
    assert "3 results: 3 same" in qbench_here(*own)


def test_a_run_trains_what_is_not_imported_and_says_how_to_import(
    clone: Path, small_suite: Path, qbench_here: QbenchHere
) -> None:
    told = qbench_here("plan", small_suite, "--results", clone)
    assert f"{clone}/small/{exported.FILE} has 6 trials that the store lacks" in told
    qbench_here("import", clone / "small", "--results", clone)
    told = qbench_here("plan", small_suite, "--results", clone)
    assert "that the store lacks" not in told


def test_a_trial_that_was_set_aside_is_not_read_from_the_file(
    clone: Path, small_suite: Path, qbench_here: QbenchHere
) -> None:
    qbench_here("import", clone / "small", "--results", clone)
    benchmark = Benchmark.open(small_suite, clone)
    key = key_of(clone, "small", 0, "ste")
    Store(clone).set_aside([benchmark.runs[key]])
    benchmark.refresh()
    benchmark.read_file()
    assert key not in benchmark.runs


def test_two_networks_are_compared_by_what_they_predict(
    clone: Path, qbench_here: QbenchHere
) -> None:
    keys = [key_of(clone, "other", seed) for seed in (0, 1)]
    told = qbench_here("compare", *keys, "--results", clone)
    assert "Both predict the same class for 354 of 360 images." in told
    assert "A is right on 330 and B on 324: only A on 6, only B on 0." in told
    assert "p = 0.031" in told
    assert "not about their methods" in told
    found = json.loads(qbench_here("compare", *keys, "--results", clone, "--json"))
    assert (found["only_a"], found["only_b"], found["a"]) == (6, 0, keys[0])
    told = qbench_here("compare", keys[0], key_of(clone, "small", 0), "--results", clone, code=2)
    assert "has no predicted classes" in told

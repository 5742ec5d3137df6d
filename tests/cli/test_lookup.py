from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qbench import registry
from qbench.benchmark.benchmark import Benchmark
from qbench.data import Dataset
from qbench.report.figures import training
from tests.conftest import QbenchHere, TinyRun


def test_show_tells_everything_of_a_trial(tiny_run: TinyRun) -> None:
    key = next(t["key"] for t in tiny_run.qbench.plan(tiny_run.suite) if t["bits"] == "2/2")
    record = json.loads(tiny_run.qbench.fresh("show", key[:10], "--json"))
    assert record["key"] == key
    assert record["trial"]["bits"] == "2/2"
    assert record["environment"]["torch"]
    assert all(count["levels"] <= count["promised"] for count in record["audit"])
    shares = record["coverage"]
    assert 0 < shares["weights"] < 1
    assert not shares["partly"]
    assert not record["placed"]  # quantizers at the inputs of layers
    told = tiny_run.qbench("show", key)
    assert "3.weight" in told
    assert "weight_operands" in told


def test_show_draws_a_trial(tiny_run: TinyRun, tmp_path: Path) -> None:
    trials = tiny_run.qbench.plan(tiny_run.suite)
    keys = {t["method"]: t["key"] for t in trials if t["bits"] == "2/32" and t["seed"] == 0}
    folder = tmp_path / "figures"
    told = tiny_run.qbench("show", keys["quantization_networks"], "--figures", folder)
    drawn = {"training_curves", "soft_and_hard", "weight_distributions", "quantization_function"}
    assert {path.stem for path in folder.iterdir()} == drawn
    assert all(str(path) in told for path in folder.iterdir())
    tiny_run.qbench("show", keys["twn"], "--figures", tmp_path / "twn")
    drawn = {"training_curves", "weight_distributions"}
    assert {path.stem for path in (tmp_path / "twn").iterdir()} == drawn


@pytest.mark.parametrize("kind", ["methods", "models", "datasets"])
def test_list_names_what_there_is(tiny_run: TinyRun, kind: str) -> None:
    entries = json.loads(tiny_run.qbench("list", kind, "--json"))
    names = [entry["name"] for entry in entries]
    expected = {"methods": "dorefa", "models": "resnet18", "datasets": "digits"}[kind]
    assert expected in names
    if kind == "methods":
        assert {"name", "title", "paper", "quantizes"} <= entries[0].keys()
    assert expected in tiny_run.qbench("list", kind)


def test_what_cannot_be_loaded_is_named_and_the_others_are_listed(
    qbench_here: QbenchHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = registry.build_dataset

    def fragile(name: str, *more: Any) -> Dataset:
        if name == "cifar10":
            raise ValueError("broken")
        return build(name, *more)

    monkeypatch.setattr(registry, "build_dataset", fragile)
    told = qbench_here("list", "datasets")
    assert "Not listed: cifar10: ValueError: broken" in told
    assert "cifar100" in told


def test_a_figure_that_cannot_be_drawn_leaves_the_others(
    small_suite: Path,
    small_results: Path,
    tmp_path: Path,
    qbench_here: QbenchHere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> list[Path]:
        raise IndexError("out of range")

    monkeypatch.setattr(training, "soft_and_hard", broken)
    trials = Benchmark.open(small_suite, small_results).planned
    key = next(planned.trial.key for planned in trials if planned.trial.method == "ste")
    folder = tmp_path / "figures"
    told = qbench_here("show", key, "--results", small_results, "--figures", folder)
    assert "Not made: the figure soft_and_hard: IndexError: out of range" in told
    assert (folder / "training_curves.png").exists()


def test_show_says_that_a_number_was_edited(
    small_suite: Path, small_results: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    shutil.copytree(small_results, elsewhere, dirs_exist_ok=True)
    edit = "UPDATE latest_metrics SET value = 99.9 WHERE key = 'final_top1' AND value = 90.0"
    with closing(sqlite3.connect(elsewhere / "mlflow.db")) as database, database:
        assert database.execute(edit).rowcount == 1
    planned = Benchmark.open(small_suite, elsewhere).planned
    keys = [p.trial.key for p in planned if p.trial.method == "ste"]
    warned = [
        "stale what is stored of it" in qbench_here("show", key, "--results", elsewhere)
        for key in keys
    ]
    assert warned == [True, False]


def test_show_says_that_a_method_has_changed(
    small_suite: Path,
    small_results: Path,
    qbench_here: QbenchHere,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = Benchmark.open(small_suite, small_results).planned
    key = next(p.trial.key for p in planned if p.trial.method == "ste")
    method = registry.method_class("ste")
    monkeypatch.setattr(method, "revision", method.revision + 1)
    record = json.loads(qbench_here("show", key, "--results", small_results, "--json"))
    assert record["stale"].startswith("ste is at revision")


def test_an_unknown_kind_names_the_nearest(qbench_here: QbenchHere) -> None:
    told = qbench_here("list", "method", code=2)
    assert told.strip() == (
        "qbench: list method: nothing of this kind is listed; did you mean 'methods'?"
    )

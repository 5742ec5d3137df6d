from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import TinyRun


def test_show_tells_everything_of_a_trial(tiny_run: TinyRun) -> None:
    key = next(t["key"] for t in tiny_run.qbench.plan(tiny_run.suite) if t["bits"] == "2/2")
    record = json.loads(tiny_run.qbench("show", key[:10], "--json"))
    assert record["key"] == key
    assert record["trial"]["bits"] == "2/2"
    assert record["environment"]["torch"]
    assert all(count["levels"] <= count["promised"] for count in record["audit"])
    assert "3.weight" in tiny_run.qbench("show", key)


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

"""Trials that a suite deploys, and what its tables show of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from qbench.benchmark import deployed, leaderboard
from qbench.benchmark.benchmark import Benchmark
from qbench.deployment.latency import Speed
from qbench.deployment.trials import Deployment
from qbench.errors import QbenchError
from tests.helpers import tuned


@pytest.fixture
def benchmark(small_suite: Path, small_results: Path, tmp_path: Path) -> Benchmark:
    """A suite that is done, whose weights are not stored."""
    shutil.copytree(small_results, tmp_path / "results")
    found = Benchmark.open(small_suite, tmp_path / "results", ["deploy=[onnx]"])
    # They were never trained, and would end after now.
    found.runs = {key: run._replace(end_time=1000) for key, run in found.runs.items()}
    return found


def test_a_suite_shows_what_was_exported_and_why_not(benchmark: Benchmark) -> None:
    done = [p.trial for p in benchmark.planned if benchmark.status(p) == "done"]
    for number, trial in enumerate(done[1:]):
        speed = Speed(
            threads=1, latency=2, throughput=1, fp32_latency=1, fp32_throughput=1, ratio=1 + number
        )
        found = Deployment(
            key=trial.key, name=trial.name, to="onnx",
            bytes={"file": 20_000}, flips={"a": 0, "b": number}, speed=[speed],
        )  # fmt: skip
        file = benchmark.results / "deployed" / f"{trial.key}.onnx.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(found.model_dump_json())
    told: list[Deployment] = []
    deployed.deploy(benchmark, told.append)
    [only] = told  # the one without a record
    assert (only.key, only.status) == (done[0].key, "refused")
    told.clear()
    deployed.deploy(benchmark, told.append)
    assert told == []
    shown = deployed.columns(benchmark, benchmark.trials()["key"])
    assert shown["exported"].tolist()[0] == f"refused: {only.reason}"
    assert shown["flips"].max() == len(done) - 2
    report = leaderboard.write(benchmark, html=True)
    assert report.problems == []
    assert "pareto_latency.png" in {file.name for file in report.files}
    details = (benchmark.folder / "details.md").read_text()
    assert "## Deployed to ONNX: " in details
    assert only.reason[:30] in details
    assert "Exported" in (benchmark.folder / "leaderboard.html").read_text()


def test_a_record_from_before_training_does_not_count(benchmark: Benchmark) -> None:
    trial = next(p.trial for p in benchmark.planned if benchmark.status(p) == "done")
    file = benchmark.results / "deployed" / f"{trial.key}.onnx.json"
    file.parent.mkdir()
    file.write_text(Deployment(key=trial.key, name=trial.name, to="onnx").model_dump_json())
    keys = pd.Series([trial.key])
    assert deployed.columns(benchmark, keys)["exported"].tolist() == ["yes"]
    os.utime(file, (0, 0))
    assert "not deployed yet" in deployed.columns(benchmark, keys)["exported"][0]


def test_a_damaged_record_does_not_count(benchmark: Benchmark) -> None:
    trial = next(p.trial for p in benchmark.planned if benchmark.status(p) == "done")
    file = benchmark.results / "deployed" / f"{trial.key}.onnx.json"
    file.parent.mkdir()
    keys = pd.Series([trial.key])
    for content in (b'{"key": "', b"\xff\xfe", b"[]"):
        file.write_bytes(content)
        assert "not deployed yet" in deployed.columns(benchmark, keys)["exported"][0]


def test_trials_on_validation_images_are_not_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_weights(*_: object) -> None:
        raise QbenchError("no weights")

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("qbench.deployment.trials.load_finished", no_weights)
    path = tmp_path / "tuned.yaml"
    path.write_text(tuned.SUITE, encoding="utf-8")
    small = ("methods=[dorefa]", "recipe.initialization=scratch", "tuning.studies=1")
    few = ("tuning.trials=1", "tuning.seeds=1")
    benchmark = Benchmark.open(path, tmp_path / "results", (*small, *few))
    for _ in range(2):  # the first stage, and the second
        (planned,) = benchmark.to_do()
        tuned.record(benchmark, planned, 90.0)
        benchmark.refresh()
    found: list[Deployment] = []
    deployed.deploy(benchmark, found.append)
    assert [each.key for each in found] == [planned.trial.key]
    assert not planned.trial.validation

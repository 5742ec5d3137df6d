"""`qbench deploy`: finished trials as files that are proven to be the same network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qbench import registry
from qbench.deployment.packed import load_packed, read_index
from qbench.plugins import Plugin, load_plugin
from qbench.spec.predictions import Predictions
from qbench.spec.trial import Trial
from qbench.store.mlflow import Store
from qbench.train.building import ExecutionEnvironment
from qbench.train.trial import Training
from tests.conftest import QbenchHere
from tests.helpers import fashion, plugins, training

ONCE = training.RECIPE.model_copy(update={"epochs": 1})


def record(
    results: Path, what: Trial, predicted: list[int] | None = None, data: Any = None
) -> Trial:
    """Train a trial and record it, with other predictions if they are given."""
    run = Training(what, execution=ExecutionEnvironment(data=data or {}))
    for _ in run.epochs():
        pass
    result, weights = run.result, run.weights
    assert weights is not None, result.reason
    if predicted is not None:
        result.predictions = Predictions.of(predicted, 10)
    result.suite = "small"
    folder = results / "finished"
    folder.mkdir(parents=True)
    (folder / "weights.pt").write_bytes(weights)
    Store(results).record(result, folder)
    return what


def test_a_trial_is_deployed_and_proven(qbench_here: QbenchHere, tmp_path: Path) -> None:
    trial = record(tmp_path, training.trial("lq_nets", recipe=ONCE))
    out = tmp_path / "files"
    told = qbench_here("deploy", trial.key[:8], "--results", tmp_path, "--out", out)
    assert told.startswith(f"green  {trial.name}")
    assert "packed: top-1" in told
    found = json.loads((out / f"{trial.key}.packed.json").read_text())
    assert found["flips"] == {"torch": 0, "packed": 0}
    assert found["difference"]["packed"] == 0
    file = Path(found["file"])
    assert found["bytes"]["file"] == file.stat().st_size
    assert read_index(file).about == {"trial": trial.key, "name": trial.name}
    load_packed(file)


def test_a_trial_tells_the_options_of_its_data(
    qbench_here: QbenchHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fashion.write(tmp_path / "data" / "fashion_mnist")
    monkeypatch.setenv("QBENCH_DATA", str(folder.parent))
    data = registry.build_dataset("fashion_mnist", {"image_size": 14}).identity()
    recipe = ONCE.model_copy(update={"channels_last": True})
    what = training.trial("twn", bits="2/32", dataset="fashion_mnist", data=data, recipe=recipe)
    trial = record(tmp_path, what, data={"image_size": 14})
    assert qbench_here("deploy", trial.key, "--results", tmp_path).startswith("green")


def test_predictions_that_were_not_recorded_make_it_red(
    qbench_here: QbenchHere, tmp_path: Path
) -> None:
    trial = record(tmp_path, training.trial("twn", bits="2/32", recipe=ONCE), [0] * 360)
    told = qbench_here("deploy", trial.key, "--results", tmp_path, "--json", code=1)
    [found] = json.loads(told)
    assert found["status"] == "red"
    assert "does not predict what was recorded" in found["reason"]


def test_a_trial_of_a_plugin_is_deployed(qbench_here: QbenchHere, tmp_path: Path) -> None:
    file = tmp_path / "median_sign.py"
    file.write_text(plugins.GOOD)
    load_plugin(Plugin.read(file, "methods"))
    trial = record(tmp_path, training.trial("median_sign", bits="1/32", recipe=ONCE))
    words = ("deploy", trial.key, "--results", tmp_path, "--methods", file)
    assert qbench_here(*words).startswith("green")
    told = qbench_here(*words, "--to", "onnx", "--fold-batch-norm", "--exact")
    assert told.startswith("green")
    assert "onnxruntime, optimizations: all: top-1" in told
    assert "batch normalization is folded into 4 weights; top-1 changes by " in told
    assert "0 sums of products in 0 layers are the same" in told
    assert "1 thread: " in told
    assert " × full precision; " in told
    found = json.loads((tmp_path / "deployed" / f"{trial.key}.folded.onnx.json").read_text())
    assert found["environment"].keys() >= {"onnxruntime", "provider", "processor"}
    assert found["speed"][0]["throughput"] > 0


def test_what_a_format_cannot_express_is_refused_with_the_reason(
    qbench_here: QbenchHere, tmp_path: Path
) -> None:
    trial = record(tmp_path, training.trial("dorefa", bits="2/32", recipe=ONCE))
    told = qbench_here("deploy", trial.key, "--results", tmp_path, "--to", "qonnx")
    assert told.startswith("refused")
    assert "its levels are no integers times a scale" in told


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("deploy", "0123"), "no recorded trial has a key that starts with '0123'"),
        (("deploy", "0123", "--to", "onx"), "--to onx: no such format"),
        (("deploy", "0123", "--exact"), "--exact is for --to onnx, and this is --to packed"),
        (("deploy", "digits_start"), "digits_start has no finished trial"),
    ],
)
def test_mistakes_are_named(
    words: tuple[str, ...], reason: str, qbench_here: QbenchHere, tmp_path: Path
) -> None:
    assert reason in qbench_here(*words, "--results", tmp_path, code=2)

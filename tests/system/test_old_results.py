"""Results that version 0.1.0 wrote are still read: store, spool, checkpoint, exports and keys.

tests/fixtures/v0_1/README.md says what the fixtures are.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import shutil
import sqlite3
import tarfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from packaging.version import Version
from torch import nn

from qbench.spec.placement import LAYER_INPUTS
from qbench.spec.trial import FP32, Trial
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from tests.conftest import MakeQbench, Qbench

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0_1"
SUITE = FIXTURES / "small.yaml"
SUITES = sorted(path.stem for path in (FIXTURES / "suites").glob("*.yaml"))
UNINTERRUPTED: dict[str, Any] = json.loads(
    (FIXTURES / "uninterrupted.json").read_text(encoding="utf-8")
)
TRIALS = 6
# Of Quantization Networks the numbers and two defaults have changed since. What was a default is
# written out here, so that its trials have the keys that they had.
CHANGED, OLD_RATE = "quantization_networks", {"temperature_rate": 5.0}
AS_IT_WAS = (
    "--set",
    "methods=[ste, twn, {quantization_networks: {temperature_rate: 5, lr_factor: 1}, "
    "label: Quantization Networks}]",
)
NOT_STALE = (
    "Results of version 0.1.0 count as revision 1, so they are not stale as long as the revisions "
    "of their method and of the shared arithmetic are 1."
)
# Time that the checkpoint is made to say that it has trained, to tell a resumed trial from a
# restarted one.
TRAINED_BEFORE = 1e6


def unpack(name: str, folder: Path) -> None:
    """Unpack an archive of the fixtures."""
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")


def old_results(folder: Path, qbench_in: MakeQbench) -> Qbench:
    """The command line on a copy of the old results folder, without its spool and checkpoint."""
    wrote, here = UNINTERRUPTED["mlflow"], importlib.metadata.version("mlflow")
    if Version(here) < Version(wrote):
        pytest.skip(f"MLflow {here} does not open databases of MLflow {wrote}")
    folder.mkdir()
    unpack("store", folder)
    return qbench_in(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, qbench_in: MakeQbench) -> Qbench:
    """Old results in which nothing is to do, for tests that record nothing."""
    return old_results(tmp_path_factory.mktemp("old") / "results", qbench_in)


@pytest.fixture
def qbench(tmp_path: Path, qbench_in: MakeQbench) -> Qbench:
    """A copy of the old results for one test."""
    return old_results(tmp_path / "results", qbench_in)


def runs(qbench: Qbench) -> set[str]:
    """The ids of all runs of the store that were not deleted."""
    with closing(sqlite3.connect(qbench.results / "mlflow.db")) as database:
        rows = database.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")
        return {name for (name,) in rows}


def artifacts(qbench: Qbench, key: str) -> Path:
    """The folder of the artifacts of a trial's only run."""
    with closing(sqlite3.connect(qbench.results / "mlflow.db")) as database:
        ((run,),) = database.execute(
            "SELECT run_uuid FROM tags WHERE key = 'qbench.key' AND value = ?", (key,)
        ).fetchall()
    return qbench.results / "artifacts" / "small" / run / "artifacts"


def assert_done(trials: list[dict[str, Any]]) -> None:
    supported = [trial for trial in trials if trial["status"] != "unsupported"]
    assert [trial["status"] for trial in supported] == ["done"] * TRIALS
    current = [trial for trial in supported if trial["method"] != CHANGED]
    assert [trial["stale"] for trial in current] == [""] * (TRIALS - 2), NOT_STALE
    for trial in supported:
        if trial["method"] == CHANGED:
            assert "revision 3, and was at 1" in trial["stale"]


def test_a_plan_finds_everything_done_and_nothing_stale(finished: Qbench) -> None:
    assert_done(finished.plan(SUITE, *AS_IT_WAS))


# Computed for the table, and not a result: 0.1.0 counted k numbers for each group of weights, where
# now those are counted from which the levels are computed, as declared.
PACKED_SIZE = ("weight_mb", "compression")


def test_the_tables_have_the_same_numbers(finished: Qbench) -> None:
    finished("leaderboard", SUITE, *AS_IT_WAS)
    for name in ("trials.csv", "leaderboard.csv"):
        old = pd.read_csv(FIXTURES / name, dtype=str, keep_default_na=False)
        new = pd.read_csv(finished.results / "small" / name, dtype=str, keep_default_na=False)
        assert set(old.columns) <= set(new.columns)
        kept = [column for column in old.columns if column not in PACKED_SIZE]
        unchanged = old["method"] != CHANGED
        pd.testing.assert_frame_equal(new.loc[unchanged, kept], old.loc[unchanged, kept])


def test_a_run_trains_nothing(finished: Qbench) -> None:
    before = runs(finished)
    assert len(before) == TRIALS
    finished("run", SUITE, *AS_IT_WAS)
    assert runs(finished) == before


def test_waiting_results_are_recorded(qbench: Qbench) -> None:
    spool = qbench.results / ".state" / "spool"
    unpack("state", qbench.results / ".state")
    waiting = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in spool.glob("*/outcome.json")
    }
    (done,) = (key for key, result in waiting.items() if result["status"] == "done")
    (failed,) = (key for key, result in waiting.items() if result["status"] == "failed")
    weights = (spool / done / "weights.pt").read_bytes()

    trials = {trial["key"]: trial for trial in qbench.plan(SUITE, "--set", "seeds=[1]")}

    assert trials[done]["status"] == "done"
    assert trials[done]["stale"] == "", NOT_STALE
    assert trials[failed]["status"] == "failed"
    assert trials[failed]["reason"] == waiting[failed]["reason"] != ""
    assert len(runs(qbench)) == TRIALS + 2
    assert list(spool.iterdir()) == []
    folder = artifacts(qbench, done)
    assert (folder / "weights.pt").read_bytes() == weights
    assert json.loads((folder / "history.json").read_bytes()) == waiting[done]["history"]
    assert (artifacts(qbench, failed) / "traceback.txt").exists()


def test_an_interrupted_trial_is_resumed_to_the_same_bits(qbench: Qbench) -> None:
    key = UNINTERRUPTED["key"]
    state = qbench.results / ".state"
    unpack("state", state)
    shutil.rmtree(state / "spool")
    checkpoint = state / "checkpoints" / f"{key}.pt"
    content = torch.load(checkpoint, weights_only=True)
    first_epochs = content["history"]
    assert [record["epoch"] for record in first_epochs] == [1, 2]
    # What has changed in the method since is how training starts, and this trial has started.
    code = {"revision": 3}
    torch.save({**content, "code": code, "train_seconds": TRAINED_BEFORE}, checkpoint)

    changes = (
        "methods=[{quantization_networks: {temperature_rate: 5, lr_factor: 1}}]",
        "bits=[2/2]",
        "recipe.epochs=4",
    )
    qbench("run", SUITE, *(word for change in changes for word in ("--set", change)))

    assert len(runs(qbench)) == TRIALS + 1, "the full-precision network was trained again"
    folder = artifacts(qbench, key)
    history = json.loads((folder / "history.json").read_bytes())
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    (row,) = (
        row
        for row in pd.read_csv(qbench.results / "small" / "trials.csv").to_dict("records")
        if row["key"] == key
    )
    assert row["train_seconds"] >= TRAINED_BEFORE, f"it started from its first epoch. {NOT_STALE}"
    assert history[:2] == first_epochs
    assert not checkpoint.exists()

    environment = json.loads((folder / "environment.json").read_bytes())
    different = {
        name: f"{value} then, {now} now"
        for name, value in UNINTERRUPTED["arithmetic"].items()
        if (now := {**environment, **probe()}[name]) != value
    }
    if not different:
        # Epochs that run today may record more than those of the release did.
        recorded = [
            {name: record[name] for name in then}
            for record, then in zip(history, UNINTERRUPTED["history"], strict=True)
        ]
        assert recorded == UNINTERRUPTED["history"], "this machine adds up as the recorded one did"
        weights = digest(torch.load(folder / "weights.pt", weights_only=True))
        assert weights == UNINTERRUPTED["weights"], "this machine adds up as the recorded one did"
    else:
        for record, old in zip(history, UNINTERRUPTED["history"], strict=True):
            assert record["train_loss"] == pytest.approx(old["train_loss"], rel=0.1), (
                f"compared with a tolerance, because the arithmetic differs: {different}"
            )
        assert row["top1"] == pytest.approx(UNINTERRUPTED["history"][-1]["top1"], abs=5), (
            f"compared with a tolerance, because the arithmetic differs: {different}"
        )


def digest(weights: dict[str, torch.Tensor]) -> str:
    """Hash the names and the bits of tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def probe() -> dict[str, str]:
    """Return what of this machine decides the last bits and no environment records.

    The last bits depend on the instructions that torch and the kernels choose by the processor.
    This trains a network of plain torch layers, of the shapes of the recorded one, and names the
    processor's vector instructions.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1, bias=False),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(32, 10),
            )
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            for _ in range(10):
                loss = nn.functional.cross_entropy(
                    network(torch.randn(64, 1, 8, 8)), torch.randint(10, (64,))
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    finally:
        torch.set_num_threads(threads)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    words = next((line.split() for line in lines if line.startswith("flags")), [])
    vectors = sorted(word for word in words if word.startswith(("avx", "fma", "sse")))
    return {"training": digest(network.state_dict()), "vectors": " ".join(vectors)}


def test_exported_files_are_imported_and_not_stale(tmp_path: Path, qbench_in: MakeQbench) -> None:
    qbench = qbench_in(tmp_path / "results")
    qbench.fresh("import", FIXTURES / "exported")
    assert_done(qbench.plan(SUITE, *AS_IT_WAS))


def test_exported_files_agree_with_the_store(finished: Qbench) -> None:
    before = runs(finished)
    finished("import", FIXTURES / "exported")
    assert runs(finished) == before


# Options whose defaults have changed since, with the defaults that they had. Old results keep their
# keys, and are found by suites that set these values.
OLD_DEFAULTS: dict[str, dict[str, Any]] = {
    "bireal": {"gradient": "paper"},
    "bwn": {"gradient": "paper", "centre": False},
    "xnor": {"gradient": "paper", "centre": False},
    CHANGED: {"lr_factor": 1.0},
}


# Methods of imagenet_lowbit whose `recipe: paper` is another since.
OTHER_PAPER_RECIPES = ("binary_connect", "bwn", "xnor", "dorefa", "ttq", "inq", "tbn", "lq_nets")


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_has_the_same_keys(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The keys were recorded without data; those of a part of a dataset would differ.
    monkeypatch.delenv("QBENCH_DATA", raising=False)
    keys: defaultdict[str, list[str]] = defaultdict(list)
    trials = [each.trial for each in expand(load_suite(FIXTURES / "suites" / f"{suite}.yaml"))]
    plain = {
        (trial.model, trial.seed): trial
        for trial in trials
        if trial.method == FP32 and not trial.has_changed_network
    }
    for trial in trials:
        if trial.method == FP32 and trial.has_changed_network:
            continue  # version 0.1.0 trained no changed network in full precision
        old = trial.model_dump()
        old["placement"] = LAYER_INPUTS  # where all activation quantizers sat
        old["options"] |= OLD_DEFAULTS.get(trial.method, {})
        if trial.method == CHANGED:
            old["options"].pop("alpha", None)  # an option that there was not
            if trial.options["temperature_rate"] is None:
                old["options"] |= OLD_RATE
        if trial.has_changed_network:  # and quantized trials started from the unchanged one
            old |= {"network": "", "prepared": None}
            if trial.full_precision is not None:
                base = plain[trial.model, trial.seed]
                old |= {"weights": base.weights, "full_precision": base.recipe}
        keys[trial.method].append(Trial(**old).key)
    found = {
        method: (
            len(of_method),
            min(of_method),
            hashlib.sha256("\n".join(sorted(of_method)).encode()).hexdigest()[:16],
        )
        for method, of_method in keys.items()
    }
    with (FIXTURES / "keys.csv").open(encoding="utf-8") as file:
        recorded = {
            row["method"]: (int(row["trials"]), row["first"], row["sha256"])
            for row in csv.DictReader(file)
            if row["suite"] == suite
        }
    if suite == "imagenet_lowbit":
        for method in OTHER_PAPER_RECIPES:
            assert found.pop(method) != recorded.pop(method)
    assert found == recorded


def test_the_gap_of_soft_quantizers_is_that_of_the_last_epoch(finished: Qbench) -> None:
    finished("leaderboard", SUITE, *AS_IT_WAS)
    trials = pd.read_csv(finished.results / "small" / "trials.csv").set_index("key")
    gaps = trials["soft_gap"].dropna().to_dict()
    for path in (FIXTURES / "exported").glob("*.json"):
        last = json.loads(path.read_text(encoding="utf-8"))["history"][-1]
        expected = last["soft_top1"] - last["top1"] if "soft_top1" in last else None
        assert gaps.get(path.stem) == pytest.approx(expected)


def test_the_packed_size_counts_one_scale_for_each_filter(finished: Qbench) -> None:
    finished("leaderboard", SUITE, *AS_IT_WAS)
    trials = pd.read_csv(finished.results / "small" / "trials.csv")
    old = pd.read_csv(FIXTURES / "trials.csv")
    for method, bits, groups in (("ste", 2, 80), ("twn", 2, 3), ("quantization_networks", 2, 3)):
        chosen = (trials["method"] == method) & (trials["w_bits"] == bits)
        fewer = (old["weight_mb"] - trials["weight_mb"])[chosen] * 8e6 / 32
        assert fewer.dropna().round().unique().tolist() == [groups * (bits - 1)]

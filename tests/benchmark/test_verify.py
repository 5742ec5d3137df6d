from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench import registry
from qbench.benchmark import verify
from qbench.benchmark.verify import Verdict, Verifier
from qbench.spec.recipe import Recipe, Teacher
from qbench.spec.result import Result
from qbench.spec.trial import TeacherNetwork, Trial
from qbench.store.mlflow import Store
from qbench.store.spool import Spool
from qbench.train.provenance import environment
from qbench.train.trial import Training
from tests.helpers.results import classified
from tests.helpers.training import train, trial

RECIPE = Recipe(epochs=1, batch_size=512, optimizer="sgd", lr=0.05, initialization="pretrained")
BASE = Recipe(epochs=1, batch_size=256, optimizer="sgd", lr=0.1)


def what() -> Trial:
    return trial("dorefa", recipe=RECIPE, full_precision=BASE)


@pytest.fixture(scope="module")
def trained() -> tuple[Result, bytes, Result, bytes]:
    """A trial and the full-precision trial that it starts from, with their weights."""
    base = what().base
    assert base is not None
    full, start = train(base)
    result, weights = train(what(), start)
    assert start is not None
    assert weights is not None
    return result, weights, full, start


@pytest.fixture
def store(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(elsewhere)


def recorded(store: Store, folder: Path, result: Result, weights: bytes) -> None:
    """Record a result with its weights."""
    folder.mkdir()
    result.suite = "small"
    (folder / "weights.pt").write_bytes(weights)
    store.record(result, folder)


def verified(store: Store, results: Path, key: str, retrain: bool = False) -> Verdict:
    return Verifier(store, Spool(results / ".state")).verify(store.runs([key])[key], retrain)


def on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {**environment(), "cpu": "another"}
    monkeypatch.setattr(verify, "environment", lambda: here)


def changed(result: Result, **metrics: float) -> Result:
    return result.model_copy(update={"metrics": {**result.metrics, **metrics}})


def test_stored_weights_are_measured_again(
    trained: Any, store: Store, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, weights, *_ = trained
    key = result.trial.key
    recorded(store, tmp_path / "w", result, weights)
    found = verified(store, elsewhere, key)
    assert (found.how, found.expected, found.agrees) == ("measured", "exact", True), found.text
    on_another_machine(monkeypatch)
    found = verified(store, elsewhere, key)
    assert (found.expected, found.agrees) == ("rounding", True), found.text
    assert "cpu another, recorded" in found.text


def test_numbers_that_the_weights_do_not_give_are_found(
    trained: Any, store: Store, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, weights, *_ = trained
    recorded(store, tmp_path / "w", changed(result, top1=99.0), weights)
    found = verified(store, elsewhere, result.trial.key)
    assert not found.agrees
    assert f"top1 is {result.metrics['top1']}, recorded 99.0" in found.text
    on_another_machine(monkeypatch)
    assert not verified(store, elsewhere, result.trial.key).agrees


def test_weights_with_other_levels_or_predictions_are_found(
    trained: Any, store: Store, elsewhere: Path, tmp_path: Path
) -> None:
    result, weights, *_ = trained
    state = torch.load(io.BytesIO(weights), weights_only=True)
    name = next(count.layer for count in result.audit if count.tensor == "weight") + ".weight"
    state[name] += 0.1 * torch.randn_like(state[name])
    buffer = io.BytesIO()
    torch.save(state, buffer)
    recorded(store, tmp_path / "w", result, buffer.getvalue())
    assert not verified(store, elsewhere, result.trial.key).agrees


def test_damaged_weights_are_not_verified(
    trained: Any, store: Store, elsewhere: Path, tmp_path: Path
) -> None:
    result, *_ = trained
    recorded(store, tmp_path / "w", result, b"no weights")
    found = verified(store, elsewhere, result.trial.key)
    assert (found.agrees, found.expected, found.found) == (False, "", None)
    assert "not verified: the hardened weights are refused" in found.text


def test_a_trial_of_a_file_is_trained_again_with_its_base(
    trained: Any, store: Store, elsewhere: Path
) -> None:
    result, _, full, _ = trained
    store.lend([("file, line 2", result), ("file, line 3", full)])
    found = verified(store, elsewhere, result.trial.key)
    assert (found.how, found.expected, found.agrees) == ("trained", "exact", True), found.text
    assert not (elsewhere / "mlflow.db-journal").exists()
    assert not store.finished()[0].experiment_id  # nothing was recorded


def test_an_epoch_that_training_does_not_give_is_found(
    trained: Any, store: Store, elsewhere: Path, tmp_path: Path
) -> None:
    result, weights, _, start = trained
    history = [{**result.history[0], "train_loss": 0.5}]
    recorded(store, tmp_path / "w", result.model_copy(update={"history": history}), weights)
    spool = Spool(elsewhere / ".state")
    (tmp_path / "start").write_bytes(start)
    spool.keep_weights(str(result.trial.source), tmp_path / "start")
    found = verified(store, elsewhere, result.trial.key, retrain=True)
    assert (found.how, found.expected, found.agrees) == ("trained", "exact", False)
    assert "epoch 1 has train_loss" in found.text
    assert "recorded 0.5" in found.text


class Untrained(Training):
    """A training that ends at once, with what a test wants."""

    metrics: dict[str, float]

    def epochs(self) -> Any:
        self.result.status = "done"
        self.result.metrics = self.metrics
        self.weights = b""
        return iter(())


@pytest.mark.parametrize(("top1", "agrees"), [(89.0, True), (70.0, False)])
def test_elsewhere_the_spread_over_seeds_decides(
    store: Store,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    top1: float,
    agrees: bool,
) -> None:
    seeds = [classified(seed=seed, wrong=36 + seed) for seed in range(3)]
    store.lend([("file", each) for each in seeds])
    monkeypatch.setattr(Untrained, "metrics", {"top1": top1}, raising=False)
    monkeypatch.setattr(verify, "Training", Untrained)
    found = verified(store, elsewhere, seeds[0].trial.key)
    assert (found.how, found.expected, found.agrees) == ("trained", "spread", agrees)
    assert "points apart; the spread over seeds allows" in found.text


def test_results_of_older_code_are_not_expected_to_be_exact(
    trained: Any, store: Store, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _, full, _ = trained
    store.lend([("file", result), ("file", full)])
    monkeypatch.setattr(Untrained, "metrics", result.metrics, raising=False)
    monkeypatch.setattr(verify, "Training", Untrained)
    method = registry.method_class("dorefa")
    monkeypatch.setattr(method, "revision", method.revision + 1)
    found = verified(store, elsewhere, result.trial.key)
    assert (found.expected, found.agrees) == ("spread", True)
    assert "dorefa is at revision" in found.text


def test_without_data_nothing_is_verified(
    trained: Any, store: Store, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, *_ = trained
    store.lend([("file", result)])
    dataset = type(registry.build_dataset("digits"))
    monkeypatch.setattr(dataset, "missing", lambda _: "digits: not here")
    found = verified(store, elsewhere, result.trial.key)
    assert (found.agrees, found.text) == (False, "not verified: digits: not here")


def test_ctrl_c_ends_it(
    trained: Any, store: Store, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> Iterator[dict[str, float]]:
        raise KeyboardInterrupt

    result, *_ = trained
    store.lend([("file", result)])
    monkeypatch.setattr(Training, "_epochs", interrupt)
    with pytest.raises(KeyboardInterrupt):
        verified(store, elsewhere, result.trial.key)


def test_a_trial_with_a_teacher_is_trained_again_with_it(store: Store, elsewhere: Path) -> None:
    recipe = RECIPE.model_copy(update={"teacher": Teacher(weight=0.5)})
    taught = trial("ste", bits="2/32", recipe=recipe, teacher=TeacherNetwork(recipe=BASE))
    assert taught.taught_by is not None
    full, teacher = train(taught.taught_by)
    result, _ = train(taught, None, teacher)
    store.lend([("file", result), ("file", full)])
    found = verified(store, elsewhere, taught.key)
    assert (found.how, found.expected, found.agrees) == ("trained", "exact", True)

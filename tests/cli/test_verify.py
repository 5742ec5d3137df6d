from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qbench.benchmark import verify
from qbench.benchmark.benchmark import Benchmark
from qbench.spec.result import Result
from qbench.train.trial import Training
from tests.conftest import QbenchHere


class Untrained(Training):
    """A training that ends at once, with an accuracy."""

    top1 = 90.0

    def epochs(self) -> Any:
        self.result = self.result.model_copy(update={"status": "done"})
        self.result.metrics = {"top1": self.top1}
        self.weights = b""
        return iter(())


@pytest.fixture(autouse=True)
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "Training", Untrained)
    monkeypatch.setattr(verify, "environment", lambda: {"torch": "3"})


def keys(suite: Path, results: Path, method: str) -> list[str]:
    planned = Benchmark.open(suite, results).planned
    return [each.trial.key for each in planned if each.trial.method == method]


def test_a_trial_is_verified_by_its_key(
    small_suite: Path, small_results: Path, qbench_here: QbenchHere
) -> None:
    key, *_ = keys(small_suite, small_results, "ste")
    told = qbench_here("verify", key[:12], "--results", small_results)
    assert "agreed ste 2/32 convnet_tiny digits seed 0" in told
    assert "90.00, recorded 90.00; trained again: 0.00 points apart" in told
    assert "torch 3, recorded 2" in told
    assert "Of 1 trial: 1 agreed." in told


def test_what_disagrees_is_told_with_exit_code_1(
    small_suite: Path, small_results: Path, qbench_here: QbenchHere
) -> None:
    key, *_ = keys(small_suite, small_results, "dorefa")
    found = json.loads(qbench_here("verify", key, "--results", small_results, "--json", code=1))
    (verdict,) = found
    assert (verdict["agrees"], verdict["expected"], verdict["how"]) == (False, "spread", "trained")
    assert (verdict["recorded"], verdict["found"]) == (80.0, 90.0)


def test_a_sample_of_a_suite_is_verified(
    small_suite: Path, small_results: Path, qbench_here: QbenchHere
) -> None:
    whole = ("verify", small_suite, "--results", small_results, "--set", "methods=[ste]", "--json")
    assert len(json.loads(qbench_here(*whole, code=1))) == 4  # full precision has 99 %
    found = json.loads(qbench_here(*whole, "--set", "seeds=[0]", "--sample", 9, code=1))
    assert {each["key"] for each in found} > set(keys(small_suite, small_results, "ste")[:1])
    told = qbench_here("verify", small_suite, "--results", small_results, "--sample", 2, code=None)
    assert "Of 2 trials: " in told


def test_what_could_not_be_trained_is_not_verified(
    small_suite: Path, small_results: Path, qbench_here: QbenchHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Untrained) -> Any:
        self.result = Result(
            trial=self.result.trial, status="failed", reason="it broke", started=0.0
        )
        return iter(())

    monkeypatch.setattr(Untrained, "epochs", fail)
    key, *_ = keys(small_suite, small_results, "ste")
    told = qbench_here("verify", key, "--results", small_results, code=1)
    assert "not verified: the full-precision network that it starts from failed: it broke" in told
    assert "Of 1 trial: 1 not verified." in told


def test_mistakes_are_told(
    small_suite: Path, elsewhere: Path, small_results: Path, qbench_here: QbenchHere
) -> None:
    told = qbench_here("verify", "0123456789abcdef", "--results", elsewhere, code=2)
    assert "no recorded trial has a key that starts with '0123456789abcdef'" in told
    key, *_ = keys(small_suite, small_results, "ste")
    told = qbench_here("verify", key, "--sample", 2, "--results", small_results, code=2)
    assert "is a key of one trial; --sample and --set are for suites" in told
    told = qbench_here("verify", small_suite, "--results", elsewhere, code=2)
    assert "nothing in it is finished" in told

"""Weights that a suite gives: what a plan finds, and what a run without them trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from qbench import registry
from qbench.benchmark.benchmark import Benchmark
from qbench.schedule import tune
from qbench.schedule.progress import Summary
from qbench.spec.trial import Trial
from tests.helpers.suites import GOOD

MODELS = ("convnet_tiny", "resnet20")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Checkpoints of a network: good, of other classes, and a pickled module."""
    network = registry.build_model("convnet_tiny", 10, 1)
    found = {name: tmp_path / f"{name}.pt" for name in ("good", "other", "module", "absent")}
    torch.save(network.state_dict(), found["good"])
    torch.save(registry.build_model("convnet_tiny", 3, 1).state_dict(), found["other"])
    torch.save(network, found["module"])
    return found


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials that a run hands to Ray."""
    found: list[Trial] = []

    def run(suite: str, trials: Sequence[Trial], *more: Any) -> Summary:
        found.extend(trials)
        return Summary()

    monkeypatch.setattr(tune, "run", run)
    return found


def opened(folder: Path, results: Path, weights: Path) -> Benchmark:
    suite = folder / "suite.yaml"
    suite.write_text(GOOD, encoding="utf-8")
    small = [f"models=[{', '.join(MODELS)}]", "methods=[ste]", "bits=[2/2]", "seeds=[0]"]
    return Benchmark.open(suite, results, [*small, f"weights={{convnet_tiny: '{weights}'}}"])


REASONS = {
    "other": "its last layer is for other classes; to start from it, finetune:",
    "module": "it holds a qbench.models",
    "absent": "there is no file",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_plan_reads_the_files(
    kind: str, files: dict[str, Path], tmp_path: Path, elsewhere: Path
) -> None:
    assert opened(tmp_path, elsewhere, files["good"]).missing() == []
    (text,) = opened(tmp_path, elsewhere, files[kind]).missing()
    assert text.startswith("weights of convnet_tiny: ")
    assert REASONS[kind] in text


@pytest.mark.parametrize("kind", REASONS)
def test_weights_that_cannot_be_used_cost_only_their_trials(
    kind: str, files: dict[str, Path], tmp_path: Path, elsewhere: Path, trained: list[Trial]
) -> None:
    benchmark = opened(tmp_path, elsewhere, files[kind])
    summary = benchmark.run(Mock())
    assert {trial.model for trial in trained} == {"resnet20"}
    failed = [p for p in benchmark.planned if benchmark.status(p) == "failed"]
    assert {p.trial.model for p in failed} == {"convnet_tiny"}
    assert summary.ended == len(failed) == 2
    assert all(REASONS[kind] in benchmark.reason(p) for p in failed)

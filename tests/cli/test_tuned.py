"""`qbench run` of a suite with ``recipe: tuned``: both stages, and no trial twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from qbench.benchmark.benchmark import Benchmark
from qbench.cli.main import app
from qbench.schedule.progress import Summary
from tests.helpers.tuned import SUITE, record


class FakeRuns:
    """Runs that record results which nobody trained.

    Args:
        limits: How many trials each run ends, at most, before it is interrupted.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *limits: int) -> None:
        self.trained: list[str] = []
        self._limits = list(limits)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr("qbench.cli.tables.write", lambda *_: None)
        monkeypatch.setattr(Benchmark, "run", lambda benchmark, *_: self._run(benchmark))

    def _run(self, benchmark: Benchmark) -> Summary:
        to_do = benchmark.to_do()
        limit = self._limits.pop(0)
        for planned in to_do[:limit]:
            record(benchmark, planned, 50.0 + planned.trial.recipe.lr)
            self.trained.append(planned.trial.key)
        return Summary(ended=len(to_do[:limit]), interrupted=len(to_do) > limit)


def command(tmp_path: Path, *changes: str) -> list[str]:
    """Return the arguments that run a suite with a study of one row, from scratch.

    No weights are stored here that a trial could start from.
    """
    path = tmp_path / "tuned.yaml"
    path.write_text(SUITE, encoding="utf-8")
    small = ("methods=[dorefa]", "recipe.initialization=scratch", "tuning.studies=1", *changes)
    words = ["run", str(path), "--results", str(tmp_path / "results")]
    return words + [word for change in small for word in ("--set", change)]


def test_a_run_trains_both_stages_and_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, words = FakeRuns(monkeypatch, 2, 100, 100), command(tmp_path)
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 130, first.output
    assert "Interrupted: 2 of 3 trials done; results decide on 2 more." in first.output

    second = CliRunner().invoke(app, words)
    assert second.exit_code == 0, second.output
    assert "1 trial to train, 2 of 3 done already; results decide on 2 more." in second.output
    assert "2 trials to train, 3 of 5 done already." in second.output  # the winner on two seeds
    assert len(set(runs.trained)) == len(runs.trained) == 5

    third = CliRunner().invoke(app, words)
    assert "All 5 trials are done; nothing to train." in third.output
    refused = CliRunner().invoke(app, [*words, "--resolve", "1"])
    assert "studies, not seeds" in str(refused.exception)


def test_asha_goes_on_after_an_interruption_without_repeating_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("tuning.scheduler=asha", "tuning.trials=7", "recipe.epochs=9")
    runs, words = FakeRuns(monkeypatch, 3, 100, 2, 100, 100, 1, 1), command(tmp_path, *changes)
    plan = CliRunner().invoke(app, ["plan", *words[1:]])
    assert (
        "Of 9 epochs, asha stops 4 after 1 epoch and 2 after 3 epochs, and trains 1 to the end: "
        "19 epochs for each study, in place of 63."
    ) in plan.output
    assert "Results decide on 6 further trials." in plan.output
    outputs = [CliRunner().invoke(app, words) for _ in range(4)]
    assert [each.exit_code for each in outputs] == [130, 130, 130, 0], outputs[-1].output
    said = "".join(each.output for each in outputs)
    for text in ("3 of 7 trials done; results decide on 6 more", "7 of 10 done already",
                 "9 of 10 trials done; results decide on 3 more",
                 "9 of 10 done already", "10 of 11 done already", "11 of 13 done already",
                 "12 of 13 trials done", "12 of 13 done already"):  # fmt: skip
        assert text in said
    assert len(set(runs.trained)) == len(runs.trained) == 13


def test_optuna_goes_on_after_an_interruption_without_repeating_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    runs = FakeRuns(monkeypatch, 1, 1, 100, 100, 100)
    words = command(tmp_path, "tuning.search=optuna", "tuning.trials=4")
    first = CliRunner().invoke(app, words)
    assert "Interrupted: 1 of 2 trials done; results decide on 4 more." in first.output
    second = CliRunner().invoke(app, words)
    assert second.exit_code == 0, second.output
    for said in ("1 of 2 done", "2 of 3 done", "3 of 4 done", "4 of 6 done"):
        assert f"{said} already" in second.output
    assert len(set(runs.trained)) == len(runs.trained) == 6


def test_the_plan_counts_a_row_of_which_a_study_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = command(tmp_path, "tuning.studies=2", "tuning.seeds=1")
    changes = [word for word in words[4:] if word != "--set"]
    benchmark = Benchmark.open(tmp_path / "tuned.yaml", tmp_path / "results", changes)
    for planned in benchmark.to_do():
        record(benchmark, planned, 50.0 if planned.study == 1 else None)
    plan = CliRunner().invoke(app, ["plan", *words[1:]])
    row = next(line for line in plan.output.splitlines() if "DoReFa-Net" in line)
    assert row.split()[-3:] == ["3/8", "(3", "failed)"], plan.output

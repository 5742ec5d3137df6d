"""`qbench run` of a suite with ``recipe: tuned``: both stages, and no trial twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from qbench.benchmark.benchmark import Benchmark
from qbench.cli.main import app
from qbench.schedule.progress import Summary
from qbench.train import fingerprint
from tests.helpers.results import course, result
from tests.helpers.tuned import SUITE


def test_a_run_trains_both_stages_and_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("qbench.cli.tables.write", lambda *_: None)
    trained: list[str] = []
    stop_after = [2, 100, 100]

    def run(self: Benchmark, *_: object) -> Summary:
        to_do = [planned.trial for planned in self.to_do()]
        limit = stop_after.pop(0)
        for trial in to_do[:limit]:
            made = result(top1=90.0).model_copy(
                update={
                    "trial": trial,
                    "suite": "tuned",
                    "code": fingerprint.code_of(trial),
                    "history": course(90.0, trial.recipe.epochs),
                }
            )
            self.store.record(made, None)
            trained.append(trial.key)
        return Summary(ended=len(to_do[:limit]), interrupted=len(to_do) > limit)

    monkeypatch.setattr(Benchmark, "run", run)
    path = tmp_path / "tuned.yaml"
    path.write_text(SUITE, encoding="utf-8")
    # From scratch: no weights are stored here that a trial could start from.
    changes = ("methods=[dorefa]", "recipe.initialization=scratch", "tuning.studies=1")
    command = ["run", str(path), "--results", str(tmp_path / "results")]
    command += [word for change in changes for word in ("--set", change)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 130, first.output
    assert "Interrupted: 2 of 3 trials done." in first.output

    second = CliRunner().invoke(app, command)
    assert second.exit_code == 0, second.output
    assert "1 trial to train, 2 of 3 done already." in second.output
    assert "2 trials to train, 3 of 5 done already." in second.output  # the winner on two seeds
    assert len(set(trained)) == len(trained) == 5

    third = CliRunner().invoke(app, command)
    assert "All 5 trials are done; nothing to train." in third.output
    refused = CliRunner().invoke(app, [*command, "--resolve", "1"])
    assert "studies, not seeds" in str(refused.exception)

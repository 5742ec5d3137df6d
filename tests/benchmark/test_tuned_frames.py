"""Files of a suite with ``recipe: tuned``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from qbench.benchmark import leaderboard
from qbench.benchmark.benchmark import Benchmark
from tests.helpers.tuned import SUITE, record

MEANS = {"dorefa": 80.0, "pact": 85.0, "lsq": 90.0}
SMALL = (
    "methods=[dorefa,pact,lsq]",
    "recipe.initialization=scratch",
    "tuning.trials=2",
    "tuning.seeds=1",
)


def test_the_report_has_the_aligned_table_the_tuned_one_and_what_lies_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path, results = tmp_path / "tuned.yaml", tmp_path / "results"
    path.write_text(SUITE, encoding="utf-8")
    aligned = Benchmark.open(path, results, (*SMALL, "recipe.name=aligned"))
    tuned = Benchmark.open(path, results, SMALL)
    for number, planned in enumerate(aligned.to_do()):
        record(aligned, planned, MEANS[planned.trial.method] + number / 100)
    for gain in (0, 1):  # of the first stage, and of the second
        for number, planned in enumerate(tuned.to_do()):
            record(tuned, planned, MEANS[planned.trial.method] + gain + number / 100)
        tuned.refresh()

    report = leaderboard.write(tuned, html=True)
    assert report.problems == []
    written = {path.name for path in report.files}
    assert {"tuning.csv", "tuning_effect.csv", "tuning_curves.png"} <= written
    effect = pd.read_csv(tuned.folder / "tuning_effect.csv")
    assert effect[["bits", "rows", "correlation", "flips"]].to_numpy().tolist() == [
        ["2/2", 3, 1.0, 0]
    ]
    text = (tuned.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "Each study tries 2 quasirandom configurations on 50 validation images." in text
    for title in ("What tuning changes", "What tuning gains", "What tuning found", "Best conf"):
        assert f"## {title}" in text
    page = (tuned.folder / "leaderboard.html").read_text(encoding="utf-8")
    for title in ("Tuning curves", "What tuning changes", "What tuning found"):
        assert title in page

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qbench.benchmark import finished
from qbench.benchmark.benchmark import Benchmark
from qbench.cli import power
from tests.conftest import QbenchHere
from tests.helpers.exchanged import BEFORE, filled
from tests.helpers.tuned import SUITE, record


def test_it_says_what_the_seeds_find_and_what_finer_differences_need(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    filled(small_suite, elsewhere, BEFORE, slope={"ste": 0.5})
    words = ("power", small_suite, "--results", elsewhere, "--difference", 1)
    told = qbench_here(*words)
    assert "points that the seeds find, power 80 %" in told
    assert "Seeds that find 1 points" in told
    assert "0.5 points" not in told
    (column, *_) = json.loads(qbench_here(*words, "--json"))
    low, high = column["deviation_90"]
    assert low < column["deviation"] < high
    assert column["between_two"] <= column["from_best"]
    (finer,) = column["finer"]
    assert finer["points"] == 1.0
    least, most = finer["seeds_between_two"]
    assert 2 <= least <= most
    more = json.loads(qbench_here(*words[:-1], 0.5, "--json"))[0]["finer"][0]
    assert more["seeds_between_two"][1] > most


def test_without_two_seeds_it_says_why_it_cannot(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    told = qbench_here("power", small_suite, "--results", elsewhere)
    assert "No column has two rows over two seeds or more" in told


def test_a_difference_is_more_than_nothing(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    told = qbench_here("power", small_suite, "--results", elsewhere, "--difference", 0, code=2)
    assert "--difference" in told


def test_of_a_tuned_suite_it_counts_studies_and_their_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "tuned.yaml"
    small = SUITE.replace("fp32, dorefa", "dorefa, pact").replace(
        "2, trials: 3, seeds: 2", "3, trials: 2, seeds: 1"
    )
    path.write_text(
        small.replace("{name: tuned,", "{name: tuned, initialization: scratch,"), encoding="utf-8"
    )
    benchmark = Benchmark.open(path, tmp_path / "results")
    for _ in ("the first stage", "the second"):
        for number, planned in enumerate(benchmark.to_do()):
            first = planned.trial.validation > 0
            score = 10.0 if first else 80 + 2 * (planned.trial.method == "pact") + number**2 / 10
            record(benchmark, planned, score)
        benchmark.refresh()
    (column,) = power.as_json(benchmark, [1.0])
    assert (column["unit"], column["rows"], column["seeds"]) == ("study", 2, 3)
    (finer,) = column["finer"]
    for name in ("between_two", "from_best"):
        further = [max(0, studies - 3) for studies in finer[f"seeds_{name}"]]
        assert finer[f"trials_{name}"] == [6 * studies for studies in further]
        assert len(finer[f"seconds_{name}"]) == 2
    power.show(benchmark, [1.0])
    said = capsys.readouterr().out
    assert "points that the studies find" in said
    assert "Studies that find 1 points" in said
    compared = finished.load(path, tmp_path / "results")
    assert len(compared) == 6  # validation images are no test split
    assert compared["value"].min() >= 80
    assert len(finished.load(tmp_path / "results", tmp_path)) == 6

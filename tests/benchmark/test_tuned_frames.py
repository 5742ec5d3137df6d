"""Files of a suite with ``recipe: tuned``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from qbench.benchmark import exchange, exported, finished, leaderboard
from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.tuned_frames import second_stage
from qbench.benchmark.tuning import scores_of, study_of
from qbench.errors import QbenchError
from qbench.report.comparison import compare
from qbench.store.mlflow import Store
from tests.helpers.tuned import SUITE, record

MEANS = {"dorefa": 80.0, "pact": 85.0, "lsq": 90.0}
SMALL = (
    "methods=[dorefa,pact,lsq]",
    "recipe.initialization=scratch",
    "tuning.trials=2",
    "tuning.seeds=1",
)


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def opened(tmp_path: Path, *changes: str, results: str = "results") -> Benchmark:
    path = tmp_path / "tuned.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return Benchmark.open(path, tmp_path / results, (*SMALL, *changes))


def trained(benchmark: Benchmark) -> Benchmark:
    """Record all trials of both stages, of which the highest learning rate is the best."""
    for _ in ("the first stage", "the second"):
        for each in benchmark.to_do():
            gain = each.trial.recipe.lr + each.trial.seed / 1e4
            record(benchmark, each, MEANS[each.trial.method] + gain)
        benchmark.refresh()
    return benchmark


def test_the_report_has_the_aligned_table_the_tuned_one_and_what_lies_between(
    tmp_path: Path,
) -> None:
    aligned = opened(tmp_path, "recipe.name=aligned")
    tuned = opened(tmp_path)
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

    fewer = opened(tmp_path, "methods=[dorefa,pact]")
    leaderboard.write(fewer)
    assert not (tuned.folder / "tuning_effect.csv").exists()  # it was of three rows


def test_an_exported_tuned_suite_has_all_that_its_report_needs(tmp_path: Path) -> None:
    for number, each in enumerate(opened(tmp_path, "recipe.name=aligned").to_do()):
        record(opened(tmp_path), each, MEANS[each.trial.method] + number / 100)
    benchmark = opened(tmp_path)
    failing = next(each for each in benchmark.planned if each.trial.method == "lsq")
    record(benchmark, failing, None)  # as one that diverges
    benchmark.refresh()
    trained(benchmark)
    record(benchmark, failing, None)
    benchmark.refresh()
    file, count, _ = exchange.export(benchmark, tmp_path / "out")
    assert count == 6 + 12 + 6  # aligned, and two stages

    exchange.merge(exported.read([file]).good, Store(tmp_path / "elsewhere"))
    again = exchange.merge(exported.read([file]).good, Store(tmp_path / "elsewhere"))
    assert (len(again.added), len(again.duplicates)) == (0, count)
    theirs = opened(tmp_path, results="elsewhere")
    assert [theirs.status(p) for p in theirs.planned] == [
        benchmark.status(p) for p in benchmark.planned
    ]
    assert {p.trial.key for p in theirs.planned} == {p.trial.key for p in benchmark.planned}
    written = leaderboard.write(theirs)
    assert "tuning_effect.csv" in {each.name for each in written.files}
    first = file.read_bytes()
    exchange.export(theirs, tmp_path / "out")
    assert file.read_bytes() == first


def test_an_export_of_a_part_does_not_replace_the_file(tmp_path: Path) -> None:
    file, *_ = exchange.export(trained(opened(tmp_path)))
    before = file.read_bytes()
    aligned = opened(tmp_path, "recipe.name=aligned")
    for each in aligned.to_do():
        record(aligned, each, 80.0)
    aligned.refresh()
    with pytest.raises(QbenchError, match=r"has 18 trials that are none of tuned as it is now"):
        exchange.export(aligned)
    assert file.read_bytes() == before


def test_a_winner_that_a_stale_score_has_chosen_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = trained(opened(tmp_path))
    assert set(second_stage(benchmark, benchmark.trials())["stale"]) == {""}
    assert benchmark.tuned is not None
    search = benchmark.tuned.searches({})[0]
    key = search.known[0].trial.key
    monkeypatch.setattr(Benchmark, "stale", {key: "it was edited"})
    found = second_stage(benchmark, benchmark.trials())
    marked = found[found["stale"] != ""]
    assert set(marked["stale"]) == {"so is a configuration of its study: it was edited"}
    assert set(marked["label"]) == {search.known[0].label}
    assert set(marked["study"]) == {search.known[0].study}


def test_a_tuned_suite_without_any_trial_has_no_table(tmp_path: Path) -> None:
    benchmark = opened(tmp_path, "methods=[{lsq: {}, bits: [4/4]}]")
    with pytest.raises(QbenchError, match="tuned has no trials"):
        leaderboard.write(benchmark)


def test_comparisons_take_studies_for_what_they_are(tmp_path: Path) -> None:
    mine = trained(opened(tmp_path, "tuning.seeds=2"))
    scores = scores_of(mine.runs, "top1")
    assert mine.tuned is not None
    winners = [study_of(search, scores) for search in mine.tuned.searches(scores)]
    rates = {w.ranking[0].trial.recipe.lr for w in winners if w is not None}
    assert len(rates) == 2  # studies have other winners
    leaderboard.write(mine)
    path = tmp_path / "compared.yaml"
    changes = "\n".join(("tuning: {studies: 2, trials: 2, seeds: 2, validation: 50}",))
    text = SUITE.replace("fp32, dorefa", "dorefa, pact, lsq").replace(
        "1, steps: 2, batch", "1, initialization: scratch, steps: 2, batch"
    )
    path.write_text("\n".join([*text.splitlines()[:-1], changes]), encoding="utf-8")
    of_suite = finished.load(path, tmp_path / "results")
    of_tables = finished.load(mine.folder, tmp_path)
    for found in (of_suite, of_tables):
        assert sorted(found["seed"]) == [1, 1, 1, 2, 2, 2]
        assert found.groupby("label")["training"].nunique().tolist() == [1, 1, 1]
    assert [each.verdict for each in compare(of_suite, of_tables)] == ["same"] * 3
    file, *_ = exchange.export(mine, tmp_path / "out")
    with pytest.raises(QbenchError, match="a trial of a tuned suite, whose studies are not in"):
        finished.load(file, tmp_path)

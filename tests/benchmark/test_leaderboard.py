from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from qbench import registry
from qbench.benchmark import leaderboard
from qbench.benchmark.benchmark import Benchmark
from qbench.report import cost
from qbench.store.mlflow import Store
from tests.helpers.exchanged import BEFORE, SUITE, filled
from tests.helpers.training import train
from tests.helpers.transformers import tiny_vit

MIXED = SUITE.replace("[convnet_tiny]", "[convnet_tiny, alexnet_bn]")


@pytest.fixture
def mixed(tmp_path: Path, elsewhere: Path) -> Benchmark:
    """A suite that is done, with a model that cannot take the images."""
    path = tmp_path / "mixed.yaml"
    path.write_text(MIXED, encoding="utf-8")
    return filled(path, elsewhere, BEFORE)


def test_a_model_that_cannot_take_the_images_costs_no_table(mixed: Benchmark) -> None:
    report = leaderboard.write(mixed, html=True)
    assert report.problems == []
    text = (mixed.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "convnet_tiny on digits" in text
    assert "alexnet_bn cannot take images of 1×8×8" in text
    for name in ("details.md", "details.tex", "tables.tex", "leaderboard.html", "pareto.png"):
        assert mixed.folder / name in report.files


def test_what_cannot_be_read_of_one_trial_is_left_out_of_the_report(
    mixed: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = next(p.trial.key for p in mixed.planned if p.trial.method == "ste")
    broken = mixed.runs[key]
    for name in ("levels", "_history", "text"):
        read = getattr(Store, name)

        def fragile(store: Store, run: object, *more: object, read: object = read) -> object:
            if run is broken:
                raise ValueError("not JSON")
            return read(store, run, *more)  # type: ignore[operator]

        monkeypatch.setattr(Store, name, fragile)
    report = leaderboard.write(mixed, html=True)
    assert sorted(report.problems) == [
        "the curves of STE 2/32 convnet_tiny digits seed 0: ValueError: not JSON",
        "the details of STE 2/32 convnet_tiny digits seed 0: ValueError: not JSON",
        "the levels of ste 2/32 convnet_tiny digits seed 0: ValueError: not JSON",
    ]
    text = (mixed.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "90.05 ± 0.07" in text
    assert "![training curves]" in text
    assert "90.05 ± 0.07" in (mixed.folder / "leaderboard.html").read_text(encoding="utf-8")


def test_a_cost_that_cannot_be_counted_is_named(
    mixed: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise NotImplementedError("an operation")

    monkeypatch.setattr(cost, "prepare", broken)
    report = leaderboard.write(mixed)
    assert "the cost of ste on convnet_tiny: NotImplementedError: an operation" in report.problems
    assert "90.05" in (mixed.folder / "leaderboard.md").read_text(encoding="utf-8")


def test_a_report_says_what_the_data_are(mixed: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"image_size": 64, "classes": 12, "files": "0123456789abcdef"}
    monkeypatch.setattr(mixed.dataset, "identity", lambda: own)
    leaderboard.write(mixed)
    text = (mixed.folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "Data: Digits with image_size 64, classes 12." in text


def test_a_report_doubts_a_baseline_that_a_quantized_network_surpasses(
    small_suite: Path, elsewhere: Path
) -> None:
    benchmark = filled(small_suite, elsewhere, BEFORE | {"fp32": 60.0})
    (table,) = leaderboard.write(benchmark).tables
    assert table.doubts == [
        "Doubtful: full precision of convnet_tiny on digits (60.05 %) is far below STE at 2/32 "
        "(90.05 %)."
    ]


TRANSFORMER = """\
name: transformer
dataset: digits
models: [tiny_vit]
bits: [2/32, 2/4]
methods: [lsq]
seeds: [0]
recipe: {epochs: 1}
"""


def test_a_transformer_is_trained_and_its_row_shows_what_is_quantized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(registry._of_files["models"], "tiny_vit", tiny_vit)
    path = tmp_path / "transformer.yaml"
    path.write_text(TRANSFORMER, encoding="utf-8")
    benchmark = Benchmark.open(path, tmp_path / "results")
    trained: dict[str, bytes | None] = {}
    for planned in benchmark.planned:  # full precision comes first
        found, trained[planned.trial.key] = train(
            planned.trial, trained.get(planned.trial.source or "")
        )
        assert found.status == "done", found.traceback
        benchmark.store.record(found.model_copy(update={"suite": "transformer"}), None)
    benchmark.refresh()
    leaderboard.write(benchmark)
    rows = pd.read_csv(benchmark.folder / "trials.csv").set_index("bits")
    weights, both = rows.loc["2/32"], rows.loc["2/4"]
    assert rows["partly"].isna().all()
    assert weights["w_coverage"] == both["w_coverage"] > 85
    assert both["mac_coverage"] > 85
    assert weights["gbops"] / both["gbops"] > 1

"""Rehearsals and plans, through the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from qbench.data.synthetic import imagenet_like, voc_like
from qbench.suite.rehearsal import rehearsed
from tests.conftest import Qbench, TinyRun
from tests.helpers.suites import load

MakeQbench = Callable[[Path], Qbench]
IMAGENET = """\
name: little
dataset: imagenet
models: [resnet18]
bits: [1/32, 2/2]
methods: [fp32, bwn, lsq]
seeds: [0, 1]
weights: torchvision
recipe: {name: paper, precision: bfloat16, channels_last: true}
published: {paper: "arXiv:1911.09464", table: 2, dataset: imagenet, model: resnet18}
"""


def test_a_rehearsal_tries_every_cell_and_calls_none_a_result(tiny_run: TinyRun) -> None:
    before = {path: path.read_bytes() for path in tiny_run.folder.iterdir()}
    output = tiny_run.qbench("rehearse", tiny_run.suite)
    assert "[8/8]" in output  # of both seeds the first
    folder = tiny_run.qbench.results / "rehearsal" / "tiny"
    assert str(folder / "leaderboard.md") in output.replace("\n", "")
    trials = pd.read_csv(folder / "trials.csv")
    able = trials[trials["status"] != "unsupported"]
    assert set(able["status"]) == {"done"}
    assert set(able["epochs"]) == {3}
    table = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert table.startswith("# Rehearsal, no results: tiny")
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    cells = [cell.strip() for row in rows[1:] for cell in row.strip("| ").split("|")[1:]]
    assert len(cells) == 9
    assert all("(rehearsal)" in cell or cell.startswith("–") for cell in cells)
    assert "**" not in table  # nothing is best
    assert "(rehearsal)" in (folder / "tables.tex").read_text(encoding="utf-8")
    for name in ("details.md", "details.tex"):
        assert "Rehearsal, no results: Accuracy" in (folder / name).read_text(encoding="utf-8")
    results = pd.read_csv(folder / "leaderboard.csv")
    assert set(results["status"]) == {"rehearsal", "unsupported"}
    assert not results["bold"].any()
    assert not list(folder.glob("*.png"))
    # What real runs have stored is as it was, and knows nothing of rehearsals.
    assert {path: path.read_bytes() for path in tiny_run.folder.iterdir()} == before
    keys = {trial["key"] for trial in tiny_run.qbench.plan(tiny_run.suite)}
    assert not keys & set(trials["key"])
    assert "All 8 trials are done" in tiny_run.qbench("rehearse", tiny_run.suite)


@pytest.mark.slow
def test_a_rehearsal_of_imagenet_makes_its_images(tmp_path: Path, qbench_in: MakeQbench) -> None:
    suite = tmp_path / "little.yaml"
    suite.write_text(IMAGENET, encoding="utf-8")
    qbench = qbench_in(tmp_path / "results")
    # Neither data nor weights are there, and neither is needed.
    output = qbench("rehearse", suite, "--set", "methods=[bwn]", "--set", "bits=[1/32]")
    assert "[1/1] BWN 1/32 resnet18 " in output
    folder = tmp_path / "results" / "rehearsal"
    assert (folder / "data" / "imagenet" / "train").is_dir()
    table = (folder / "little" / "leaderboard.md").read_text(encoding="utf-8")
    assert "top-1 accuracy/top-5 accuracy" in table
    assert "*(60.8/83.0)* [" in table  # published, beside


def test_a_plan_tells_what_is_missing_and_what_it_takes(
    tmp_path: Path, qbench_in: MakeQbench
) -> None:
    suite = tmp_path / "little.yaml"
    suite.write_text(IMAGENET, encoding="utf-8")
    qbench = qbench_in(tmp_path / "results")
    qbench.environment["TORCH_HOME"] = str(tmp_path / "torch")
    qbench.environment.pop("QBENCH_DATA", None)
    small = ["--set", "data.image_size=32"]  # so that a step is soon timed
    told = qbench("plan", suite, *small, code=2)
    assert "Missing: imagenet: where is it? Set QBENCH_DATA" in told
    assert "Missing: weights of resnet18: a run downloads 45 MB from https://" in told
    assert "6 trials to train, about" in told
    assert "of disk, of which" in told
    plan = json.loads(qbench("plan", suite, *small, "--json", code=2))
    assert len(plan["missing"]) == 2
    # Each of six trials stores 11.7 million float32 parameters and some statistics.
    assert 6 * 46.7e6 < plan["estimated_bytes"] < 6 * 47e6 + 2 * (os.cpu_count() or 1) * 47e6
    assert plan["estimated_seconds"] > 3600
    assert "imagenet: where is it?" in qbench("run", suite, *small, code=2)


def test_a_run_says_when_given_weights_are_not_there(tmp_path: Path, qbench_in: MakeQbench) -> None:
    imagenet_like.write(tmp_path / "imagenet", classes=2, per_class=4, size=40)
    suite = tmp_path / "little.yaml"
    suite.write_text(IMAGENET, encoding="utf-8")
    qbench = qbench_in(tmp_path / "results")
    changes = ["--set", f"data.root={tmp_path}", "--set", "weights={resnet18: none.pt}"]
    changes += ["--set", "methods=[fp32]"]
    assert "weights of resnet18: there is no file none.pt" in qbench("run", suite, *changes, code=1)


def test_a_detector_is_run_like_any_other_model(tmp_path: Path, qbench_in: MakeQbench) -> None:
    """The suite of Table 4's task that comes with qbench, for a step."""
    voc_like.write(tmp_path / "shapes", train=16, test=4)
    suite = Path(__file__).parents[2] / "suites" / "shapes_detection.yaml"
    changes = ["methods=[ste]", "bits=[2/2]", f"data.root={tmp_path / 'shapes'}"]
    short = ["recipe.epochs=1", "full_precision.epochs=1"]
    words = [word for change in (*changes, *short) for word in ("--set", change)]
    qbench = qbench_in(tmp_path / "results")
    assert "[2/2] STE 2/2 ssd_tiny shapes seed 0: map50_voc07" in qbench("run", suite, *words)
    folder = tmp_path / "results" / "shapes_detection"
    table = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "mAP at IoU 0.5 (VOC2007's 11 points) in % on the test split" in table
    trials = pd.read_csv(folder / "trials.csv")
    assert trials[["map50_voc07", "map50", "map"]].notna().all(axis=None)
    assert (folder / "accuracy_by_bits.svg").exists()
    assert "](detections_ssd_tiny_2-2.png)" in table
    picture = (folder / "detections_ssd_tiny_2-2.svg").read_text(encoding="utf-8")
    assert "<!-- Full precision -->" in picture
    assert "<!-- STE -->" in picture


@pytest.mark.parametrize(("model", "size"), [("resnet18", 64), ("vit_b_32", None)])
def test_images_are_smaller_if_the_network_can_take_them(
    tmp_path: Path, model: str, size: int | None
) -> None:
    suite = load(tmp_path, IMAGENET, f"models=[{model}]", "weights={}", "published=[]")
    data = rehearsed(suite, tmp_path / "data").data
    assert data.get("image_size") == size
    assert Path(data["root"]).is_dir()

"""Means of studies, and the tables of what tuning found."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from qbench.report.studies import comparable, means, tables
from qbench.report.summary import summarise


def finals(label: str, *studies: list[float], status: str = "done", **more: Any) -> pd.DataFrame:
    """Trials of the second stage: one list of accuracies for each study."""
    rows = [
        {
            "key": f"{label}{study}{i}", "method": label, "label": label, "model": "net",
            "dataset": "d", "bits": "2/2", "seed": 1000 * study + 1 + i, "recipe": "tuned",
            "epochs": 3, "status": status, "reason": "", "top1": top1, "study": study,
            "stale": "", "audit": "",
            "values": {"lr": 0.1 * study, "rho": study},
            "options": json.dumps({"rho": study, "scope": "layer"}),
            "training": json.dumps({"lr": 0.1 * study, "epochs": 3, "weight_decay": 0.0}),
            **more,
        }
        for study, tops in enumerate(studies, 1)
        for i, top1 in enumerate(tops)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_study_is_one_row_whatever_its_winner_is() -> None:
    found = means(finals("lsq", [90, 92], [80, 82]))
    assert found["seed"].tolist() == [1, 2]
    assert found["top1"].tolist() == [91, 81]
    assert set(found["options"]) == {'{"scope": "layer"}'}
    assert set(found["training"]) == {'{"epochs": 3}'}
    assert "values" not in found


def test_tests_and_intervals_count_studies() -> None:
    trials = pd.concat([finals("a", [90, 92, 91], [80, 82, 81]), finals("b", [70] * 3, [71] * 3)])
    row = summarise(means(trials)).iloc[0]
    assert (row["n"], row["mean"]) == (2, 86)
    assert round(row["std"], 3) == 7.071  # of 91 and 81


def test_a_study_is_done_once_all_of_its_seeds_are() -> None:
    trials = finals("lsq", [90, 92], [80, 82])
    failed: dict[str, Any] = {"status": "failed", "reason": "it broke", "top1": float("nan")}
    for name, value in failed.items():
        trials.at[3, name] = value
    found = means(trials)
    assert found["status"].tolist() == ["done", "failed"]
    assert found["reason"].tolist() == ["", "it broke"]
    assert summarise(found).iloc[0]["n"] == 1


def test_a_study_is_exported_as_badly_as_the_worst_of_its_seeds() -> None:
    trials = finals("lsq", [90, 92, 91], exported="yes", flips=0.0, onnx_mb=1.0, latency_ratio=2.0)
    worst: dict[str, Any] = {"exported": "red: wrong", "flips": 3.0, "latency_ratio": math.nan}
    for name, value in worst.items():
        trials.at[1, name] = value
    (row,) = means(trials).to_dict("records")
    assert (row["exported"], row["flips"], row["onnx_mb"]) == ("red: wrong", 3, 1)
    assert row["latency_ratio"] == 2


def test_results_are_comparable_if_all_of_their_studies_are_done_and_sound() -> None:
    rows = pd.concat([means(finals(name, [90], [80])) for name in "abcd"], ignore_index=True)
    rows.loc[0, "status"] = "missing"
    rows.loc[3, "stale"] = "its code has changed"
    rows.loc[5, "audit"] = "9 levels"
    assert comparable(rows)["label"].tolist() == ["d", "d"]


def test_an_incomplete_row_has_no_gain() -> None:
    columns = ["label", "model", "bits", "study", "place", "score", "values", "stop_after"]
    configurations = pd.DataFrame([["lsq", "net", "2/2", 1, 1, 90.0, {}, 0]], columns=columns)
    studies = means(finals("lsq", [90, 92], [80, 82]))
    studies.loc[1, "status"] = "missing"
    gain, _ = tables(configurations, studies, {("net", "lsq", "2/2"): 91.5}, "top1")
    assert gain.rows == [["lsq", "2/2", "91.50", "", "", "90.00", "default"]]


def test_tables_show_the_gain_the_winners_and_the_three_best() -> None:
    columns = ["label", "model", "bits", "study", "place", "score", "values", "stop_after"]
    rows = [
        ["lsq", "net", "2/2", study, place, 90.0 + study - place, {"lr": study + 0.1 * place}, 0]
        for study in (1, 2)
        for place in (1, 2)
    ]
    configurations = pd.DataFrame(rows, columns=columns)
    studies = means(finals("lsq", [90, 92], [92, 94]))
    gain, best = tables(configurations, studies, {("net", "lsq", "2/2"): 91.5}, "top1")
    assert gain.rows == [
        ["lsq", "2/2", "91.50", "92.00 ± 1.41", "0.50", "90.50 ± 0.71", "lr 1.1; lr 2.1"]
    ]
    assert "optimistic" in gain.about
    assert best.rows == [["lsq", "2/2", "lr 2.1 (91.00)", "lr 1.1 (90.00)", "lr 2.2 (90.00)"]]


def test_without_aligned_results_there_is_no_gain() -> None:
    columns = ["label", "model", "bits", "study", "place", "score", "values", "stop_after"]
    configurations = pd.DataFrame([["lsq", "net", "2/2", 1, 1, 90.0, {}, 0]], columns=columns)
    gain, best = tables(configurations, means(finals("lsq", [90, 92])), {}, "top1")
    assert gain.rows == [["lsq", "2/2", "", "91.00", "", "90.00", "default"]]
    assert best.rows == [["lsq", "2/2", "default (90.00)", "", ""]]


def test_a_configuration_that_failed_is_neither_a_winner_nor_among_the_best() -> None:
    columns = ["label", "model", "bits", "study", "place", "score", "values", "stop_after"]
    rows = [["lsq", "net", "2/2", 1, 1, math.nan, {"lr": 1}, 0]]
    none, _ = tables(pd.DataFrame(rows, columns=columns), means(finals("lsq", [90])), {}, "top1")
    assert none.rows[0][5:] == ["", ""]
    rows += [["lsq", "net", "2/2", 2, 1, 80.0, {"lr": 2}, 0]]
    gain, best = tables(pd.DataFrame(rows, columns=columns), means(finals("lsq", [90])), {}, "top1")
    assert gain.rows[0][5:] == ["80.00", "lr 2"]
    assert best.rows[0][2:] == ["lr 2 (80.00)", "", ""]


def test_a_stopped_configuration_is_neither_a_winner_nor_among_the_best() -> None:
    columns = ["label", "model", "bits", "study", "place", "score", "values", "stop_after"]
    rows = [
        ["lsq", "net", "2/2", 1, 1, 70.0, {"lr": 1}, 0],
        ["lsq", "net", "2/2", 1, 2, 90.0, {"lr": 2}, 4],
        ["lsq", "net", "2/2", 2, 1, 95.0, {"lr": 3}, 4],  # no other of its study was trained on
    ]
    found = tables(pd.DataFrame(rows, columns=columns), means(finals("lsq", [90])), {}, "top1")
    gain, best = found
    assert gain.rows[0][5:] == ["70.00", "lr 1"]
    assert best.rows[0][2:] == ["lr 1 (70.00)", "", ""]

from __future__ import annotations

import io
import os
from pathlib import Path

import pandas as pd
import pytest

from qbench.errors import QbenchError
from qbench.report import write as report
from qbench.report.figures import accuracy
from qbench.report.presentation import Presentation
from qbench.report.summary import summarise
from tests.helpers.frames import full, trials
from tests.helpers.tables import (
    HISTORIES,
    PRESENTATION,
    rich,
    written,
)


def suite() -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = pd.concat(
        [
            full(98.123456789),
            trials("A", 97.0, 98.0, 99.0, further=1 / 3),
            trials("A", "failed", bits="2/2", reason="lines\nof, text"),
        ],
        ignore_index=True,
    )
    keys = frame.loc[frame["status"] == "done", "key"]
    history = [{"key": key, "epoch": e, "top1": 90.0 + e} for key in keys for e in (1, 2)]
    return frame, pd.DataFrame(history)


def test_every_file_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "suite"
    found = report.write(Presentation("suite", "Low-bit | digits"), *suite(), folder)
    paths = found.files
    assert found.problems == []
    assert [path.name for path in paths] == [
        *("details.md", "leaderboard.tex", "tables.tex", "details.tex"),
        *("leaderboard.csv", "trials.csv", "leaderboard.md"),
        *("accuracy_by_bits.png", "accuracy_by_bits.svg"),
        *("training_curves.png", "training_curves.svg"),
    ]
    assert sorted(folder.iterdir()) == sorted(paths)  # and nothing else is left behind
    for path in paths[:7]:
        text = path.read_bytes().decode()
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert "\r" not in text
    text = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert text.startswith("# Low-bit \\| digits\n\n")
    assert "![accuracy by bits](accuracy_by_bits.png)" in text
    assert "![training curves](training_curves.png)" in text


def test_the_same_trials_give_the_same_bytes(tmp_path: Path) -> None:
    written = [
        [path.read_bytes() for path in report.write(PRESENTATION, *suite(), folder).files]
        for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "a")
    ]
    assert written[0] == written[1] == written[2]


def test_trials_csv_has_every_trial_and_column(tmp_path: Path) -> None:
    frame, histories = suite()
    report.write(PRESENTATION, frame, histories, tmp_path)
    text = (tmp_path / "trials.csv").read_text(encoding="utf-8")
    read = pd.read_csv(io.StringIO(text))
    assert list(read.columns) == list(frame.columns)
    assert list(read["key"]) == list(frame["key"])
    assert ",98.1235," in text
    assert text.splitlines()[-1].endswith('of, text",,,,')


def test_nothing_finished_is_a_table_without_figures(tmp_path: Path) -> None:
    paths = report.write(PRESENTATION, trials("A", "missing"), HISTORIES, tmp_path).files
    assert {path.suffix for path in paths} == {".md", ".tex", ".csv"}
    assert "![" not in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = report.write(PRESENTATION, *suite(), tmp_path).files
    before = {path: path.read_bytes() for path in paths}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        report.write(Presentation("suite", "Other"), *suite(), tmp_path)
    assert {path: path.read_bytes() for path in paths} == before


def test_leaderboard_csv_has_a_row_for_each_result(tmp_path: Path) -> None:
    cells = rich()
    read = pd.read_csv(io.StringIO(written(tmp_path, *cells)["leaderboard.csv"]))
    expected = summarise(pd.concat(cells, ignore_index=True))
    assert list(read) == list(expected)
    assert read["label"].tolist() == expected["label"].tolist()
    assert read["mean"].tolist() == pytest.approx(expected["mean"].tolist())


def two_models() -> pd.DataFrame:
    """A model that was trained, and one that cannot be."""
    return pd.concat(
        [
            full(99.0, 99.5),
            trials("A", 97.0, 98.0),
            trials("B", 96.0, 96.5),
            full("unsupported", "unsupported", model="big", reason="too small"),
            trials("A", "unsupported", "unsupported", model="big", reason="too small"),
        ],
        ignore_index=True,
    )


def test_a_model_that_cannot_be_trained_has_a_table_of_dashes(tmp_path: Path) -> None:
    found = report.write(PRESENTATION, two_models(), HISTORIES, tmp_path)
    assert found.problems == []
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "97.50 ± 0.71" in text
    assert "| A      | – [1] |" in text
    assert "the same recipe. Full precision: cannot be run." in text
    assert "big" not in (tmp_path / "details.md").read_text(encoding="utf-8")


def test_a_figure_that_cannot_be_drawn_of_one_method_is_drawn_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn = accuracy.accuracy_by_bits, []

    def fragile(rows: pd.DataFrame, folder: Path) -> list[Path]:
        if "B" in set(rows["label"]):
            raise IndexError("out of range")
        drawn.append(set(rows["label"]))
        return draw(rows, folder)

    monkeypatch.setattr(accuracy, "accuracy_by_bits", fragile)
    found = report.write(PRESENTATION, two_models(), HISTORIES, tmp_path)
    assert found.problems == [
        "the figure accuracy_by_bits of B on net, digits: IndexError: out of range"
    ]
    assert drawn[-1] == {"Full precision", "A"}
    assert tmp_path / "accuracy_by_bits.png" in found.files
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert r"- the figure accuracy_by_bits of B on net, digits: IndexError: out of range" in text


def test_a_figure_that_cannot_be_drawn_leaves_no_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write(PRESENTATION, two_models(), HISTORIES, tmp_path)
    assert (tmp_path / "accuracy_by_bits.png").exists()

    def broken(*_: object) -> list[Path]:
        raise IndexError("out of range")

    monkeypatch.setattr(accuracy, "accuracy_by_bits", broken)
    found = report.write(PRESENTATION, two_models(), HISTORIES, tmp_path)
    assert found.problems == ["the figure accuracy_by_bits: IndexError: out of range"]
    assert not (tmp_path / "accuracy_by_bits.png").exists()


def test_trials_that_cannot_be_summarised_are_left_out_and_named(tmp_path: Path) -> None:
    frame = pd.concat([two_models(), trials("C", 50.0, 60.0, training="{")], ignore_index=True)
    frame["training"] = frame["training"].fillna("{}")
    found = report.write(PRESENTATION, frame, HISTORIES, tmp_path, evidence={})
    (problem,) = found.problems
    assert problem.startswith("the summary of C on net, digits: JSONDecodeError")
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "97.50 ± 0.71" in text
    assert "| C" not in text
    assert "97.50 ± 0.71" in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert "C" in pd.read_csv(tmp_path / "trials.csv")["label"].tolist()


def test_trials_of_which_nothing_can_be_made_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match="no table can be made: the summary: JSONDecodeError"):
        report.write(PRESENTATION, trials("A", 50.0, training="{"), HISTORIES, tmp_path)

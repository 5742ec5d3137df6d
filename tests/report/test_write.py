from __future__ import annotations

import io
import os
from pathlib import Path

import pandas as pd
import pytest

from qbench.report import write as report
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
    paths = report.write(Presentation("suite", "Low-bit | digits"), *suite(), folder)
    assert [path.name for path in paths] == [
        *("leaderboard.md", "details.md", "leaderboard.tex", "tables.tex", "details.tex"),
        *("leaderboard.csv", "trials.csv"),
        *("accuracy_by_bits.png", "accuracy_by_bits.svg"),
        *("training_curves.png", "training_curves.svg"),
    ]
    assert sorted(folder.iterdir()) == sorted(paths)  # and nothing else is left behind
    for path in paths[:7]:
        text = path.read_bytes().decode()
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert "\r" not in text
    text = paths[0].read_text(encoding="utf-8")
    assert text.startswith("# Low-bit \\| digits\n\n")
    assert "![accuracy by bits](accuracy_by_bits.png)" in text
    assert "![training curves](training_curves.png)" in text


def test_the_same_trials_give_the_same_bytes(tmp_path: Path) -> None:
    written = [
        [path.read_bytes() for path in report.write(PRESENTATION, *suite(), folder)]
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
    assert text.splitlines()[-1].endswith('of, text",,,')


def test_nothing_finished_is_a_table_without_figures(tmp_path: Path) -> None:
    paths = report.write(PRESENTATION, trials("A", "missing"), HISTORIES, tmp_path)
    assert {path.suffix for path in paths} == {".md", ".tex", ".csv"}
    assert "![" not in paths[0].read_text(encoding="utf-8")


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = report.write(PRESENTATION, *suite(), tmp_path)
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

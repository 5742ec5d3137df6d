from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qbench import leaderboard


def trial(
    label: str, bits: str, seed: int, top1: float = float("nan"), **other: Any
) -> dict[str, Any]:
    row = {
        "key": f"{label}{bits}{seed}",
        "method": label.lower(),
        "label": label,
        "options": "{}",
        "model": "net",
        "dataset": "digits",
        "bits": bits,
        "w_bits": 1,
        "a_bits": 32,
        "seed": seed,
        "recipe": "aligned",
        "epochs": 20,
        "status": "done",
        "reason": "",
        "top1": top1,
        "top5": 100.0,
        "train_seconds": 1.0,
        "audit": "",
    }
    return {**row, **other}


def seeds(label: str, bits: str, *top1: float, **other: Any) -> list[dict[str, Any]]:
    return [trial(label, bits, seed, value, **other) for seed, value in enumerate(top1)]


def frame(*rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row for group in rows for row in group])


def only_table(trials: pd.DataFrame) -> leaderboard.Table:
    (table,) = leaderboard.tables(trials)
    return table


def cells(trials: pd.DataFrame) -> dict[tuple[str, str], leaderboard.Cell]:
    table = only_table(trials)
    return {
        (label, bits): cell
        for label, row in table.rows
        for bits, cell in zip(table.columns, row, strict=True)
    }


def test_a_cell_is_the_mean_and_the_sample_deviation_over_seeds() -> None:
    found = cells(frame(seeds("A", "1/32", 90, 91, 92), seeds("B", "1/32", 80.5)))
    assert found["A", "1/32"].text == "91.00 ± 1.00"
    assert found["B", "1/32"].text == "80.50"


def test_the_best_of_a_column_is_marked_and_so_is_its_equal() -> None:
    found = cells(
        frame(seeds("A", "1/32", 90, 92), seeds("B", "1/32", 91.001), seeds("C", "1/32", 90))
    )
    assert [label for (label, _), cell in found.items() if cell.best] == ["A", "B"]


def test_rows_and_columns_keep_the_suite_s_order() -> None:
    table = only_table(frame(seeds("B", "2/32", 1), seeds("B", "1/32", 1), seeds("A", "2/32", 1)))
    assert table.columns == ["2/32", "1/32"]
    assert [label for label, _ in table.rows] == ["B", "A"]


def test_what_cannot_be_trained_is_a_dash_with_a_footnote() -> None:
    refused = {"status": "unsupported", "reason": "its weights have 1 bit"}
    nan = float("nan")
    trials = frame(seeds("A", "1/32", 90), seeds("A", "2/32", nan, **refused))
    found = cells(trials)
    assert found["A", "2/32"] == leaderboard.Cell("–", (1,))
    assert only_table(trials).notes == ["its weights have 1 bit"]


def test_one_reason_has_one_footnote() -> None:
    refused = {"status": "unsupported", "reason": "no"}
    nan = float("nan")
    trials = frame(*(seeds(label, "1/32", nan, **refused) for label in "ABC"))
    assert only_table(trials).notes == ["no"]


def test_failed_seeds_are_told_and_never_best() -> None:
    trials = frame(
        seeds("A", "1/32", 99, 98),
        [trial("A", "1/32", 2, status="failed", reason="the training loss is nan\nmore")],
        seeds("B", "1/32", 90, 90, 90),
    )
    found = cells(trials)
    assert found["A", "1/32"].text == "98.50 ± 0.71"
    assert not found["A", "1/32"].best
    assert found["B", "1/32"].best
    assert only_table(trials).notes == ["1 of 3 seeds failed: the training loss is nan"]


def test_a_cell_whose_every_seed_failed_says_so() -> None:
    nan = float("nan")
    assert cells(frame(seeds("A", "1/32", nan, status="failed")))["A", "1/32"].text == "failed"


def test_a_cell_not_run_yet_says_so() -> None:
    nan = float("nan")
    trials = frame(seeds("A", "1/32", nan, nan, status="missing"))
    assert cells(trials)["A", "1/32"].text == "…"
    assert only_table(trials).notes == ["2 of 2 seeds not run yet"]


def test_a_method_that_is_not_k_bit_is_marked_and_never_best() -> None:
    trials = frame(
        seeds("A", "1/32", 99, audit="0.weight has 9 levels, 2 promised"), seeds("B", "1/32", 50)
    )
    found = cells(trials)
    assert not found["A", "1/32"].best
    assert found["B", "1/32"].best
    assert only_table(trials).notes == ["not k-bit: 0.weight has 9 levels, 2 promised"]


def test_the_caption_has_the_full_precision_accuracy_and_the_recipe() -> None:
    full = seeds("Full precision", "32/32", 98, 99, method="fp32")
    caption = only_table(frame(full, seeds("A", "1/32", 90, 91))).caption
    assert "full precision: 98.50 ± 0.71 (n = 2)" in caption
    assert "the same recipe (20 epochs)" in caption
    assert "over 2 seeds" in caption


def test_full_precision_alone_is_a_table_too() -> None:
    found = cells(frame(seeds("Full precision", "32/32", 98, method="fp32")))
    assert found["Full precision", "32/32"].text == "98.00"


def test_each_model_has_its_own_table() -> None:
    found = leaderboard.tables(frame(seeds("A", "1/32", 1), seeds("A", "1/32", 2, model="other")))
    assert [(t.model, t.rows[0][1][0].text) for t in found] == [("net", "1.00"), ("other", "2.00")]


NASTY = r"a_b & 50% #1 {x} $y$ ~^ \n <b> | *c* é ± 漢"


def test_markdown_escapes_what_users_name() -> None:
    trials = frame(seeds(NASTY, "1/32", 90))
    text = leaderboard.to_markdown("T", leaderboard.tables(trials), [])
    assert r"a_b & 50% #1 {x} $y$ ~^ \\n &lt;b&gt; \| \*c\* é ± 漢" in text


def test_markdown_is_aligned_as_plain_text() -> None:
    trials = frame(seeds("A", "1/32", 90, 91), seeds("Longer name", "3(±4)/32", 80))
    text = leaderboard.to_markdown("T", leaderboard.tables(trials), [])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    assert "**90.50 ± 0.71**" in rows[2]


def test_latex_escapes_what_users_name() -> None:
    trials = frame(seeds(NASTY, "1/32", 90))
    text = leaderboard.to_latex("t", "T", only_table(trials))
    assert (
        r"a\_b \& 50\% \#1 \{x\} \$y\$ \textasciitilde{}\textasciicircum{} "
        r"\textbackslash{}n $<$b$>$ | *c* é $\pm$ ?"
    ) in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert r"\textbf{90.00}" in text


def test_csv_has_methods_down_and_widths_across() -> None:
    trials = frame(seeds("A", "1/32", 90, 92), seeds("A", "2/32", 80))
    assert leaderboard.to_csv(leaderboard.tables(trials)) == (
        "dataset,model,method,1/32,2/32\ndigits,net,A,91.00 ± 1.41,80.00\n"
    )


@pytest.fixture
def trials() -> pd.DataFrame:
    full = seeds("Full precision", "32/32", 98, 99, method="fp32")
    nan = float("nan")
    refused = {"status": "unsupported", "reason": "no"}
    return frame(
        full,
        seeds("A", "1/32", 90, 91),
        seeds("A", "2/2", 80, 100),
        seeds("B", "1/32", 20, 30),
        seeds("B", "2/2", nan, nan, **refused),
    )


def histories(trials: pd.DataFrame) -> pd.DataFrame:
    done = trials[trials["status"] == "done"]
    rows = [
        {"key": key, "epoch": epoch, "top1": top1 - 4 + epoch, "train_loss": 1.0}
        for key, top1 in zip(done["key"], done["top1"], strict=True)
        for epoch in range(1, 5)
    ]
    return pd.DataFrame(rows, columns=["key", "epoch", "top1", "train_loss"])


def test_writing_again_gives_the_same_bytes(trials: pd.DataFrame, tmp_path: Path) -> None:
    first = leaderboard.write("s", "S", trials, histories(trials), tmp_path / "1")
    again = leaderboard.write("s", "S", trials, histories(trials), tmp_path / "2")
    assert [path.name for path in first] == [
        *("leaderboard.md", "leaderboard.tex", "leaderboard.csv", "trials.csv"),
        *("accuracy_by_bits.png", "accuracy_by_bits.svg"),
        *("training_curves.png", "training_curves.svg"),
    ]
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    assert {path.name for path in (tmp_path / "1").iterdir()} == {path.name for path in first}


def test_trials_csv_has_every_trial_and_column(trials: pd.DataFrame, tmp_path: Path) -> None:
    leaderboard.write("s", "S", trials, histories(trials), tmp_path)
    read = pd.read_csv(tmp_path / "trials.csv", keep_default_na=False, na_values={"top1": [""]})
    assert read.columns.tolist() == trials.columns.tolist()
    assert read["top1"].tolist()[:4] == [98, 99, 90, 91]
    assert read["top1"].isna().sum() == 2


def test_nothing_finished_makes_tables_without_figures(tmp_path: Path) -> None:
    nan = float("nan")
    waiting = frame(seeds("A", "1/32", nan, status="missing"))
    files = leaderboard.write("s", "S", waiting, histories(waiting), tmp_path)
    assert [path.suffix for path in files] == [".md", ".tex", ".csv", ".csv"]

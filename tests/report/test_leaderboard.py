from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pandas as pd
import pytest

from qbench.report import write as report
from qbench.report.presentation import Presentation
from qbench.report.summary import summarise
from qbench.report.tables.latex import to_latex
from qbench.report.tables.markdown import to_markdown
from qbench.report.tables.table import ResultsTable
from qbench.report.tables.table import tables as tables_of
from tests.helpers.frames import full, texts, trials

PRESENTATION = Presentation("suite", "Title")

HISTORIES = pd.DataFrame(columns=["key", "epoch", "train_loss", "top1", "lr"])


def only(*cells: pd.DataFrame) -> ResultsTable:
    frame = pd.concat(cells, ignore_index=True)
    (found,) = tables_of(PRESENTATION, frame, summarise(frame))
    return found


def best(found: ResultsTable) -> list[tuple[str, str]]:
    return [
        (label, bits)
        for label, cells in found.rows
        for bits, cell in zip(found.columns, cells, strict=True)
        if cell.best
    ]


def markdown(found: ResultsTable) -> str:
    return to_markdown("Title", [found])


def latex(found: ResultsTable) -> str:
    return to_latex("suite", "Title", [found])


def test_a_cell_is_the_mean_and_the_sample_deviation() -> None:
    found = only(trials("A", 97.0, 98.0, 99.0), trials("B", 90.0, 91.0))
    assert texts(found) == {"A": ["98.00 ± 1.00"], "B": ["90.50 ± 0.71"]}


def test_one_seed_has_no_deviation() -> None:
    found = only(trials("A", 97.224), full(98.6))
    assert texts(found) == {"A": ["97.22"]}
    assert "one seed (n = 1)" in found.caption
    assert "Full precision: 98.60 (n = 1)." in found.caption


def test_rows_and_columns_are_in_the_order_of_the_suite() -> None:
    found = only(
        trials("Z", 1.0, bits="2/2"),
        trials("Z", 2.0, bits="1/32"),
        trials("A", 3.0, bits="1/32"),
    )
    assert found.columns == ["2/2", "1/32"]
    assert texts(found) == {"Z": ["1.00", "2.00"], "A": ["", "3.00"]}


def test_the_caption_says_what_the_numbers_are() -> None:
    found = only(full(98.45, 98.61, 98.77), trials("A", 97.0, 98.0, 99.0))
    assert found.caption == (
        "net on digits: top-1 accuracy in % on the test split, of the hard-quantized network "
        "after the last epoch, mean ± standard deviation over n = 3 seeds; recipe aligned: every "
        "method trained by the same recipe, 20 epochs. Full precision: 98.61 ± 0.16 (n = 3)."
    )


def test_the_caption_names_the_papers_recipes() -> None:
    assert (
        "recipe paper: each method's published recipe."
        in only(trials("A", 97.0, recipe="paper")).caption
    )


def test_published_numbers_stand_beside_and_are_marked() -> None:
    found = only(
        trials("A", 99.0, published="60.9", source="net on images (a paper, Table 5)"),
        trials("B", 98.0, published="99.5", source="net on images (a paper, Table 5)"),
        trials("C", 97.0, published="", source=""),
        trials("C", 96.0, bits="2/32", published="", source=""),
    )
    assert found.columns == ["1/32", "2/32", "1/32 published"]
    assert texts(found) == {
        "A": ["99.00", "", "60.9"],
        "B": ["98.00", "", "99.5"],
        "C": ["97.00", "96.00", ""],
    }
    assert not any(cell.best for _, cells in found.rows for cell in cells)
    assert [cell.published for cell in found.rows[0][1]] == [False, False, True]
    assert found.notes == ["published, not run here: net on images (a paper, Table 5)"]
    assert "*60.9* [1]" in markdown(found)
    assert r"\textit{60.9}\textsuperscript{1}" in latex(found)


def test_without_published_numbers_there_is_no_column_for_them() -> None:
    found = only(trials("A", 99.0, published="", source=""))
    assert found.columns == ["1/32"]


def test_a_table_says_what_its_rows_were_run_with() -> None:
    recipe = '{{"lr": {}, "schedule": "cosine", "gamma": 0.1, "clip": null, "momentum": 0.9}}'
    options = '{{"rate": 5.0, "kind": "{}"}}'
    found = only(
        full(99.0, options="{}", training='{"lr": 1.0}'),
        trials("A", 9.0, method="m", options=options.format("x"), training=recipe.format(0.2)),
        trials("B", 9.0, method="m", options=options.format("y"), training=recipe.format(0.1)),
    )
    assert found.settings == [
        "Recipe: schedule = cosine, momentum = 0.9",
        "Every row: rate = 5",
        "A: kind = x, lr = 0.2",
        "B: kind = y, lr = 0.1",
    ]
    assert "- B: kind = y, lr = 0.1" in markdown(found)
    assert "Settings. Recipe: schedule = cosine, momentum = 0.9; Every row: r" in latex(found)


def test_a_method_that_is_not_trained_is_named_and_has_no_recipe() -> None:
    recipe = '{"lr": 0.1, "epochs": 5}'
    found = only(
        trials("A", 9.0, method="m", options="{}", training=recipe, epochs=5),
        trials("B", 9.0, method="n", options='{"p": 2}', training='{"epochs": 0}', epochs=0),
    )
    assert found.settings == ["Recipe: lr = 0.1, epochs = 5", "B: p = 2"]
    assert "5 epochs; calibrated only, without training: B" in found.caption


def test_settings_are_told_apart_by_method() -> None:
    found = only(
        trials("A", 9.0, method="m", options='{"phases": [1.0, 0.5], "on": true}', training="{}"),
        trials("B", 9.0, method="n", options="{}", training="{}"),
        trials("C", 9.0, method="o", options='{"levels": null}', training="{}"),
    )
    assert found.settings == ["A: phases = (1, 0.5), on = true", "C: levels = null"]


def test_full_precision_that_has_not_finished_has_no_number() -> None:
    found = only(full("missing"), trials("A", "missing"))
    assert "Full precision: not finished (n = 0)." in found.caption


def test_full_precision_is_a_row_where_it_has_a_column() -> None:
    found = only(full(98.0), trials("A", 97.0), trials("A", 97.5, bits="32/32"))
    assert texts(found) == {"Full precision": ["", "98.00"], "A": ["97.00", "97.50"]}
    assert texts(only(full(98.0))) == {"Full precision": ["98.00"]}


def test_the_best_of_a_width_is_bold_where_it_is_told_from_all_others() -> None:
    found = only(
        trials("A", 90.0, 91.0, 92.5),
        trials("A", 80.0, 81.0, 82.0, bits="2/2"),
        trials("B", 90.5, 90.8, 92.2),
        trials("B", 90.0, 90.5, 92.0, bits="2/2"),
        trials("C", 50.0, 51.5, 52.0),
    )
    assert best(found) == [("B", "2/2")]  # at 1/32 A and B tie
    assert "**90.83 ± 1.04**" in markdown(found)
    assert r"\textbf{90.83 $\pm$ 1.04}" in latex(found)
    assert "51.17 ± 1.04 †" in markdown(found)
    assert r"51.17 $\pm$ 1.04\,$^\dagger$" in latex(found)
    assert "Bold: the best of its width, where a paired t-test" in found.caption
    assert "†: worse than the best" in found.caption


def test_one_seed_tests_nothing_and_nothing_is_bold() -> None:
    found = only(trials("A", 90.0), trials("B", 50.0))
    assert best(found) == []
    assert "With one seed no difference is tested, and none is bold." in found.caption
    assert "Bold:" not in found.caption


@pytest.mark.parametrize(
    "flawed",
    [
        trials("A", 99.0, "failed", 99.5, reason="broke"),
        trials("A", 99.0, "missing", 99.5),
        trials("A", 99.0, 99.5, 99.2, audit="9 levels, 4 promised"),
    ],
    ids=["a seed failed", "a seed is missing", "not k-bit"],
)
def test_a_flawed_cell_is_never_the_best(flawed: pd.DataFrame) -> None:
    others = trials("B", 50.0, 51.0, 52.5), trials("C", 10.0, 11.2, 12.1)
    assert best(only(flawed, *others)) == [("B", "1/32")]
    assert best(only(flawed)) == []


def test_a_row_with_another_protocol_is_marked() -> None:
    recipe = '{"lr": 0.1, "epochs": 20}'
    rows = [trials(name, 9.0, training=recipe, options="{}") for name in "AB"]
    found = only(*rows, trials("C", 9.0, training='{"lr": 0.5, "epochs": 20}', options="{}"))
    assert found.apart == {"C"}
    assert "| C ‡" in markdown(found)
    assert r"C\,$^\ddagger$ &" in latex(found)
    assert "‡: its protocol is not that of most rows." in found.caption


def test_a_cell_a_method_cannot_do_is_a_dash_with_its_reason() -> None:
    found = only(trials("A", "unsupported", "unsupported", reason="weights of 1 bit only"))
    assert texts(found) == {"A": ["–"]}
    assert found.notes == ["weights of 1 bit only"]
    assert "– [1] |" in markdown(found)
    assert "\n1. weights of 1 bit only\n" in markdown(found)
    assert r"\textendash{}\textsuperscript{1}" in latex(found)
    assert r"\textsuperscript{1}~weights of 1 bit only" in latex(found)


def test_footnotes_are_numbered_in_reading_order_and_shared() -> None:
    found = only(
        trials("A", "unsupported", reason="one"),
        trials("B", "unsupported", reason="two", bits="1/32"),
        trials("A", "unsupported", reason="three", bits="2/2"),
        trials("B", "unsupported", reason="one", bits="2/2"),
    )
    assert found.notes == ["one", "three", "two"]
    assert [[cell.notes for cell in cells] for _, cells in found.rows] == [
        [(1,), (2,)],
        [(3,), (1,)],
    ]


def test_failed_seeds_are_left_out_and_told() -> None:
    found = only(trials("A", 97.0, "failed", 99.0, reason="loss is NaN\nTraceback …"))
    assert texts(found) == {"A": ["98.00 ± 1.41 (n = 2)"]}
    assert found.notes == ["1 of 3 seeds failed: loss is NaN"]


def test_each_reason_of_failure_is_told() -> None:
    found = only(
        trials("A", "failed", "failed", reason="out of memory"),
        trials("A", "failed", reason="loss is NaN"),
    )
    assert texts(found) == {"A": ["failed"]}
    assert found.notes == ["2 of 3 seeds failed: out of memory", "1 of 3 seeds failed: loss is NaN"]


def test_a_failure_without_a_reason_is_a_failure() -> None:
    assert texts(only(trials("A", "failed"))) == {"A": ["failed"]}


@pytest.mark.parametrize(
    ("seeds", "text", "note"),
    [
        (["missing", "missing"], "…", "not run yet"),
        ([97.0, "missing"], "97.00 (n = 1)", "1 of 2 seeds run"),
    ],
)
def test_what_has_not_run_is_told(seeds: list[float | str], text: str, note: str) -> None:
    found = only(trials("A", *seeds))
    assert texts(found) == {"A": [text]}
    assert found.notes == [note]


def test_what_is_not_k_bit_is_told() -> None:
    found = only(trials("A", 97.0, 97.0, audit="body.0.weight has 9 levels, 4 promised"))
    assert texts(found) == {"A": ["97.00 ± 0.00"]}
    assert found.notes == ["not k-bit: body.0.weight has 9 levels, 4 promised"]


def test_what_is_stale_is_told() -> None:
    found = only(trials("A", 97.0, 98.0, stale="its file has changed"))
    assert found.notes == ["stale: its file has changed"]


def test_each_model_has_a_table() -> None:
    frame = pd.concat([trials("A", 97.0, model="big"), trials("A", 90.0, model="a_small")])
    found = tables_of(PRESENTATION, frame, summarise(frame))
    assert [table.name for table in found] == ["big", "a_small"]
    assert to_latex("s", "T", found).count(r"\begin{table}") == 2
    assert "tab:s-digits-a-small" in to_latex("s", "T", found)


def test_markdown_reads_as_plain_text() -> None:
    found = only(
        trials("A", 97.0, 98.0, 99.0, bits="3(±4)/32"),
        trials("Quantization Networks (temperature_rate=10)", 7.0, "failed", bits="3(±4)/32"),
    )
    rows = [line for line in markdown(found).splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    assert "| Quantization Networks (temperature_rate=10) |" in rows[3]


def test_markdown_is_escaped() -> None:
    label, reason = "a|b *c* <d> _e_ f_g `h` [i](j) &lt; $k$", "\x1b[31m__init__ | broke\x1b[0m"
    text = markdown(only(trials(label, 1.0, "failed", reason=reason)))
    assert r"a\|b \*c\* \<d\> \_e\_ f_g \`h\` \[i\](j) \&lt; \$k\$" in text
    assert r"\_\_init\_\_ \| broke" in text
    assert "\x1b" not in text
    cells = re.split(r"(?<!\\)\|", next(line for line in text.splitlines() if "broke" not in line))
    assert len(cells) == 1
    assert all(
        len(re.split(r"(?<!\\)\|", line)) == 4 for line in text.splitlines() if line[:1] == "|"
    )


def test_latex_is_escaped() -> None:
    label = r"50% of_a & #b $c {d} ~e ^f \g <h> |i| [j] *k* --l"
    text = latex(only(trials(label, 1.0)))
    assert (
        r"50\% of\_a \& \#b \$c \{d\} \textasciitilde{}e \textasciicircum{}f \textbackslash{}g "
        r"\textless{}h\textgreater{} \textbar{}i\textbar{} {[}j{]} {*}k{*} -{}-l & "
    ) in text


def test_latex_is_plain_ascii() -> None:
    text = latex(only(trials("α-Lê “ï” … – ± × → 量", 1.0, 2.0)))
    assert text.isascii()
    assert (
        r"$\alpha$-L\^{e} \textquotedblleft{}\"{i}\textquotedblright{} \textellipsis{} "
        r"\textendash{} $\pm$ $\times$ $\to$ (U+91CF) & 1.50 $\pm$ 0.71 \\"
    ) in text
    assert text.count("{") == text.count("}")


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


def test_settings_are_told_apart_by_width_where_a_row_has_several() -> None:
    def cell(bits: str, epochs: int) -> pd.DataFrame:
        training = f'{{"epochs": {epochs}}}'
        return trials("A", 90.0, bits=bits, epochs=epochs, training=training, options='{"x": 1}')

    found = only(cell("1/32", 10), cell("2/32", 20), cell("3/32", 20))
    assert [label for label, _ in found.rows] == ["A"]
    assert found.settings == [
        "Every row: x = 1",
        "A at 1/32: epochs = 10",
        "A at 2/32, 3/32: epochs = 20",
    ]

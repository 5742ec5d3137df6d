from __future__ import annotations

import pandas as pd
import pytest

from qbench.report.presentation import Presentation
from qbench.report.summary import summarise
from qbench.report.tables.latex import to_latex
from qbench.report.tables.markdown import to_markdown
from qbench.report.tables.table import tables as tables_of
from tests.helpers.frames import full, texts, trials
from tests.helpers.tables import (
    PRESENTATION,
    arranged,
    best,
    grid,
    latex,
    markdown,
    only,
)


def test_a_cell_is_the_mean_and_the_sample_deviation() -> None:
    found = only(trials("A", 97.0, 98.0, 99.0), trials("B", 90.0, 91.0))
    assert texts(found) == {"A": ["98.00 ± 1.00"], "B": ["90.50 ± 0.71"]}


def test_rows_and_columns_are_in_the_order_of_the_suite() -> None:
    found = only(
        trials("Z", 1.0, bits="2/2"),
        trials("Z", 2.0, bits="1/32"),
        trials("A", 3.0, bits="1/32"),
    )
    assert found.columns == ["2/2", "1/32"]
    assert texts(found) == {"Z": ["1.00", "2.00"], "A": ["", "3.00"]}


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
    assert "Bold: the best of its bit-widths, where a moderated paired t-test" in found.caption
    assert "†: not a candidate for the best" in found.caption


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
    assert "‡: its protocol differs from that of most rows." in found.caption


def test_a_cell_a_method_cannot_do_is_a_dash_with_its_reason() -> None:
    found = only(trials("A", "unsupported", "unsupported", reason="weights of 1 bit only"))
    assert texts(found) == {"A": ["–"]}
    assert found.notes == ["weights of 1 bit only"]
    assert "– [1] |" in markdown(found)
    assert "\n1. weights of 1 bit only\n" in markdown(found)
    assert r"\textendash{}\textsuperscript{1}" in latex(found)
    assert r"\item[1] weights of 1 bit only" in latex(found)


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


def test_of_a_tuned_suite_studies_are_counted() -> None:
    found = only(trials("A", 97.0, "missing", "failed", reason="it broke", recipe="tuned"))
    assert found.notes == ["1 of 3 studies failed: it broke", "2 of 3 studies run"]


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
    assert to_latex("s", "T", found).count(r"\begin{table*}") == 2
    assert "tab:s-digits-a-small" in to_latex("s", "T", found)


def test_models_go_across_where_the_suite_says_so() -> None:
    found = arranged(*grid(), columns="model")
    assert [table.name for table in found] == ["2/2", "1/1"]
    assert found[0].columns == ["big", "small"]
    assert texts(found[0]) == {
        "Full precision": ["99.00", "89.00"],
        "A": ["90.00", "80.00"],
        "B": ["80.00", "70.00"],
    }
    assert found[0].caption.startswith("2/2 on digits: top-1 accuracy")


def test_widths_go_down_and_methods_across() -> None:
    found = arranged(*grid(), rows="bits", columns="method")
    assert [table.name for table in found] == ["big", "small"]
    assert found[0].corner == "bits"
    assert texts(found[0]) == {"2/2": ["90.00", "80.00"], "1/1": ["85.00", "75.00"]}


def test_models_are_blocks_of_one_table() -> None:
    (found,) = arranged(*grid(), third="blocks")
    assert found.blocks == {
        0: "big, full precision 99.00 (n = 1)",
        2: "small, full precision 89.00 (n = 1)",
    }
    assert [cells[0].text for _, cells in found.rows] == ["90.00", "80.00", "80.00", "70.00"]
    text = to_markdown("T", [found])
    assert text.index("*big, full") < text.index("| A ") < text.index("*small, full")
    assert r"\multicolumn{3}{l}{\emph{small, full precision 89.00 (n = 1)}}" in (
        to_latex("s", "T", [found])
    )


def test_published_numbers_stay_in_their_block() -> None:
    claim = trials("A", 90.0, model="big", published="91.5", source="a paper")
    (found,) = arranged(claim, trials("A", 80.0, model="small", published=""), third="blocks")
    assert found.columns == ["1/32", "1/32 published"]
    assert [cells[1].text for _, cells in found.rows] == ["91.5", ""]


def test_a_cell_shows_the_metrics_that_the_suite_names() -> None:
    first, _ = arranged(*grid(), cell="top5/top1")
    assert texts(first)["A"] == ["91.00/90.00", "86.00/85.00"]
    assert "top-5 accuracy/top-1 accuracy in %" in first.caption


def test_a_cell_names_the_seeds_that_collapsed() -> None:
    cells = trials("A", 80.0, 81.0, 10.0), trials("B", 79.0, 80.0, 81.0)
    found = only(full(99.0, 99.0, 99.0), *cells)
    assert found.notes == ["far below the other seeds: seed 2 (10.00)"]


def test_a_cell_says_whose_function_it_is_too() -> None:
    cells = [trials(name, 80.0, 81.0).assign(test_loss=[0.5, 0.6]) for name in "AB"]
    found = only(full(99.0, 99.0, 99.0), *cells)
    assert found.notes == ["the same function as A: equal in every seed"]


def test_a_table_says_how_finely_it_resolves() -> None:
    found = only(full(99.0, 99.0), trials("A", 80.0, 81.0), trials("B", 75.0, 77.1))
    assert "Differences that n = 2 seeds find with a power of 80 %" in found.caption
    assert "1/32 " in found.marks[-1]


def test_the_mark_of_a_worse_row_names_its_test_without_a_bold_one() -> None:
    found = only(
        trials("A", 90.0, 91.0, 92.5), trials("B", 90.5, 90.8, 92.2), trials("C", 50.0, 51.5, 52.0)
    )
    assert best(found) == []
    assert "Bold" not in found.caption
    assert (
        "†: not a candidate for the best of its bit-widths (moderated paired t-test over seeds"
        in found.caption
    )


def test_of_two_rows_neither_differs_from_most() -> None:
    found = only(trials("A", 90.0, epochs=5), trials("B", 90.5, epochs=9))
    assert found.apart == set()
    assert "‡" not in found.caption


def test_a_number_published_for_another_setting_is_in_parentheses() -> None:
    unlike = "published for imagenet, not digits"
    found = only(
        trials("A", 99.0, published="60.9", source="net on images", claim_unlike=unlike),
        trials("B", 98.0, published="99.5", source="net on digits", claim_unlike=""),
    )
    assert [cells[1].text for _, cells in found.rows] == ["(60.9)", "99.5"]
    assert f"published, not run here: net on images; not comparable: {unlike}" in found.notes
    assert found.caption.endswith(
        "Published numbers in parentheses are for another setting than that of this table."
    )


@pytest.mark.parametrize(
    ("networks", "sentence"),
    [
        (("yes", "yes", ""), "The network beside each published number is the one that it was "),
        (("no: x", "no: y", ""), "No network beside a published number is the one that it was "),
        (
            ("yes", "no: its code is not public", "no: its code is not public"),
            "but for: A 2/32, B 1/32 (its code is not public).",
        ),
        (("no: x", "yes", "no: y"), "but for: A 1/32 (x); B 1/32 (y)."),
    ],
)
def test_a_caption_says_which_networks_are_those_of_published_numbers(
    networks: tuple[str, str, str], sentence: str
) -> None:
    found = only(
        trials("A", 99.0, published="60.9", source="", paper_network=networks[0]),
        trials("A", 99.0, published="60.9", source="", bits="2/32", paper_network=networks[1]),
        trials("B", 99.0, published="60.9", source="", paper_network=networks[2]),
    )
    assert sentence in found.caption


def test_a_caption_says_nothing_of_networks_where_no_number_names_its_own() -> None:
    found = only(trials("A", 99.0, published="60.9", source="", paper_network=""))
    assert "network beside" not in found.caption


def test_a_metric_without_a_value_is_a_dash() -> None:
    (found,) = arranged(trials("A", 99.0, 98.0, top5=float("nan")), shown=("top1", "top5"))
    assert texts(found) == {"A": ["98.50 ± 0.71/–"]}


def test_a_table_says_what_the_data_are_and_doubts_a_baseline_at_chance() -> None:
    data = "Data: ImageNet with classes 10, train 500."
    presentation = Presentation("suite", "Title", data=data, chance=10.0, test_items=100)
    frame = pd.concat([full(12.0, 13.0), trials("A", 11.0, 12.0)], ignore_index=True)
    (found,) = tables_of(presentation, frame, summarise(frame))
    doubt = (
        "Doubtful: full precision of net on digits (12.50 %) is no better than guessing (10.00 %), "
        "as far as 100 test items can show."
    )
    assert found.doubts == [doubt]
    assert f"{data} {doubt}" in found.caption


def test_a_row_with_a_teacher_is_marked() -> None:
    taught = trials("A", 9.0, teacher="weight 1, temperature 1")
    found = only(taught, trials("B", 9.0, teacher=""))
    assert found.taught == {"A"}
    assert "| A § " in markdown(found)
    assert r"A\,\S &" in latex(found)
    assert (
        "§: trained with the full-precision network as a teacher (distillation)." in found.caption
    )
    assert "§" not in only(trials("B", 9.0, teacher="")).caption


def test_what_only_one_recipe_sets_is_another_protocol() -> None:
    rows = [trials(name, 9.0, training='{"lr": 0.1}', options="{}") for name in "AB"]
    other = '{"lr": 0.1, "teacher": {"weight": 1.0, "temperature": 1.0}}'
    assert only(*rows, trials("C", 9.0, training=other, options="{}")).apart == {"C"}


def test_settings_state_a_teacher() -> None:
    taught = '{"lr": 0.1, "teacher": {"weight": 1.0, "temperature": 4.0}}'
    rows = [trials(name, 9.0, training=taught, options="{}") for name in "AB"]
    assert only(*rows).settings == ["Recipe: lr = 0.1, teacher = (weight 1, temperature 4)"]

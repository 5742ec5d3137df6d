from __future__ import annotations

import io
import shutil
import subprocess
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
from qbench.spec.layout import TableLayout
from tests.helpers.frames import full, texts, trials


def arranged(
    *cells: pd.DataFrame, shown: tuple[str, ...] = ("top1",), **how: str
) -> list[ResultsTable]:
    layout = TableLayout.model_validate(how)
    presentation = Presentation("suite", "Title", shown=shown, tables=[layout])
    frame = pd.concat(cells, ignore_index=True)
    return tables_of(presentation, frame, summarise(frame, shown[0]))


def grid() -> list[pd.DataFrame]:
    """Two methods at two widths on two models, and full precision."""
    cells = []
    for model, less in (("big", 0.0), ("small", 10.0)):
        cells.append(full(99.0 - less, model=model))
        for method, value in (("A", 90.0), ("B", 80.0)):
            for bits, fewer in (("2/2", 0.0), ("1/1", 5.0)):
                top1 = value - less - fewer
                cells.append(trials(method, top1, bits=bits, model=model, top5=top1 + 1))
    return cells


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


def written(tmp_path: Path, *cells: pd.DataFrame) -> dict[str, str]:
    frame = pd.concat(cells, ignore_index=True)
    histories = pd.DataFrame(columns=["key", "epoch", "train_loss", "top1", "lr"])
    paths = report.write(Presentation("suite", "50% of <them>"), frame, histories, tmp_path)
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.suffix != ".png"}


def rich() -> list[pd.DataFrame]:
    """Trials with claims, costs, and names that are markup."""
    cost = pd.DataFrame(
        {"weight_mb": [0.5], "full_weight_mb": [8.0], "gbops": [2.0], "full_gbops": [64.0]}
    ).iloc[0]
    label = r"50% of_a & #b $c {d} ~e ^f \g <h> |i| [j] *k* α"
    claim = {"published": "99.5", "published_value": 99.5, "source": "a_b & c"}
    cells = [full(99.0, 99.2, 99.1, first_layer="32/32", training="{}", published="", source="")]
    for name, top1 in ((label, 97.0), ("B", 95.0)):
        cell = trials(name, top1, top1 + 1, top1 + 2, w_levels=3, first_layer="8/8", training="{}")
        cells.append(
            cell.assign(**cost, **(claim if name == "B" else {"published": "", "source": ""}))
        )
    return cells


def test_a_claim_is_told_beside_the_measurement(tmp_path: Path) -> None:
    text = written(tmp_path, *rich())["leaderboard.md"]
    assert "## Measured and published: net on digits" in text
    (line,) = [line for line in text.splitlines() if "| short by" in line]
    assert [part.strip() for part in line.strip("|").split("|")] == [
        *("B", "1/32", "3", "96.00", "2.48", "*99.5*", "-3.50", "short by 3.50"),
        r"a_b & c",
    ]


def test_protocol_and_cost_are_told_for_each_result(tmp_path: Path) -> None:
    text = written(tmp_path, *rich())["details.md"]
    assert "Alike in all rows: bits 1/32; weight levels 3; first layer 8/8; epochs 20" in text
    line = next(line for line in text.splitlines() if line.startswith("| B") and "16.0×" in line)
    cells = [part.strip() for part in line.strip("|").split("|")]
    assert {"96.00", "0.5", "16.0×", "2.00", "32.0×", "k-bit"} <= set(cells)


def test_leaderboard_csv_has_a_row_for_each_result(tmp_path: Path) -> None:
    cells = rich()
    read = pd.read_csv(io.StringIO(written(tmp_path, *cells)["leaderboard.csv"]))
    expected = summarise(pd.concat(cells, ignore_index=True))
    assert list(read) == list(expected)
    assert read["label"].tolist() == expected["label"].tolist()
    assert read["mean"].tolist() == pytest.approx(expected["mean"].tolist())


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_compiles_as_it_is(tmp_path: Path) -> None:
    reason = r"\undefined & _ # % ^ ~ $ { } α “ß” 量 " + "long words " * 30
    unable = trials("Unable", "unsupported", bits="3(±4)/32", reason=reason)
    failed = trials("Ω", "failed", reason=reason, model="a_b^c")
    told = {"training": "{}", "first_layer": "", "published": "", "source": ""}
    written(tmp_path, *rich(), unable.assign(**told), failed.assign(**told))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "leaderboard.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "leaderboard.pdf").stat().st_size > 10_000

"""Tables made of cells, and what is written of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from qbench.report import write as report
from qbench.report.presentation import Presentation
from qbench.report.summary import summarise
from qbench.report.tables.latex import to_latex
from qbench.report.tables.markdown import to_markdown
from qbench.report.tables.table import ResultsTable
from qbench.report.tables.table import tables as tables_of
from qbench.spec.layout import TableLayout
from tests.helpers.frames import full, trials

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


def written(tmp_path: Path, *cells: pd.DataFrame) -> dict[str, str]:
    frame = pd.concat(cells, ignore_index=True)
    histories = pd.DataFrame(columns=["key", "epoch", "train_loss", "top1", "lr"])
    paths = report.write(Presentation("suite", "50% of <them>"), frame, histories, tmp_path).files
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

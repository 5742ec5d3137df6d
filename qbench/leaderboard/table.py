"""Tables of results as plain data: what stands in each cell, and its footnotes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qbench.arrangement import DIMENSIONS, Arrangement, Dimension
from qbench.bits import FULL_PRECISION
from qbench.leaderboard import caption as captions
from qbench.leaderboard.layout import Layout
from qbench.leaderboard.settings import settings
from qbench.leaderboard.text import DASH, WAITING, mean_and_deviation, one_line
from qbench.summary import RESULT, summarise

Standings = dict[tuple[str, ...], dict[str, Any]]


@dataclass
class Cell:
    """One cell of a table.

    Attributes:
        text: what it shows; '' where the suite has no such trial.
        notes: numbers of its footnotes, from 1.
        best: whether it is bold: the best of its width, or not told from it.
        worse: whether it is worse than the best beyond doubt.
        published: whether it is a paper's number, not measured here.
    """

    text: str
    notes: tuple[int, ...] = ()
    best: bool = False
    worse: bool = False
    published: bool = False


@dataclass
class Table:
    """One table.

    Attributes:
        dataset: what was measured on.
        name: what the table is about: a model, where methods go down and widths across.
        caption: what the numbers are, and the full-precision accuracy.
        corner: what goes down.
        columns: headings, such as bit-widths ``W/A``.
        rows: each row's name, and a cell for each column.
        notes: footnotes, in reading order.
        settings: the options of each method, and what rows have of their own.
        apart: names of rows whose protocol is not that of most.
        blocks: for the index of a row that begins a block, the block's name.
    """

    dataset: str
    name: str
    caption: str
    columns: list[str]
    corner: str = "method"
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    apart: set[str] = field(default_factory=set)
    blocks: dict[int, str] = field(default_factory=dict)

    def note(self, text: str) -> int:
        """Return the number of a footnote, from 1; the same text has the same number."""
        text = one_line(text)
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


def tables(layout: Layout, trials: pd.DataFrame) -> list[Table]:
    """Return the tables that a layout asks of trials, as `qbench.leaderboard.write` takes them."""
    found = []
    for arrangement in layout.tables:
        shown = arrangement.shown or tuple(layout.shown)
        summary = summarise(trials, shown[0])
        standings: Standings = {
            tuple(str(row[name]) for name in RESULT): dict(row) for _, row in summary.iterrows()
        }
        for dataset, group in trials.groupby("dataset", sort=False):
            for name, part in _parts(arrangement, group):
                builder = _Builder(layout, arrangement, shown, standings)
                found.append(builder.table(str(dataset), name, part))
    return found


def _parts(arrangement: Arrangement, trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """What each table is about, and its trials; full precision stands in every one."""
    if arrangement.third == "blocks":
        yield "", trials
        return
    if arrangement.left == "model":
        yield from ((str(name), group) for name, group in trials.groupby("model", sort=False))
        return
    full = trials[trials["method"] == "fp32"]
    for name, group in trials[trials["method"] != "fp32"].groupby(
        DIMENSIONS[arrangement.left], sort=False
    ):
        yield str(name), pd.concat([full, group])


class _Builder:
    """One table being built."""

    def __init__(
        self,
        layout: Layout,
        arrangement: Arrangement,
        shown: Sequence[str],
        standings: Standings,
    ) -> None:
        self._layout = layout
        self._arrangement = arrangement
        self._shown = shown
        self._standings = standings
        self._rows: list[pd.DataFrame] = []  # the trials of each row

    def table(self, dataset: str, name: str, trials: pd.DataFrame) -> Table:
        arrangement = self._arrangement
        within_model = arrangement.left == "model"
        shown = trials
        quantized = trials[trials["method"] != "fp32"]
        has_place = (quantized["bits"] == str(FULL_PRECISION)).any()  # a column to stand in
        if within_model and len(quantized) and not has_place:
            shown = quantized
        columns = self._headings(arrangement.columns, shown)
        result = Table(dataset, name, "", columns, arrangement.rows)
        if arrangement.third == "blocks":
            for third, block in shown.groupby(DIMENSIONS[arrangement.left], sort=False):
                whole = trials[trials[DIMENSIONS[arrangement.left]] == third]
                title = captions.block_title(str(third), whole, self._shown)
                result.blocks[len(result.rows)] = title
                self._add_rows(result, block)
        else:
            self._add_rows(result, shown)
        self._add_published(result)
        result.settings = settings(shown)
        what = f"{name} on {dataset}" if name else dataset
        full = within_model and arrangement.third == "tables"
        marks = self._marks(result)
        result.caption = captions.caption(what, trials, self._shown, full, marks)
        if self._layout.rehearsal:
            result.caption = captions.REHEARSAL + result.caption
        return result

    def _headings(self, dimension: Dimension, shown: pd.DataFrame) -> list[str]:
        """Columns, in the suite's order."""
        quantized = shown[shown["method"] != "fp32"]
        if dimension != "bits" or quantized.empty:
            return list(map(one_line, shown[DIMENSIONS[dimension]].unique()))
        widths = list(map(str, quantized["bits"].unique()))
        ordered = [bits for bits in self._layout.bits if bits in widths]
        return ordered if self._layout.bits else widths

    def _add_rows(self, result: Table, shown: pd.DataFrame) -> None:
        for label, row in shown.groupby(DIMENSIONS[self._arrangement.rows], sort=False):
            across = row[DIMENSIONS[self._arrangement.columns]].map(one_line)
            cells = [self._cell(result, row[across == column]) for column in result.columns]
            result.rows.append((one_line(label), cells))
            self._rows.append(row)
            if any(self._standing(trials).get("differs") for _, trials in row.groupby(RESULT)):
                result.apart.add(one_line(label))

    def _standing(self, trials: pd.DataFrame) -> dict[str, Any]:
        return self._standings[tuple(str(trials[name].iloc[0]) for name in RESULT)]

    def _cell(self, table: Table, trials: pd.DataFrame) -> Cell:
        """The cell of the trials of one method and width, one for each seed."""
        if trials.empty:
            return Cell("")
        statuses = ("done", "failed", "missing", "unsupported")
        done, failed, missing, unable = (trials[trials["status"] == s] for s in statuses)
        if len(unable):
            return Cell(DASH, (table.note(unable["reason"].iloc[0]),))
        count = len(trials)
        text = WAITING if len(missing) else "failed" if len(failed) else ""
        if len(done):
            text = "/".join(mean_and_deviation(done[name]) for name in self._shown)
            text += f" (n = {len(done)})" if len(done) < count else ""
            text += " (rehearsal)" if self._layout.rehearsal else ""
        standing = {} if self._layout.rehearsal else self._standing(trials)
        return Cell(
            text,
            tuple(map(table.note, _notes(done, failed, missing, count))),
            best=bool(standing.get("bold")),
            worse=standing.get("standing") == "worse",
        )

    def _add_published(self, table: Table) -> None:
        """Add a column of published numbers for each column that has any."""
        if not all("published" in trials for trials in self._rows):
            return
        across = DIMENSIONS[self._arrangement.columns]
        numbers = [
            {one_line(each[across]): each for _, each in row[row["published"] != ""].iterrows()}
            for row in self._rows
        ]
        for column in [c for c in table.columns if any(c in row for row in numbers)]:
            table.columns.append(f"{column} published")
            for (_, cells), row in zip(table.rows, numbers, strict=True):
                if column in row:
                    note = table.note(f"published, not run here: {row[column]['source']}")
                    cells.append(Cell(row[column]["published"], (note,), published=True))
                else:
                    cells.append(Cell(""))

    @staticmethod
    def _marks(table: Table) -> list[str]:
        """Sentences on the marks that a table has."""
        cells = [cell for _, row in table.rows for cell in row]
        present = {
            captions.BOLD: any(cell.best for cell in cells),
            captions.WORSE: any(cell.worse for cell in cells),
            captions.APART: bool(table.apart),
        }
        return [sentence for sentence, has in present.items() if has]


def _notes(
    done: pd.DataFrame, failed: pd.DataFrame, missing: pd.DataFrame, count: int
) -> list[str]:
    """Footnotes of a cell: what failed or is missing, and what is wrong with what is there."""
    notes = []
    firsts = failed["reason"].map(lambda text: next(iter(str(text).strip().splitlines()), ""))
    for reason, times in firsts.value_counts(sort=False).items():
        which = f"{times} of {count} seeds failed" if count > 1 else "failed"
        notes.append(f"{which}: {reason}")
    if len(missing):
        run = f"{count - len(missing)} of {count} seeds run"
        notes.append("not run yet" if len(missing) == count else run)
    notes += [f"not k-bit: {audit}" for audit in done["audit"].unique() if audit]
    if "unreadable" in done:
        notes += [text for text in done["unreadable"].unique() if text]
    return notes

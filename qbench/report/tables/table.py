"""Tables of results as plain data: the text of each cell, and its footnotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qbench.report.baseline import baseline_doubts
from qbench.report.collapsed import collapsed
from qbench.report.power import resolutions, sentence
from qbench.report.presentation import Presentation
from qbench.report.summary import RESULT, Row, by_seed, grouped, records, summarise
from qbench.report.tables import caption as captions
from qbench.report.tables.settings import settings
from qbench.report.tables.text import DASH, WAITING, mean_and_deviation, one_line
from qbench.spec.bits import FULL_PRECISION
from qbench.spec.layout import DIMENSIONS, Dimension, TableLayout
from qbench.spec.trial import FP32

Standings = dict[tuple[Any, ...], Row]


@dataclass
class TableCell:
    """One cell of a table.

    Attributes:
        text: Text of the cell. Empty if the suite has no such trial.
        notes: Numbers of its footnotes, from 1.
        best: Whether it is bold: the best of its dataset, model and bit-widths, and the test
            distinguishes it from all others.
        worse: Whether it is significantly worse than the best, after Holm's correction too.
        published: Whether it is the number of a paper, not measured here.
    """

    text: str
    notes: tuple[int, ...] = ()
    best: bool = False
    worse: bool = False
    published: bool = False


@dataclass
class ResultsTable:
    """One table of results.

    Attributes:
        dataset: Dataset of the results.
        name: Subject of the table, such as a model if rows are methods and columns are bit-widths.
            Empty if the third dimension is shown as blocks.
        caption: What the numbers are, what the data are, the full-precision accuracy, and
            the sentences of `doubts` and `marks`.
        columns: Headings of the columns, such as bit-widths ``W/A``.
        corner: Dimension of the rows: ``method``, ``model`` or ``bits``.
        rows: Name of each row, and its cells, one for each column.
        notes: Footnotes, in reading order.
        settings: Lines of `qbench.report.tables.settings.settings`.
        apart: Names of the rows whose protocol differs from that of most rows.
        taught: Names of the rows with a full-precision teacher.
        blocks: Title of each block, by the index of its first row.
        full_precision: Full-precision accuracy, if it is no cell. Otherwise an empty string.
        doubts: Sentences on full-precision networks that say nothing about the quantizers.
        marks: Sentences that explain the marks in the table.
    """

    dataset: str
    name: str
    caption: str
    columns: list[str]
    corner: str = "method"
    rows: list[tuple[str, list[TableCell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    apart: set[str] = field(default_factory=set)
    taught: set[str] = field(default_factory=set)
    blocks: dict[int, str] = field(default_factory=dict)
    full_precision: str = ""
    doubts: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    @property
    def subject(self) -> str:
        """Subject of the table: its name and dataset."""
        return f"{self.name} on {self.dataset}" if self.name else self.dataset

    def symbols(self, label: str) -> str:
        """Return the marks of a row: ‡ if its protocol differs, § if it has a teacher.

        Args:
            label: Name of the row.
        """
        return "‡" * (label in self.apart) + "§" * (label in self.taught)

    def note(self, text: str) -> int:
        """Add a footnote, unless the table has it already.

        Args:
            text: Text of the footnote.

        Returns:
            The number of the footnote, from 1. The same text has the same number.
        """
        text = one_line(text)
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


def tables(
    presentation: Presentation, trials: pd.DataFrame, summary: pd.DataFrame
) -> list[ResultsTable]:
    """Arrange trials in the tables of a presentation.

    Args:
        presentation: How the suite presents its results.
        trials: One row for each trial, with the columns that `qbench.report.write.write` requires.
            The tables also show ``options``, ``training``, ``published``, ``source``, ``stale`` and
            ``unreadable``, if they are there.
        summary: Summary of these trials by the first metric that the presentation shows, one row
            for each result.

    Returns:
        For each layout of the presentation and each dataset, one table for each value of the third
        dimension, or a single one if the layout shows it as blocks.

    Raises:
        KeyError: A frame lacks a required column, or the summary lacks a result.
    """
    found = []
    doubts = baseline_doubts(presentation, summary)
    for layout in presentation.tables:
        shown = layout.shown or tuple(presentation.shown)
        results = (
            summary
            if shown[0] == presentation.shown[0]
            else summarise(trials, shown[0], presentation.test_items)
        )
        standings = {tuple(row[name] for name in RESULT): row for row in records(results)}
        for dataset, group in trials.groupby("dataset", sort=False):
            for name, part in _parts(layout, group):
                builder = _Builder(presentation, layout, shown, standings, doubts)
                found.append(builder.table(str(dataset), name, part))
    return found


def _parts(layout: TableLayout, trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the subject of each table and its trials. Full precision is in every table."""
    if layout.third == "blocks":
        yield "", trials
        return
    if layout.left == "model":
        yield from ((str(name), group) for name, group in trials.groupby("model", sort=False))
        return
    full = trials[trials["method"] == FP32]
    for name, group in trials[trials["method"] != FP32].groupby(
        DIMENSIONS[layout.left], sort=False
    ):
        yield str(name), pd.concat([full, group])


class _Builder:
    """Builder of one table."""

    def __init__(
        self,
        presentation: Presentation,
        layout: TableLayout,
        shown: Sequence[str],
        standings: Standings,
        doubts: Mapping[tuple[str, str], str],
    ) -> None:
        self._presentation = presentation
        self._layout = layout
        self._shown = shown
        self._standings = standings
        self._doubts = doubts
        self._rows: list[list[Row]] = []  # the trials of each row

    def table(self, dataset: str, name: str, trials: pd.DataFrame) -> ResultsTable:
        layout = self._layout
        within_model = layout.left == "model"
        shown = trials
        quantized = trials[trials["method"] != FP32]
        has_place = (quantized["bits"] == str(FULL_PRECISION)).any()  # full precision has a column
        if within_model and len(quantized) and not has_place:
            shown = quantized
        columns = self._headings(layout.columns, shown)
        result = ResultsTable(dataset, name, "", columns, layout.rows)
        if layout.third == "blocks":
            for third, block in shown.groupby(DIMENSIONS[layout.left], sort=False):
                whole = trials[trials[DIMENSIONS[layout.left]] == third]
                title = captions.block_title(str(third), whole, self._shown)
                result.blocks[len(result.rows)] = title
                self._add_rows(result, block)
        else:
            self._add_rows(result, shown)
        self._add_published(result)
        result.settings = settings(shown[shown["status"] != "unsupported"])
        result.marks = self._marks(result)
        networks = captions.paper_networks(records(quantized))
        result.marks += [networks] if networks else []
        if not self._presentation.rehearsal:
            places = dict.fromkeys(
                tuple(row[name] for name in RESULT) for row in records(quantized)
            )
            found = resolutions([self._standings[place] for place in places])
            resolution = sentence(found, captions.unit(quantized["recipe"])[1])
            result.marks += [resolution] if resolution else []
        models = trials["model"].unique()
        result.doubts = [
            self._doubts[dataset, model] for model in models if (dataset, model) in self._doubts
        ]
        if within_model and layout.third == "tables":
            result.full_precision = captions.full_precision(trials, self._shown)
        own = self._presentation
        result.caption = captions.caption(
            result.subject,
            trials,
            self._shown,
            result.full_precision,
            [*filter(None, [own.effort, own.data]), *result.doubts, *result.marks],
        )
        if own.rehearsal:
            result.caption = captions.REHEARSAL_NOTE + result.caption
        return result

    def _headings(self, dimension: Dimension, shown: pd.DataFrame) -> list[str]:
        """Return the headings of the columns, in the order of the suite."""
        quantized = shown[shown["method"] != FP32]
        if dimension != "bits" or quantized.empty:
            return list(map(one_line, shown[DIMENSIONS[dimension]].unique()))
        widths = list(map(str, quantized["bits"].unique()))
        ordered = [bits for bits in self._presentation.bits if bits in widths]
        return ordered if self._presentation.bits else widths

    def _add_rows(self, result: ResultsTable, shown: pd.DataFrame) -> None:
        across = DIMENSIONS[self._layout.columns]
        for row in grouped(records(shown), DIMENSIONS[self._layout.rows]):
            label = one_line(row[0][DIMENSIONS[self._layout.rows]])
            found: dict[str, list[Row]] = {}
            for trial in row:
                found.setdefault(one_line(trial[across]), []).append(trial)
            cells = [self._cell(result, found.get(column, [])) for column in result.columns]
            result.rows.append((label, cells))
            self._rows.append(row)
            if any(self._standing(trial).get("differs") for trial in row):
                result.apart.add(label)
            if any(self._standing(trial).get("teacher") for trial in row):
                result.taught.add(label)

    def _standing(self, trial: Row) -> Row:
        return self._standings[tuple(trial[name] for name in RESULT)]

    def _cell(self, table: ResultsTable, trials: list[Row]) -> TableCell:
        """Return the cell of the trials of one result, one for each seed."""
        if not trials:
            return TableCell("")
        reasons = [trial["reason"] for trial in trials if trial["status"] == "unsupported"]
        if reasons:
            return TableCell(DASH, (table.note(reasons[0]),))
        done = [trial for trial in trials if trial["status"] == "done"]
        missing = any(trial["status"] == "missing" for trial in trials)
        text = "" if len(done) == len(trials) else WAITING if missing else "failed"
        if done:
            means = ([trial[name] for trial in done] for name in self._shown)
            text = "/".join(map(mean_and_deviation, means))
            text += f" (n = {len(done)})" if len(done) < len(trials) else ""
            text += " (rehearsal)" if self._presentation.rehearsal else ""
        standing = {} if self._presentation.rehearsal else self._standing(trials[0])
        return TableCell(
            text,
            tuple(map(table.note, [*_notes(trials, done), *self._remarks(standing, done)])),
            best=bool(standing.get("bold")),
            worse=standing.get("standing") == "worse",
        )

    def _remarks(self, standing: Mapping[str, Any], done: list[Row]) -> list[str]:
        """Return the footnotes of a cell on what its numbers are."""
        remarks = []
        if standing.get("same_as"):
            remarks.append(f"the same function as {standing['same_as']}: equal in every seed")
        if standing:
            values = by_seed(done, self._shown[0])
            wrong = collapsed(values, self._presentation.chance, self._presentation.test_items)
            seeds: dict[str, list[str]] = {}
            for seed, what in wrong.items():
                seeds.setdefault(what, []).append(f"{seed} ({values[seed]:.2f})")
            remarks += [
                f"{what}: seed{'s' * (len(which) > 1)} {', '.join(which)}"
                for what, which in seeds.items()
            ]
        return remarks

    def _add_published(self, table: ResultsTable) -> None:
        """Add a column of published numbers for each column that has any."""
        across = DIMENSIONS[self._layout.columns]
        numbers = [
            {one_line(trial[across]): trial for trial in row if trial.get("published")}
            for row in self._rows
        ]
        for column in [c for c in table.columns if any(c in row for row in numbers)]:
            table.columns.append(f"{column} published")
            for (_, cells), row in zip(table.rows, numbers, strict=True):
                if column in row:
                    text, unlike = row[column]["published"], row[column].get("claim_unlike", "")
                    note = f"published, not run here: {row[column]['source']}"
                    if unlike:
                        text, note = f"({text})", f"{note}; not comparable: {unlike}"
                    cells.append(TableCell(text, (table.note(note),), published=True))
                else:
                    cells.append(TableCell(""))

    @staticmethod
    def _marks(table: ResultsTable) -> list[str]:
        """Return the sentences that explain the marks in a table."""
        cells = [cell for _, row in table.rows for cell in row]
        present = {
            captions.BOLD: any(cell.best for cell in cells),
            captions.WORSE: any(cell.worse for cell in cells),
            captions.APART: bool(table.apart),
            captions.TAUGHT: bool(table.taught),
            captions.ELSEWHERE: any(cell.published and cell.text[0] == "(" for cell in cells),
        }
        return [sentence for sentence, has in present.items() if has]


def _notes(trials: list[Row], done: list[Row]) -> list[str]:
    """Return the footnotes of a cell: failed and missing trials, and faults of finished ones."""
    count, notes = len(trials), []
    many = captions.unit(trial["recipe"] for trial in trials)[1]
    failed = [str(trial["reason"]) for trial in trials if trial["status"] == "failed"]
    firsts = Counter(next(iter(reason.strip().splitlines()), "") for reason in failed)
    for reason, times in firsts.items():
        which = f"{times} of {count} {many} failed" if count > 1 else "failed"
        notes.append(f"{which}: {reason}")
    if missing := sum(trial["status"] == "missing" for trial in trials):
        run = f"{count - missing} of {count} {many} run"
        notes.append("not run yet" if missing == count else run)
    for name, what in (
        ("audit", "not k-bit: "),
        ("stale", "stale: "),
        ("unreadable", ""),
        ("placed", ""),
        ("clipped", ""),
        ("partly", "partly quantized: "),
    ):
        notes += [f"{what}{text}" for text in dict.fromkeys(t.get(name) for t in done) if text]
    return notes

"""Write the tables of a suite, and print them, fitted to the width of the console."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qbench.benchmark import leaderboard
from qbench.benchmark.benchmark import Benchmark
from qbench.report.tables.table import ResultsTable, TableCell
from qbench.spec.words import counted

_LONGEST_LABEL = 28
_GAP = 2  # letters between columns


def write(benchmark: Benchmark, console: Console, html: bool = False) -> None:
    """Write the leaderboard of a benchmark; print its tables, where it is, and what is stale.

    Args:
        benchmark: The benchmark.
        console: The console.
        html: Whether to write the page too.
    """
    for reason, count in Counter(benchmark.stale.values()).items():
        console.print(
            f"[yellow]{count} stale:[/] {escape(reason)}; `qbench run --again stale` trains them "
            "again",
            soft_wrap=True,
        )
    with console.status("Writing tables and figures …"):
        report = leaderboard.write(benchmark, html)
    show(console, report.tables)
    console.print()
    for problem in report.problems:
        console.print(f"[yellow]Not made:[/] {escape(problem)}", soft_wrap=True)
    if not benchmark.folder.is_relative_to(benchmark.results):
        console.print(f"{benchmark.results} may only be read.", soft_wrap=True, markup=False)
    table = benchmark.folder / ("leaderboard.html" if html else "leaderboard.md")
    written = counted(len(report.files), "file")
    console.print(f"Wrote {written}; the table is {table}", soft_wrap=True, markup=False)


def show(console: Console, tables: Sequence[ResultsTable]) -> None:
    """Print tables of results. Columns that do not fit side by side continue below.

    Args:
        console: The console.
        tables: The tables.
    """
    for table in tables:
        full = f"; full precision {table.full_precision}" if table.full_precision else ""
        console.print()
        console.print(f"{table.subject}{full}", style="bold", markup=False, soft_wrap=True)
        for part, columns in enumerate(_fitting(table, console.width)):
            console.print("\n" * (part > 0), end="")
            console.print(_part(table, columns))
        for number in sorted({n for _, row in table.rows for cell in row for n in cell.notes}):
            note = f"[{number}] {table.notes[number - 1]}"
            console.print(note, markup=False, style="dim", soft_wrap=True)
    for doubt in dict.fromkeys(doubt for table in tables for doubt in table.doubts):
        console.print(doubt, style="yellow", markup=False, soft_wrap=True)
    sentences = dict.fromkeys(sentence for table in tables for sentence in table.marks)
    if sentences:
        console.print()
    for sentence in sentences:
        console.print(sentence, markup=False, style="dim", soft_wrap=True)


def _fitting(table: ResultsTable, width: int) -> Iterator[list[int]]:
    """Yield the indices of the columns that fit side by side."""
    room = width - _label_width(table)
    chosen: list[int] = []
    for index, heading in enumerate(table.columns):
        cells = [_cell(row[index]).cell_len for _, row in table.rows]
        needed = _GAP + max(len(heading), *cells)
        if chosen and needed > room:
            yield chosen
            chosen, room = [], width - _label_width(table)
        chosen.append(index)
        room -= needed
    yield chosen


def _label_width(table: ResultsTable) -> int:
    widest = max((len(label) + 2 for label, _ in table.rows), default=0)
    return min(_LONGEST_LABEL, max(widest, len(table.corner)))


def _part(table: ResultsTable, columns: Sequence[int]) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    shown.add_column(table.corner, no_wrap=True, max_width=_label_width(table))
    for index in columns:
        shown.add_column(Text(table.columns[index]), justify="right", no_wrap=True)
    for number, (label, cells) in enumerate(table.rows):
        if number in table.blocks:
            shown.add_row(Text(table.blocks[number], style="italic"))
        marked = f"{label} {table.symbols(label)}".rstrip()
        shown.add_row(Text(marked), *(_cell(cells[index]) for index in columns))
    return shown


def _cell(cell: TableCell) -> Text:
    style = "bold" if cell.best else "italic" if cell.published else ""
    text = Text(cell.text, style=style)
    text.append(" †" if cell.worse else "")
    if cell.notes:
        text.append(f" [{','.join(map(str, cell.notes))}]", style="dim")
    return text

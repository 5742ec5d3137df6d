"""Tables in Markdown for GitHub, aligned so that they are readable as plain text too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from qbench.report.tables.details import DetailsTable
from qbench.report.tables.table import ResultsTable, TableCell
from qbench.report.tables.text import one_line


def to_markdown(
    title: str,
    tables: Sequence[ResultsTable],
    pictures: Sequence[str] = (),
    claims: Sequence[DetailsTable] = (),
    see: str = "",
    problems: Sequence[str] = (),
) -> str:
    """Return a page of results: tables, published numbers and pictures.

    Args:
        title: Heading of the page.
        tables: Tables of results.
        pictures: File names of pictures.
        claims: Tables of measured and published numbers.
        see: Name of the file with protocol and cost of each result. If empty, there is no link.
        problems: What could not be made, and why.

    Returns:
        Markdown.
    """
    blocks = [f"# {_inline(title)}"]
    for found in tables:
        blocks += _table(found)
    for each in claims:
        blocks += _details(each)
    blocks += [f"Protocol and cost of each result: [{see}]({see})"] if see else []
    if problems:
        blocks.append("Not made:\n\n" + "\n".join(f"- {_escaped(text)}" for text in problems))
    blocks += [f"![{Path(file).stem.replace('_', ' ')}]({file})" for file in pictures]
    return "\n\n".join(blocks) + "\n"


def details_to_markdown(title: str, details: Sequence[DetailsTable]) -> str:
    """Return tables of details under a heading.

    Args:
        title: Heading of the page.
        details: The tables.

    Returns:
        Markdown.
    """
    blocks = [f"# {_inline(title)}"]
    for each in details:
        blocks += _details(each)
    return "\n\n".join(blocks) + "\n"


def _table(found: ResultsTable) -> list[str]:
    header = [found.corner, *map(_inline, found.columns)]
    body = []
    for index, (label, cells) in enumerate(found.rows):
        if index in found.blocks:
            body.append([f"*{_inline(found.blocks[index])}*", *[""] * len(cells)])
        marked = f"{_inline(label)} {found.symbols(label)}".rstrip()
        body.append([marked, *map(_cell, cells)])
    blocks = [_escaped(found.caption), _grid(header, body)]
    notes = [f"{i}. {_escaped(note)}" for i, note in enumerate(found.notes, 1)]
    blocks += ["\n".join(notes)] if notes else []
    if found.settings:
        blocks.append("Settings:\n\n" + "\n".join(f"- {_escaped(s)}" for s in found.settings))
    return blocks


def _details(found: DetailsTable) -> list[str]:
    header = [_inline(column.heading) for column in found.columns]
    blocks = [f"## {_inline(found.title)}", *([_escaped(found.about)] if found.about else [])]
    rows = []
    for row in found.rows:
        named = zip(found.columns, map(_inline, row), strict=True)
        rows.append([f"*{t}*" if c.name == "published" and t else t for c, t in named])
    return [*blocks, _grid(header, rows)]


def _cell(cell: TableCell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    text = f"*{text}*" if cell.published else text
    text += " †" if cell.worse else ""
    return f"{text} [{','.join(map(str, cell.notes))}]" if cell.notes else text


def _grid(header: list[str], body: list[list[str]]) -> str:
    sizes = [max(3, *map(len, column)) for column in zip(header, *body, strict=True)]
    rule = ["-" * sizes[0], *("-" * (size - 1) + ":" for size in sizes[1:])]
    return "\n".join(_pipes(row, sizes) for row in [header, rule, *body])


def _pipes(cells: list[str], sizes: list[int]) -> str:
    rest = [text.rjust(size) for text, size in zip(cells[1:], sizes[1:], strict=True)]
    return f"| {' | '.join([cells[0].ljust(sizes[0]), *rest])} |"


# An underscore inside a word is not markup. It is not escaped, so that names stay readable.
_MARKUP = re.compile(r"[\\`*\[\]|<>~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
_AT_START = re.compile(r"^[#+=-]|(?<=^\d)[.)]")


def _inline(text: str) -> str:
    """Escape markup in text within a line."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def _escaped(text: str) -> str:
    """Escape markup in text, including what is markup only at the start of a line."""
    return _AT_START.sub(r"\\\g<0>", _inline(text))

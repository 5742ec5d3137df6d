"""Tables in LaTeX for plain pdflatex, in documents of one or two columns.

Every table is a ``table*``, as wide as the text, with its notes inside. Tables that are wider or
longer than a page are split into several.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qbench.report.columns import Column
from qbench.report.tables.details import DetailsTable
from qbench.report.tables.table import ResultsTable, TableCell
from qbench.report.tables.text import one_line

LATEX_PACKAGES = ("adjustbox", "booktabs", "threeparttable")
_NEEDS = "\n".join(f"% \\usepackage{{{package}}}" for package in LATEX_PACKAGES)
LONG = 40  # letters; longer texts are wrapped
_WRAPPED = 26  # letters of a line of such a text
_WIDEST = 130  # letters of a line of a table, with the gaps between columns
_NARROW, _SHORT = 95, 35  # letters of a line, and lines, that fit in a larger font
_GAP = 2  # letters
_TALLEST = 55  # lines of a table
_MARKS = {"‡": r"\,$^\ddagger$", "§": r"\,\S"}  # of rows
_FLOATS = 10  # between two ends of a page, since LaTeX keeps a limited number of them


def to_latex(name: str, title: str, tables: Sequence[ResultsTable]) -> str:
    r"""Return tables of results to include in a paper with ``\input``.

    Args:
        name: Name of the suite, used in labels.
        title: Heading, used in captions.
        tables: The tables.

    Returns:
        LaTeX source. It begins with a comment that lists the required packages.
    """
    floats = [part for found in tables for part in _parts(name, title, found)]
    return _source(floats)


def details_to_latex(details: Sequence[DetailsTable], tables: Sequence[ResultsTable] = ()) -> str:
    """Return tables of details, and the settings of tables of results.

    Args:
        details: The tables, at least one row in each.
        tables: Tables of results, whose settings are listed first.

    Returns:
        LaTeX source. It begins with a comment that lists the required packages.
    """
    lists = dict.fromkeys(map(_settings, tables))
    floats = [part for found in details for part in _pages(found)]
    return _source(floats, [text for text in lists if text])


def document(files: Sequence[str]) -> str:
    """Return a complete document that shows files of tables.

    Args:
        files: Names of the files, without ``.tex``.

    Returns:
        LaTeX source of the document.
    """
    lines = [
        r"\documentclass{article}",
        r"\usepackage[a4paper,landscape,margin=15mm]{geometry}",
        *(rf"\usepackage{{{package}}}" for package in LATEX_PACKAGES),
        r"\begin{document}",
        *(rf"\input{{{file}}}" + "\n" + r"\clearpage" for file in files),
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Float:
    """One ``table*``: LaTeX source of its parts, and the letters of its widest line."""

    caption: str
    label: str
    columns: str
    header: str
    body: Sequence[str]
    letters: int
    notes: Sequence[str] = ()

    def source(self) -> str:
        small = self.letters <= _NARROW and len(self.body) <= _SHORT
        size = r"\footnotesize" if small else r"\scriptsize"
        label = [rf"\label{{{self.label}}}"] if self.label else []
        notes = []
        if self.notes:
            notes = [r"\begin{tablenotes}[para,flushleft]\scriptsize", *self.notes]
            notes.append(r"\end{tablenotes}")
        lines = [
            r"\begin{table*}[tp]",
            r"\centering",
            rf"\caption{{{self.caption}}}",
            *label,
            r"\vspace{6pt}",  # many classes put none between a caption and what follows
            r"\begin{adjustbox}{max width=\textwidth}",
            r"\begin{threeparttable}",
            rf"{size}\setlength{{\tabcolsep}}{{3pt}}",
            rf"\begin{{tabular}}{{{self.columns}}}",
            r"\toprule",
            self.header,
            r"\midrule",
            *self.body,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{threeparttable}",
            r"\end{adjustbox}",
            r"\end{table*}",
        ]
        return "\n".join(lines) + "\n"


def _source(floats: Sequence[_Float], before: Sequence[str] = ()) -> str:
    parts = [_NEEDS, *before]
    for index, each in enumerate(floats):
        if index and index % _FLOATS == 0:
            parts.append("\\clearpage\n")
        parts.append(each.source())
    return "\n".join(parts) if floats or before else _NEEDS + "\n"


def _parts(name: str, title: str, found: ResultsTable) -> Iterator[_Float]:
    """Yield a table of results as floats of columns that fit side by side."""
    label = re.sub(r"[^A-Za-z0-9-]+", "-", f"{name}-{found.dataset}-{found.name}").strip("-")
    labels = max(map(len, [found.corner, *(row for row, _ in found.rows)]))
    groups = list(_side_by_side(found, _WIDEST - labels))
    for number, columns in enumerate(groups, 1):
        part = f" (part {number} of {len(groups)})" if len(groups) > 1 else ""
        body = []
        for index, (row, cells) in enumerate(found.rows):
            if index in found.blocks:
                body += [r"\midrule"] * (index > 0)
                block = _escaped(found.blocks[index])
                body.append(rf"\multicolumn{{{len(columns) + 1}}}{{l}}{{\emph{{{block}}}}} \\")
            mark = "".join(_MARKS[symbol] for symbol in found.symbols(row))
            body.append(
                " & ".join([_escaped(row) + mark, *(_cell(cells[c]) for c in columns)]) + r" \\"
            )
        used = {note for _, cells in found.rows for c in columns for note in cells[c].notes}
        headings = [_escaped(found.columns[c]) for c in columns]
        yield _Float(
            _escaped(f"{title}{part}. {found.caption}"),
            f"tab:{label}" + (f"-{number}" if number > 1 else ""),
            f"l{'r' * len(columns)}",
            " & ".join([found.corner.capitalize(), *headings]) + r" \\",
            body,
            labels + sum(_width(found, c) for c in columns),
            [rf"\item[{i}] {_escaped(note)}" for i, note in enumerate(found.notes, 1) if i in used],
        )


def _width(found: ResultsTable, column: int) -> int:
    """Return the letters of a column, with the gap before it."""
    texts = [found.columns[column], *(cells[column].text for _, cells in found.rows)]
    return _GAP + max(map(len, texts))


def _side_by_side(found: ResultsTable, letters: int) -> Iterator[list[int]]:
    """Yield the indices of the columns that fit side by side in some letters."""
    chosen: list[int] = []
    room = letters
    for index in range(len(found.columns)):
        width = _width(found, index)
        if chosen and width > room:
            yield chosen
            chosen, room = [], letters
        chosen.append(index)
        room -= width
    yield chosen


def _settings(found: ResultsTable) -> str:
    if not found.settings:
        return ""
    what, lines = _escaped(found.subject), "; ".join(map(_escaped, found.settings))
    return rf"\paragraph{{Settings of {what}.}} {lines}." + "\n"


def _pages(found: DetailsTable) -> Iterator[_Float]:
    """Yield a table of details as floats of rows that fit on a page."""
    header = " & ".join(_escaped(column.heading) for column in found.columns) + r" \\"
    columns = "".join(map(_alignment, found.columns, zip(*found.rows, strict=True)))
    texts = zip([column.heading for column in found.columns], *found.rows, strict=True)
    letters = sum(_GAP + max(map(len, column)) for column in texts)  # wrapped or not
    groups = list(_below_each_other(found.rows))
    for number, rows in enumerate(groups, 1):
        part = f" (part {number} of {len(groups)})" if len(groups) > 1 else ""
        body = []
        for row in rows:
            named = zip(found.columns, map(_escaped, row), strict=True)
            cells = [rf"\textit{{{t}}}" if c.name == "published" and t else t for c, t in named]
            body.append(" & ".join(cells) + r" \\")
        about = found.about if number == 1 else ""
        caption = _escaped(f"{found.title}{part}. {about}".rstrip())
        yield _Float(caption, "", columns, header, body, letters)


def _below_each_other(rows: Sequence[list[str]]) -> Iterator[list[list[str]]]:
    """Yield the rows that fit on a page."""
    chosen: list[list[str]] = []
    room = _TALLEST
    for row in rows:
        lines = max(-(-len(text) // _WRAPPED) if len(text) > LONG else 1 for text in row)
        if chosen and lines > room:
            yield chosen
            chosen, room = [], _TALLEST
        chosen.append(row)
        room -= lines
    yield chosen


def _alignment(column: Column, texts: Sequence[str]) -> str:
    """Return the alignment of a column: numbers to the right, long texts wrapped."""
    if max(map(len, texts)) > LONG:
        return r"p{30mm}"
    return "r" if column.unit or column.digits is not None else "l"


def _cell(cell: TableCell) -> str:
    text = _escaped(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    text = rf"\textit{{{text}}}" if cell.published else text
    text += r"\,$^\dagger$" if cell.worse else ""
    marks = ",".join(map(str, cell.notes))
    return rf"{text}\textsuperscript{{{marks}}}" if marks else text


# Each letter, followed by the command that prints it.
_MATH = """±pm ×times ÷div ·cdot ≤le ≥ge ≠ne ≥ge ≈approx →to ∞infty αalpha βbeta γgamma δdelta
    εvarepsilon ηeta θtheta κkappa λlambda μmu µmu πpi ρrho σsigma τtau φvarphi ψpsi ωomega ΔDelta
    ΣSigma ΩOmega"""
_TEXT_COMMANDS = r"""\backslash
    ~asciitilde ^asciicircum <less >greater |bar `asciigrave –endash —emdash
    …ellipsis ‘quoteleft ’quoteright “quotedblleft ”quotedblright"""
_LATEX = {
    **{word[0]: rf"$\{word[1:]}$" for word in _MATH.split()},
    **{word[0]: rf"\text{word[1:]}{{}}" for word in _TEXT_COMMANDS.split()},
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"{{{letter}}}" for letter in "[]*"},  # else read as arguments of a preceding \\
    **{
        "−": "$-$",
        "†": r"$\dagger$",
        "‡": r"$\ddagger$",
        "§": r"\S{}",
        "²": "$^2$",
        "³": "$^3$",
        "ß": r"\ss{}",
        "ø": r"\o{}",
        "ł": r"\l{}",
    },
    **{
        unicodedata.normalize("NFC", letter + mark): rf"\{accent}{{{letter}}}"
        for accent, mark in zip("`'^~\"v", "\u0300\u0301\u0302\u0303\u0308\u030c", strict=True)
        for letter in string.ascii_letters
    },
}


def _escaped(text: str) -> str:
    """Escape what is special to LaTeX, including ``--``, which it turns into a dash."""
    escaped = (  # a letter that pdflatex cannot print becomes its code point
        _LATEX.get(letter, letter if letter.isascii() else f"(U+{ord(letter):04X})")
        for letter in one_line(text)
    )
    return re.sub("-(?=-)", "-{}", "".join(escaped))

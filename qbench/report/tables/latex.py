"""Tables in LaTeX for plain pdflatex, with booktabs. Footnotes are text below the table."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

from qbench.report.columns import Column
from qbench.report.tables.details import DetailsTable
from qbench.report.tables.table import ResultsTable, TableCell
from qbench.report.tables.text import one_line

LATEX_PACKAGES = ("booktabs", "graphicx", "longtable")
_NEEDS = "\n".join(f"% \\usepackage{{{package}}}" for package in LATEX_PACKAGES)
LONG = 40  # in letters
# Keeps the width of a table, or shrinks it to the width of the page if it is wider.
_SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def to_latex(name: str, title: str, tables: Sequence[ResultsTable]) -> str:
    r"""Return tables of results to include in a paper with ``\input``.

    Args:
        name: Name of the suite, used in labels.
        title: Heading, used in captions.
        tables: The tables.

    Returns:
        LaTeX source. It begins with a comment that lists the required packages.
    """
    return "\n".join([_NEEDS, *(_table(name, title, found) for found in tables)])


def details_to_latex(details: Sequence[DetailsTable]) -> str:
    """Return tables of details, which span as many pages as they need.

    Args:
        details: The tables, at least one row in each.

    Returns:
        LaTeX source. It must be compiled twice. It begins with a comment that lists the required
        packages.
    """
    return "\n".join([_NEEDS, *map(_details, details)])


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


def _table(name: str, title: str, found: ResultsTable) -> str:
    label = re.sub(r"[^A-Za-z0-9-]+", "-", f"{name}-{found.dataset}-{found.name}").strip("-")
    body = []
    for index, (row, cells) in enumerate(found.rows):
        if index in found.blocks:
            body += [r"\midrule"] * (index > 0)
            across = len(found.columns) + 1
            block = _escaped(found.blocks[index])
            body.append(rf"\multicolumn{{{across}}}{{l}}{{\emph{{{block}}}}} \\")
        mark = r"\,$^\ddagger$" * (row in found.apart)
        body.append(" & ".join([_escaped(row) + mark, *map(_cell, cells)]) + r" \\")
    lines = [
        r"\begin{table}[!htbp]",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_escaped(f'{title}. {found.caption}')}}}",
        rf"\label{{tab:{label}}}",
        _SHRUNK,
        rf"\begin{{tabular}}{{l{'r' * len(found.columns)}}}",
        r"\toprule",
        " & ".join([found.corner.capitalize(), *map(_escaped, found.columns)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    notes = [rf"\textsuperscript{{{i}}}~{_escaped(note)}" for i, note in enumerate(found.notes, 1)]
    below = [";\n".join(notes) + "."] * bool(notes)
    if found.settings:
        below.append(f"Settings. {'; '.join(map(_escaped, found.settings))}.")
    if below:  # not in the float, which would be longer than a page
        lines += [r"{\footnotesize\noindent", "\\par\n".join(below) + r"\par}"]
    return "\n".join(lines) + "\n"


def _details(found: DetailsTable) -> str:
    header = " & ".join(_escaped(column.heading) for column in found.columns) + r" \\"
    rows = []
    for row in found.rows:
        named = zip(found.columns, map(_escaped, row), strict=True)
        cells = [rf"\textit{{{t}}}" if c.name == "published" and t else t for c, t in named]
        rows.append(" & ".join(cells) + r" \\")
    caption = f"{found.title}. {found.about}".rstrip()
    columns = "".join(map(_alignment, found.columns, zip(*found.rows, strict=True)))
    lines = [
        r"{\scriptsize\setlength{\tabcolsep}{3pt}\setlength{\LTcapwidth}{\linewidth}",
        rf"\begin{{longtable}}{{{columns}}}",
        rf"\caption{{{_escaped(caption)}}} \\",
        *(r"\toprule", header, r"\midrule", r"\endfirsthead"),
        *(r"\toprule", header, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"),
        *rows,
        r"\end{longtable}}",
    ]
    return "\n".join(lines) + "\n"


def _alignment(column: Column, texts: Sequence[str]) -> str:
    """Return the alignment of a column: numbers to the right, long texts wrapped."""
    if max(map(len, texts)) > LONG:
        return r"p{45mm}"
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

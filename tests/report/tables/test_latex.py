from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from qbench.report.columns import BY_NAME
from qbench.report.tables.details import DetailsTable
from qbench.report.tables.latex import details_to_latex
from tests.helpers.frames import trials
from tests.helpers.tables import (
    latex,
    only,
    rich,
    written,
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


PAPER = r"""\documentclass[CLASS]{article}
\usepackage{adjustbox}
\usepackage{booktabs}
\usepackage{threeparttable}
\begin{document}
Text before. \input{tables} Text between. \input{details} Text after.
\end{document}
"""


def pdflatex(folder: Path, name: str) -> str:
    """Compile a document once, and return what was said."""
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def many() -> list[pd.DataFrame]:
    """A table that is wider and longer than a page, and odd texts."""
    reason = r"\undefined & _ # % ^ ~ $ { } α “ß” 量 " + "long words " * 30
    told = {"training": "{}", "options": "{}", "first_layer": "", "published": "", "source": ""}
    wide = [
        trials(f"Method {m}", 90.0 + m / 10, 91.0, bits=f"{w}/{a}", **told)
        for m in range(30)
        for w in (1, 2, 3, 4)
        for a in (1, 2, 3)
    ]
    unable = trials("Unable", "unsupported", bits="3(±4)/32", reason=reason, **told)
    failed = trials("Ω", "failed", reason=reason, model="a_b^c", **told)
    return [*rich(), *wide, unable, failed]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
def test_latex_compiles_in_a_paper_and_fits_it(tmp_path: Path, columns: str) -> None:
    written(tmp_path, *many())
    (tmp_path / "paper.tex").write_text(PAPER.replace("CLASS", columns), encoding="utf-8")
    told = pdflatex(tmp_path, "paper.tex")
    assert "Overfull" not in told
    assert "Float too large" not in told
    pdflatex(tmp_path, "leaderboard.tex")
    assert (tmp_path / "leaderboard.pdf").stat().st_size > 10_000


def test_tables_span_the_columns_of_a_paper_and_hold_their_notes(tmp_path: Path) -> None:
    files = written(tmp_path, *many())
    for name in ("tables.tex", "details.tex"):
        floats = re.findall(r"\\begin\{table\*\}.*?\\end\{table\*\}", files[name], re.DOTALL)
        assert len(floats) > 1
        assert "longtable" not in files[name]
        assert all(r"\begin{threeparttable}" in text for text in floats)
        assert all(r"\vspace{6pt}" in text for text in floats)
        outside = re.sub(r"\\begin\{table\*\}.*?\\end\{table\*\}", "", files[name], flags=re.DOTALL)
        assert not re.search(r"\\item|\\textsuperscript", outside)
    assert r"\item[1] " in files["tables.tex"]


def test_a_wide_table_is_split_and_each_part_has_its_own_notes() -> None:
    unable = trials("A", "unsupported", bits="9/9", reason="never")
    widths = [trials("A", 90.0, 91.0, 92.0, bits=f"{w}/8") for w in range(1, 13)]
    first, second = latex(only(*widths, unable)).split(r"\end{table*}")[:2]
    assert "(part 1 of 2)" in first
    assert "(part 2 of 2)" in second
    assert "9/9" not in first
    assert r"\item[1] never" not in first
    assert r"\item[1] never" in second


def test_a_long_table_goes_on_in_another_one() -> None:
    def details(rows: int, length: int) -> str:
        table = DetailsTable("Title", [BY_NAME["label"]], [["x" * length]] * rows)
        return details_to_latex([table])

    assert details(50, 9).count(r"\begin{table*}") == 1
    assert details(60, 9).count(r"\begin{table*}") == 2
    assert details(50, 90).count(r"\begin{table*}") == 4  # four lines each
    assert "Title (part 2 of 2)." in details(60, 9)


def test_a_narrow_table_has_a_larger_font() -> None:
    assert r"\footnotesize\setlength" in latex(only(trials("A", 90.0, 91.0)))
    widths = [trials("A", 90.0, 91.0, 92.0, bits=f"{w}/8") for w in range(1, 8)]
    assert r"\scriptsize\setlength" in latex(only(*widths))

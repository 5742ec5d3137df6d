from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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

"""Tables from trials: Markdown, LaTeX and CSV in the papers' layout, and every trial as a row.

A pure function of its frames: the same trials give the same bytes. Methods go down, bit-widths
across; a cell is the mean ± the sample standard deviation of top-1 accuracy over seeds.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

DASH = "–"
WAITING = "…"
FULL_PRECISION = "32/32"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it shows.
        notes: numbers of its footnotes, from 1.
        best: whether it is the best of its column.
    """

    text: str
    notes: tuple[int, ...] = ()
    best: bool = False


@dataclass
class Table:
    """One table: a model on a dataset.

    Attributes:
        dataset: the dataset's name.
        model: the model's name.
        caption: what the numbers are, and the full-precision accuracy.
        columns: bit-widths.
        rows: a method's label and its cells.
        notes: footnotes, in the order of their numbers.
    """

    dataset: str
    model: str
    caption: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> int:
        """The number of a footnote; the same text has the same number."""
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


def write(
    name: str, title: str, trials: pd.DataFrame, histories: pd.DataFrame, folder: Path
) -> list[Path]:
    """Write the tables and figures of a suite.

    Args:
        name: the suite's name, for LaTeX labels.
        title: heading.
        trials: a row for each trial, as `qbench.benchmark.Benchmark.trials` makes them; order of
            first appearance is the order of rows and columns.
        histories: a row for each trial and epoch: ``key``, ``epoch``, ``top1``, ``train_loss``.
        folder: where to; made if needed.

    Returns:
        The files, each replaced as a whole: ``leaderboard.md``, ``.tex`` and ``.csv``,
        ``trials.csv``, and the figures as PNG and SVG.
    """
    from qbench import figures

    folder.mkdir(parents=True, exist_ok=True)
    found = tables(trials)
    drawn = {
        "accuracy_by_bits": figures.accuracy_by_bits(trials),
        "training_curves": figures.training_curves(trials, histories),
    }
    pictures = {
        f"{stem}.{suffix}": figures.render(figure, suffix)
        for stem, figure in drawn.items()
        if figure is not None
        for suffix in ("png", "svg")
    }
    shown = [picture for picture in pictures if picture.endswith("png")]
    texts = {
        "leaderboard.md": to_markdown(title, found, shown),
        "leaderboard.tex": "\n".join(to_latex(name, title, table) for table in found),
        "leaderboard.csv": to_csv(found),
        "trials.csv": trials.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
    }
    files = {name: text.encode() for name, text in texts.items()} | pictures
    for file, content in files.items():
        scratch = folder / f".{file}.part"
        scratch.write_bytes(content)
        os.replace(scratch, folder / file)
    return [folder / file for file in files]


def tables(trials: pd.DataFrame) -> list[Table]:
    """One table for each dataset and model, in order of first appearance."""
    return [
        _table(str(dataset), str(model), group)
        for (dataset, model), group in trials.groupby(["dataset", "model"], sort=False)
    ]


def _table(dataset: str, model: str, trials: pd.DataFrame) -> Table:
    quantized = trials[trials["method"] != "fp32"]
    columns = list(dict.fromkeys(quantized["bits"]))
    labels = list(dict.fromkeys(quantized["label"]))
    table = Table(dataset, model, _caption(dataset, model, trials), columns, [])
    if not labels:  # a suite of full precision alone
        columns.append(FULL_PRECISION)
        quantized = trials
        labels = list(dict.fromkeys(trials["label"]))
    best = {bits: _best(quantized[quantized["bits"] == bits]) for bits in columns}
    for label in labels:
        row = quantized[quantized["label"] == label]
        cells = [_cell(table, row[row["bits"] == bits], best[bits]) for bits in columns]
        table.rows.append((label, cells))
    return table


def _caption(dataset: str, model: str, trials: pd.DataFrame) -> str:
    quantized = trials[trials["method"] != "fp32"]
    runnable = quantized[quantized["status"] != "unsupported"]
    seeds = trials["seed"].nunique()
    epochs = " or ".join(str(e) for e in dict.fromkeys(runnable["epochs"]))
    recipe = {
        "aligned": f"every method trained by the same recipe ({epochs} epochs)",
        "paper": f"each method trained by its published recipe ({epochs} epochs)",
    }
    parts = [
        f"{model} on {dataset}: top-1 test accuracy (%) of the hard-quantized network after the "
        f"last epoch, mean ± standard deviation over {seeds} "
        f"seed{'s' if seeds > 1 else ''}"
    ]
    parts += [recipe[name] for name in dict.fromkeys(runnable["recipe"])]
    full = trials[(trials["method"] == "fp32") & (trials["status"] == "done")]
    if len(full):
        parts.append(f"full precision: {mean_and_deviation(full['top1'])} (n = {len(full)})")
    return "; ".join(parts) + "."


def _cell(table: Table, trials: pd.DataFrame, best: str) -> Cell:
    """A cell from the trials of its seeds."""
    if trials.empty:
        return Cell("")
    done = trials[trials["status"] == "done"]
    failed = trials[trials["status"] == "failed"]
    missing = trials[trials["status"] == "missing"]
    if (trials["status"] == "unsupported").any():
        return Cell(DASH, (table.note(trials["reason"].iloc[0]),))
    notes = []
    if len(failed):
        reason = str(failed["reason"].iloc[0]).splitlines() or [""]
        notes.append(table.note(f"{_of_seeds(failed, trials)} failed: {reason[0]}"))
    if len(missing):
        notes.append(table.note(f"{_of_seeds(missing, trials)} not run yet"))
    broken = done[done["audit"] != ""]
    if len(broken):
        notes.append(table.note(f"not k-bit: {broken['audit'].iloc[0]}"))
    text = mean_and_deviation(done["top1"]) if len(done) else "failed" if len(failed) else WAITING
    return Cell(text, tuple(notes), best=not notes and text.split(" ")[0] == best)


def _best(column: pd.DataFrame) -> str:
    """The best mean of a column, as it is printed, among rows that every seed finished honestly."""
    honest = column.groupby("label").filter(
        lambda row: (row["status"] == "done").all() and (row["audit"] == "").all()
    )
    if honest.empty:
        return ""
    return f"{honest.groupby('label')['top1'].mean().max():.2f}"


def _of_seeds(some: pd.DataFrame, trials: pd.DataFrame) -> str:
    return f"{len(some)} of {len(trials)} seeds" if len(trials) > 1 else "its seed"


def mean_and_deviation(values: pd.Series) -> str:
    """``97.22 ± 0.31``, the sample standard deviation; ``97.22`` of a single value."""
    mean = f"{values.mean():.2f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std(ddof=1):.2f}"


def to_markdown(title: str, found: list[Table], pictures: list[str]) -> str:
    """Tables as GitHub shows them, which read as plain text too."""
    lines = [f"# {_inline(title)}"]
    for table in found:
        cells = [
            [_inline(label), *(_markdown_cell(cell) for cell in row)] for label, row in table.rows
        ]
        header = ["method", *table.columns]
        widths = [max(_width(row[i]) for row in [header, *cells]) for i in range(len(header))]
        lines += ["", _inline(table.caption), ""]
        lines.append(_pipes(header, widths))
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        lines.append(_pipes(rule, widths))
        lines += [_pipes(row, widths) for row in cells]
        if table.notes:
            notes = [f"{i}. {_inline(note)}" for i, note in enumerate(table.notes, 1)]
            lines += ["", f"{DASH} cannot be trained. Notes:", "", *notes]
    for picture in pictures:
        stem = Path(picture).stem.replace("_", " ")
        lines += ["", f"![{stem}]({picture})"]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    marks = ",".join(map(str, cell.notes))
    return f"{text} [{marks}]" if marks else text


def _pipes(cells: list[str], widths: list[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    padded = [first[0] + " " * (first[1] - _width(first[0]))]
    padded += [" " * (width - _width(text)) + text for text, width in rest]
    return f"| {' | '.join(padded)} |"


def _width(text: str) -> int:
    return sum(not unicodedata.combining(letter) for letter in text)


def _inline(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    text = re.sub(r"([\\`*\[\]|]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))
    return text.replace("<", "&lt;").replace(">", "&gt;")


def to_latex(name: str, title: str, table: Table) -> str:
    """A booktabs table that compiles as it is, with its footnotes below."""
    rows = [
        " & ".join([_latex(label), *(_latex_cell(cell) for cell in cells)]) + r" \\"
        for label, cells in table.rows
    ]
    notes = [rf"\textsuperscript{{{i}}}~{_latex(n)}" for i, n in enumerate(table.notes, 1)]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(title)}. {_latex(table.caption)}}}",
        rf"\label{{tab:{name}-{_label(table.dataset)}-{_label(table.model)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["Method", *map(_latex, table.columns)]) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if notes:
        lines += ["", r"\smallskip", r"\footnotesize " + ";\n".join(notes) + "."]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    marks = ",".join(map(str, cell.notes))
    return rf"{text}\textsuperscript{{{marks}}}" if marks else text


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "–": "--",
    "…": r"\dots{}",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
}


def _latex(text: str) -> str:
    """Text with everything special to LaTeX escaped, and what pdflatex cannot set left out."""
    plain = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(_LATEX.get(letter, letter if ord(letter) < 0x180 else "?") for letter in plain)


def _label(text: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in text)


def to_csv(found: list[Table]) -> str:
    """The tables as CSV: dataset, model, method, then a column for each width."""
    columns = list(dict.fromkeys(bits for table in found for bits in table.columns))
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["dataset", "model", "method", *columns])
    for table in found:
        for label, cells in table.rows:
            shown = dict(zip(table.columns, (cell.text for cell in cells), strict=True))
            rows.writerow(
                [table.dataset, table.model, label, *(shown.get(bits, "") for bits in columns)]
            )
    return out.getvalue()

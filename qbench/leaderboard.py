"""Tables from trials, in the papers' layout: Markdown, LaTeX, CSV, and every trial as a row.

The same trials give the same bytes. Methods go down, bit-widths ``W/A`` across; a cell is the mean
± the sample standard deviation over seeds, of top-1 or of whatever the dataset shows.
"""

from __future__ import annotations

import json
import os
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from qbench.bits import FULL_PRECISION

DASH = "–"
WAITING = "…"
METRICS = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "map50_voc07": "mAP at IoU 0.5 (VOC2007's 11 points)",
}
RECIPES = {
    "aligned": "recipe aligned: every method trained by the same recipe, {epochs} epochs",
    "paper": "recipe paper: each method's published recipe",
}


@dataclass(frozen=True)
class Layout:
    """What a suite says of its tables.

    Attributes:
        name: the suite's name, for LaTeX labels.
        title: heading.
        bits: widths ``W/A``, in the order of columns.
        shown: the metrics that a cell shows; the first decides which is best.
        rehearsal: whether the trials only tried things out: then every cell says so.
    """

    name: str
    title: str
    bits: Sequence[str] = ()
    shown: Sequence[str] = ("top1",)
    rehearsal: bool = False


@dataclass
class Cell:
    """One cell of a table.

    Attributes:
        text: what it shows; '' where the suite has no such trial.
        notes: numbers of its footnotes, from 1.
        mean: of the first metric, as printed; None unless every seed is done and k bits hold.
        best: whether it is the best of its column, or ties with it as printed.
    """

    text: str
    notes: tuple[int, ...] = ()
    mean: float | None = None
    best: bool = False


@dataclass
class Table:
    """One table: a model on a dataset.

    Attributes:
        dataset, model: their names.
        caption: what the numbers are, and the full-precision accuracy.
        columns: bit-widths, ``W/A``.
        rows: each method's label, and a cell for each column.
        notes: footnotes, in reading order.
        settings: the options of each method, and what rows have of their own.
    """

    dataset: str
    model: str
    caption: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)

    def note(self, text: str) -> int:
        """Return the number of a footnote, from 1; the same text has the same number."""
        text = one_line(text)
        if text not in self.notes:
            self.notes.append(text)
        return self.notes.index(text) + 1


def write(
    layout: Layout,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    folder: Path,
    further: Sequence[Path] = (),
) -> list[Path]:
    """Write the tables and figures of a suite, each file replaced as a whole.

    Args:
        layout: what the suite says of them.
        trials: one row for each trial, in the suite's order, with columns ``key``, ``method``,
            ``label`` (row of the table), ``model``, ``dataset``, ``bits``, ``seed``, ``recipe``,
            ``epochs``, ``status`` (done, failed, unsupported or missing), ``reason``, ``top1``
            (percent) and ``audit`` ('' where k bits hold); further ones go to ``trials.csv``. Where
            there are ``options`` and ``training`` (JSON), the table says them; where there are
            ``published`` (as a cell shows it) and ``source``, it has columns of published numbers.
        histories: one row for each trial and epoch: ``key``, ``epoch`` (from 1), ``top1`` (%), and
            ``soft_top1`` where quantizers have a soft form.
        folder: where to; made if needed.
        further: figures that are there already, to be shown after the others.

    Returns:
        ``leaderboard.md``, ``.tex`` and ``.csv``, ``trials.csv``, and the figures there are.

    Raises:
        KeyError: a frame lacks a column.
        OSError: the folder cannot be written.
    """
    from qbench import figures  # matplotlib takes a second to import

    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    if not layout.rehearsal:  # a picture cannot say of each point that it is none
        metric = layout.shown[0]
        drawn += figures.accuracy_by_bits(trials, folder, metric)
        drawn += figures.training_curves(trials, histories, folder, metric)
        drawn += figures.soft_and_hard(trials, histories, folder, metric)
    drawn += further
    found = table(layout, trials)
    title = f"Rehearsal, no results: {layout.title}" if layout.rehearsal else layout.title
    pictures = [path.name for path in drawn if path.suffix == ".png"]
    texts = {
        "leaderboard.md": to_markdown(title, found, pictures),
        "leaderboard.tex": to_latex(layout.name, title, found),
        "leaderboard.csv": to_csv(found),
        "trials.csv": trials.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
    }
    for file, text in texts.items():
        scratch = folder / f".{file}.tmp"
        scratch.write_bytes(text.encode(errors="backslashreplace"))
        os.replace(scratch, folder / file)
    return [folder / file for file in texts] + drawn


def table(layout: Layout, trials: pd.DataFrame) -> list[Table]:
    """Return a table for each dataset and model of trials as `write` takes them, in their order."""
    return [
        _table(layout, str(dataset), str(model), group)
        for (dataset, model), group in trials.groupby(["dataset", "model"], sort=False)
    ]


def _table(layout: Layout, dataset: str, model: str, trials: pd.DataFrame) -> Table:
    shown = trials[trials["method"] != "fp32"]
    if shown.empty or (shown["bits"] == str(FULL_PRECISION)).any():
        shown = trials  # full precision has a column to stand in
    widths = list(map(str, shown.loc[shown["method"] != "fp32", "bits"].unique()))
    ordered = [bits for bits in layout.bits if bits in widths] if layout.bits else widths
    columns = ordered or [str(FULL_PRECISION)]
    result = Table(dataset, model, _caption(layout, dataset, model, trials), columns)
    for label, row in shown.groupby("label", sort=False):
        cells = (row[row["bits"] == bits] for bits in columns)
        result.rows.append((one_line(label), [_cell(layout, result, cell) for cell in cells]))
    _add_published(result, shown)
    result.settings = _settings(shown)
    for column in zip(*(cells for _, cells in result.rows), strict=True):
        means = [cell.mean for cell in column if cell.mean is not None]
        for cell in column:
            cell.best = cell.mean is not None and cell.mean == max(means)
    return result


def _add_published(table: Table, trials: pd.DataFrame) -> None:
    """Add a column of published numbers for each width that has any."""
    if "published" not in trials or not trials["published"].any():
        return
    found = trials[trials["published"] != ""].drop_duplicates(["label", "bits"])
    numbers = {(one_line(row["label"]), row["bits"]): row for _, row in found.iterrows()}
    for bits in [bits for bits in table.columns if (found["bits"] == bits).any()]:
        table.columns.append(f"{bits} published")
        for label, cells in table.rows:
            number = numbers.get((label, bits))
            if number is None:
                cells.append(Cell(""))
            else:
                note = table.note(f"published, not run here: {number['source']}")
                cells.append(Cell(number["published"], (note,)))


def _settings(trials: pd.DataFrame) -> list[str]:
    """What rows ran with: first what they have in common, then what sets each apart."""
    if not {"options", "training"} <= set(trials):
        return []
    quantized = trials[trials["method"] != "fp32"]
    rows = quantized.drop_duplicates(["label", "options", "training"])
    labels = [_named(quantized, row) for _, row in rows.iterrows()]
    rows = rows.assign(label=labels)
    options = dict(zip(labels, map(json.loads, rows["options"]), strict=True))
    training = dict(zip(labels, map(_used, rows["training"]), strict=True))
    untrained = set(rows.loc[rows["epochs"] == 0, "label"])
    recipe = _common([used for label, used in training.items() if label not in untrained])
    texts = [f"Recipe: {_as_text(recipe)}"] if recipe else []
    methods = rows.groupby("method", sort=False)
    for _, group in methods:
        names = list(group["label"])
        common = _common([options[name] for name in names])
        if common:
            who = "Every row" if 1 == len(methods) < len(names) else ", ".join(names)
            texts.append(f"{who}: {_as_text(common)}")
        for name in names:
            apart = _without(options[name], common)
            if name not in untrained:  # the caption names those that are not trained
                apart |= _without(training[name], recipe)
            texts += [f"{name}: {_as_text(apart)}"] if apart else []
    return texts


def _named(trials: pd.DataFrame, row: pd.Series[Any]) -> str:
    """A row's label, with its widths where it has other settings at others."""
    same = trials[trials["label"] == row["label"]]
    if len(same[["options", "training"]].drop_duplicates()) == 1:
        return one_line(row["label"])
    its = same[(same["options"] == row["options"]) & (same["training"] == row["training"])]
    return one_line(f"{row['label']} at {', '.join(its['bits'].unique())}")


def _used(recipe: str) -> dict[str, object]:
    """A recipe's values, without those that turn nothing on."""
    values: dict[str, object] = json.loads(recipe)
    if values.get("schedule") != "step":
        values.pop("gamma", None)
    return {name: value for name, value in values.items() if value not in (None, 0, [])}


def _common(settings: list[dict[str, object]]) -> dict[str, object]:
    """What all have, with one value."""
    first, *others = settings or [{}]
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }


def _without(settings: dict[str, object], common: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in common}


def _as_text(settings: dict[str, object]) -> str:
    return ", ".join(f"{name} = {_value(value)}" for name, value in settings.items())


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _cell(layout: Layout, table: Table, trials: pd.DataFrame) -> Cell:
    """The cell of the trials of one method and width, one for each seed."""
    if trials.empty:
        return Cell("")
    statuses = ("done", "failed", "missing", "unsupported")
    done, failed, missing, unable = (trials[trials["status"] == status] for status in statuses)
    if len(unable):
        return Cell(DASH, (table.note(unable["reason"].iloc[0]),))
    count = len(trials)
    notes = []
    firsts = failed["reason"].map(lambda text: next(iter(str(text).strip().splitlines()), ""))
    for reason, times in firsts.value_counts(sort=False).items():
        which = f"{times} of {count} seeds failed" if count > 1 else "failed"
        notes.append(f"{which}: {reason}")
    if len(missing):
        run = f"{count - len(missing)} of {count} seeds run"
        notes.append("not run yet" if len(missing) == count else run)
    notes += [f"not k-bit: {audit}" for audit in done["audit"].unique() if audit]
    text = WAITING if len(missing) else "failed" if len(failed) else ""
    mean = None
    if len(done):
        text = "/".join(mean_and_deviation(done[name]) for name in layout.shown)
        text += f" (n = {len(done)})" if len(done) < count else ""
        if layout.rehearsal:
            text += " (rehearsal)"
        elif not notes:
            mean = float(text.split("/")[0].split()[0])  # as printed, so that ties are ties
    if "unreadable" in done:
        notes += [text for text in done["unreadable"].unique() if text]
    return Cell(text, tuple(map(table.note, notes)), mean)


def mean_and_deviation(values: pd.Series[float]) -> str:
    """Return ``97.22 ± 0.31`` with the sample standard deviation, or ``97.22`` of one value."""
    mean = f"{values.mean():.2f}"
    return mean if len(values) < 2 else f"{mean} ± {values.std(ddof=1):.2f}"


def _caption(layout: Layout, dataset: str, model: str, trials: pd.DataFrame) -> str:
    full = trials[trials["method"] == "fp32"]
    quantized = trials[trials["method"] != "fp32"] if len(full) < len(trials) else full
    able = quantized[quantized["status"] != "unsupported"]
    trained = able[able["epochs"] > 0]
    epochs = " or ".join(map(str, trained["epochs"].unique()))
    recipe = RECIPES[quantized["recipe"].iloc[0]].format(epochs=epochs)
    if untrained := list(able.loc[able["epochs"] == 0, "label"].unique()):
        recipe += f"; calibrated only, without training: {', '.join(untrained)}"
    seeds = quantized["seed"].nunique()
    over = f"mean ± standard deviation over n = {seeds} seeds" if seeds > 1 else "one seed (n = 1)"
    what = "/".join(METRICS[name] for name in layout.shown)
    text = (
        f"{model} on {dataset}: {what} in % on the test split, of the hard-quantized "
        f"network after the last epoch, {over}; {recipe}."
    )
    done = full[full["status"] == "done"]
    if len(full):
        means = "/".join(mean_and_deviation(done[name]) for name in layout.shown)
        text += f" Full precision: {means if len(done) else 'not finished'} (n = {len(done)})."
    if layout.rehearsal:
        text = (
            "A rehearsal of a few steps on a stand-in for the data, to see that everything runs: "
            f"no number measured here is a result. {text}"
        )
    return one_line(text)


def one_line(text: object) -> str:
    """Return text on one line, without control characters (as errors from terminals have)."""
    words = unicodedata.normalize("NFC", " ".join(str(text).split()))
    return "".join(letter for letter in words if unicodedata.category(letter) != "Cc")


def to_markdown(title: str, tables: list[Table], pictures: list[str]) -> str:
    """Return tables for GitHub, aligned so that they read as plain text too, and pictures."""
    blocks = [f"# {_markdown(title)}"]
    for found in tables:
        header = ["method", *map(_markdown, found.columns)]
        body = [[_markdown(label), *map(_markdown_cell, cells)] for label, cells in found.rows]
        sizes = [max(3, *map(len, column)) for column in zip(header, *body, strict=True)]
        rule = ["-" * sizes[0], *("-" * (size - 1) + ":" for size in sizes[1:])]
        blocks.append(_markdown(found.caption))
        blocks.append("\n".join(_pipes(row, sizes) for row in [header, rule, *body]))
        notes = [f"{i}. {_markdown(note)}" for i, note in enumerate(found.notes, 1)]
        blocks += ["\n".join(notes)] if notes else []
        if found.settings:
            blocks.append("Settings:\n\n" + "\n".join(f"- {_markdown(s)}" for s in found.settings))
    blocks += [f"![{Path(file).stem.replace('_', ' ')}]({file})" for file in pictures]
    return "\n\n".join(blocks) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} [{','.join(map(str, cell.notes))}]" if cell.notes else text


def _pipes(cells: list[str], sizes: list[int]) -> str:
    rest = [text.rjust(size) for text, size in zip(cells[1:], sizes[1:], strict=True)]
    return f"| {' | '.join([cells[0].ljust(sizes[0]), *rest])} |"


# An underscore inside a word is no markup; left as it is, names stay readable as plain text.
_MARKUP = re.compile(r"[\\`*\[\]|<>~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|^[#+=-]|(?<=^\d)[.)]")


def _markdown(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def to_latex(name: str, title: str, tables: list[Table]) -> str:
    """Return booktabs tables for plain pdflatex, their footnotes as text below."""
    return "\n".join(["% \\usepackage{booktabs}", *(_latex_table(name, title, t) for t in tables)])


def _latex_table(name: str, title: str, found: Table) -> str:
    label = re.sub(r"[^A-Za-z0-9-]+", "-", f"{name}-{found.dataset}-{found.model}")
    rows = [[_latex(label), *map(_latex_cell, cells)] for label, cells in found.rows]
    lines = [
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_latex(f'{title}. {found.caption}')}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{l{'r' * len(found.columns)}}}",
        r"\toprule",
        " & ".join(["Method", *map(_latex, found.columns)]) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    notes = [rf"\textsuperscript{{{i}}}~{_latex(note)}" for i, note in enumerate(found.notes, 1)]
    settings = [f"Settings. {'; '.join(map(_latex, found.settings))}."] if found.settings else []
    below = [";\n".join(notes)] * bool(notes) + settings
    lines += [r"\par\smallskip\footnotesize", "\\par\n".join(below)] if below else []
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{_latex(cell.text)}}}" if cell.best else _latex(cell.text)
    marks = ",".join(map(str, cell.notes))
    return rf"{text}\textsuperscript{{{marks}}}" if marks else text


# Each letter, followed by the command that sets it.
_MATH = """±pm ×times ÷div ·cdot ≤le ≥ge ≠ne ≈approx →to ∞infty αalpha βbeta γgamma δdelta
    εvarepsilon ηeta θtheta κkappa λlambda μmu µmu πpi ρrho σsigma τtau φvarphi ψpsi ωomega ΔDelta
    ΣSigma ΩOmega"""
_TEXT = r"""\backslash ~asciitilde ^asciicircum <less >greater |bar `asciigrave –endash —emdash
    …ellipsis ‘quoteleft ’quoteright “quotedblleft ”quotedblright"""
_LATEX = {
    **{word[0]: rf"$\{word[1:]}$" for word in _MATH.split()},
    **{word[0]: rf"\text{word[1:]}{{}}" for word in _TEXT.split()},
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"{{{letter}}}" for letter in "[]*"},  # else read as arguments of a \\ before
    **{"−": "$-$", "²": "$^2$", "³": "$^3$", "ß": r"\ss{}", "ø": r"\o{}", "ł": r"\l{}"},
    **{
        unicodedata.normalize("NFC", letter + mark): rf"\{accent}{{{letter}}}"
        for accent, mark in zip("`'^~\"v", "\u0300\u0301\u0302\u0303\u0308\u030c", strict=True)
        for letter in string.ascii_letters
    },
}


def _latex(text: str) -> str:
    """Text with everything special to LaTeX escaped, also -- which it makes a dash."""
    escaped = (  # what pdflatex has no letter for becomes its number
        _LATEX.get(letter, letter if letter.isascii() else f"(U+{ord(letter):04X})")
        for letter in one_line(text)
    )
    return re.sub("-(?=-)", "-{}", "".join(escaped))


def to_csv(tables: list[Table]) -> str:
    """Return the tables as CSV: model, dataset, method, and a column for each width."""
    rows = [
        {"model": found.model, "dataset": found.dataset, "method": label}
        | dict(zip(found.columns, (cell.text for cell in cells), strict=True))
        for found in tables
        for label, cells in found.rows
    ]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")

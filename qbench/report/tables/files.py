"""Tables from trials: Markdown, LaTeX, CSV, and every trial as a row.

The same trials give the same bytes. In the papers' layout methods go down, bit-widths ``W/A``
across; a cell is the mean ± the sample standard deviation over seeds, of top-1 or of whatever the
dataset shows. ``qbench.report.summary`` says which differences are significant, what papers claim,
and what each result costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from qbench.files import write_atomic
from qbench.report.summary import summarise
from qbench.report.tables.details import Details, claims, protocol_and_cost
from qbench.report.tables.latex import details_to_latex, document, to_latex
from qbench.report.tables.layout import REHEARSAL, Layout
from qbench.report.tables.markdown import details_to_markdown, to_markdown
from qbench.report.tables.table import tables


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
            (percent) and ``audit`` ('' where k bits hold); further ones, as
            `qbench.report.columns.TRIAL_COLUMNS` has them, say more.
        histories: one row for each trial and epoch: ``key``, ``epoch`` (from 1), ``top1`` (%), and
            ``soft_top1`` where quantizers have a soft form.
        folder: where to; made if needed.
        further: figures that are there already, to be shown after the others.

    Returns:
        ``leaderboard.md``, ``details.md``; ``leaderboard.tex``, a document of ``tables.tex`` and
        ``details.tex``; ``leaderboard.csv``, a row for each result, and ``trials.csv``, one for
        each trial; and the figures there are.

    Raises:
        KeyError: a frame lacks a column.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(trials, layout.shown[0])
    drawn: list[Path] = []
    if not layout.rehearsal:  # a picture cannot say of each point that it is none
        drawn += _draw(layout.shown[0], trials, histories, summary, folder)
    drawn += further
    pictures = [path.name for path in drawn if path.suffix == ".png"]
    texts = _texts(layout, trials, summary, pictures)
    for file, text in texts.items():
        with write_atomic(folder / file) as scratch:
            scratch.write_bytes(text.encode(errors="backslashreplace"))
    return [folder / file for file in texts] + drawn


def _draw(
    metric: str,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    summary: pd.DataFrame,
    folder: Path,
) -> list[Path]:
    """Draw the figures of a suite, those that there is anything for."""
    from qbench.report.figures import accuracy  # matplotlib takes a second to import
    from qbench.report.figures.pareto import pareto
    from qbench.report.figures.ranks import ranks

    return [
        *accuracy.accuracy_by_bits(trials, folder, metric),
        *pareto(summary, folder),
        *ranks(summary, folder),
        *accuracy.training_curves(trials, histories, folder, metric),
        *accuracy.soft_and_hard(trials, histories, folder, metric),
    ]


def _texts(
    layout: Layout, trials: pd.DataFrame, summary: pd.DataFrame, pictures: Sequence[str]
) -> dict[str, str]:
    """The files of a suite's tables, and what stands in each."""
    title, found = layout.heading, tables(layout, trials, summary)
    beside, single = claims(summary), protocol_and_cost(summary)
    if layout.rehearsal:  # each of them may be read without the others
        beside, single = ([_of_rehearsal(each) for each in group] for group in (beside, single))
        summary = summary.assign(status=summary["status"].replace("done", "rehearsal"))
    return {
        "leaderboard.md": to_markdown(title, found, pictures, beside, see="details.md"),
        "details.md": details_to_markdown(f"Protocol and cost: {title}", single),
        "leaderboard.tex": document(["tables", "details"]),
        "tables.tex": to_latex(layout.name, title, found),
        "details.tex": details_to_latex([*beside, *single]),
        "leaderboard.csv": _csv(summary),
        "trials.csv": _csv(trials),
    }


def _of_rehearsal(details: Details) -> Details:
    return replace(details, title=f"{REHEARSAL}: {details.title}")


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")

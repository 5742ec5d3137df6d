"""Write all files of a suite's results folder: tables, figures and the page.

The functions here are pure functions of frames: the same trials give the same bytes. The way of a
number from a trial to a file:

1. `qbench.report.trial_rows` makes one row for each trial.
2. `qbench.report.summary` makes one row for each result, over its seeds. It decides, with the tests
   of `qbench.report.significance`, which result is bold.
3. `qbench.report.tables.table` arranges the results in tables.
4. `qbench.report.tables.markdown` and `qbench.report.tables.latex` print the tables,
   `qbench.report.figures` draws the figures, and `qbench.report.page` makes the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from qbench.files import write_atomic
from qbench.report.presentation import REHEARSAL_HEADING, Presentation
from qbench.report.summary import summarise
from qbench.report.tables.details import DetailsTable, claims, protocol_and_cost
from qbench.report.tables.latex import details_to_latex, document, to_latex
from qbench.report.tables.markdown import details_to_markdown, to_markdown
from qbench.report.tables.table import ResultsTable, tables

if TYPE_CHECKING:
    from qbench.store.evidence import Evidence


def write(
    presentation: Presentation,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    folder: Path,
    further: Sequence[Path] = (),
    evidence: Mapping[str, Evidence] | None = None,
) -> list[Path]:
    """Write the tables, the figures and the page of a suite. Each file is replaced as a whole.

    Args:
        presentation: How the suite presents its results.
        trials: One row for each trial, in the order of the suite. Required columns: ``key``,
            ``method``, ``label`` (row of the table), ``model``, ``dataset``, ``bits``, ``seed``
            (int), ``recipe``, ``epochs`` (int), ``status`` (done, failed, unsupported or missing),
            ``reason``, one column (float, %) for each metric that is shown, such as ``top1``, and
            ``audit`` (empty if k bits hold). Further columns of
            `qbench.report.columns.TRIAL_COLUMNS` add policy, cost and claims.
        histories: One row for each trial and epoch. Columns: ``key``, ``epoch`` (int, from 1), the
            metrics that are shown (%), and ``soft_`` and their names for soft quantizers.
        folder: The folder of the files. It is created if it does not exist.
        further: Figures that exist already, shown after the others.
        evidence: Environment, audit and log of each trial that has ended, by key. If None, the page
            is not written.

    Returns:
        ``leaderboard.md`` and ``details.md``; ``leaderboard.tex``, a document of ``tables.tex`` and
        ``details.tex``; ``leaderboard.csv``, one row for each result, and ``trials.csv``, one row
        for each trial; the figures that there is data for; and ``leaderboard.html`` if `evidence`
        is given.

    Raises:
        KeyError: A frame lacks a required column.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise(trials, presentation.shown[0])
    figures: list[Path] = []
    if not presentation.rehearsal:  # a figure cannot mark each of its points as a rehearsal
        figures += _draw(presentation.shown[0], trials, histories, summary, folder)
    figures += further
    pictures = [path.name for path in figures if path.suffix == ".png"]
    found = tables(presentation, trials, summary)
    texts = _texts(presentation, trials, summary, found, pictures)
    if evidence is not None:
        from qbench.report.page.page import MIME_TYPES, render

        captions = list(dict.fromkeys(table.caption for table in found))
        content = {path.name: path.read_bytes() for path in figures if path.suffix in MIME_TYPES}
        texts["leaderboard.html"] = render(
            presentation, captions, summary, trials, histories, evidence, content
        )
    for file, text in texts.items():
        with write_atomic(folder / file) as scratch:
            scratch.write_bytes(text.encode(errors="backslashreplace"))
    return [folder / file for file in texts] + figures


def _draw(
    metric: str,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    summary: pd.DataFrame,
    folder: Path,
) -> list[Path]:
    """Draw the figures of a suite that there is data for."""
    # matplotlib takes a second to import
    from qbench.report.figures.accuracy import accuracy_by_bits
    from qbench.report.figures.pareto import pareto
    from qbench.report.figures.ranks import ranks
    from qbench.report.figures.training import soft_and_hard, training_curves

    return [
        *accuracy_by_bits(trials, folder, metric),
        *pareto(summary, folder),
        *ranks(summary, folder),
        *training_curves(trials, histories, folder, metric),
        *soft_and_hard(trials, histories, folder, metric),
    ]


def _texts(
    presentation: Presentation,
    trials: pd.DataFrame,
    summary: pd.DataFrame,
    found: Sequence[ResultsTable],
    pictures: Sequence[str],
) -> dict[str, str]:
    """Return the content of each text file by its name."""
    title = presentation.heading
    beside, single = claims(summary), protocol_and_cost(summary)
    if presentation.rehearsal:  # each table may be read without the others
        beside, single = ([_of_rehearsal(each) for each in group] for group in (beside, single))
        summary = summary.assign(status=summary["status"].replace("done", "rehearsal"))
    return {
        "leaderboard.md": to_markdown(title, found, pictures, beside, see="details.md"),
        "details.md": details_to_markdown(f"Protocol and cost: {title}", single),
        "leaderboard.tex": document(["tables", "details"]),
        "tables.tex": to_latex(presentation.name, title, found),
        "details.tex": details_to_latex([*beside, *single]),
        "leaderboard.csv": _csv(summary),
        "trials.csv": _csv(trials),
    }


def _of_rehearsal(details: DetailsTable) -> DetailsTable:
    return replace(details, title=f"{REHEARSAL_HEADING}: {details.title}")


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")

"""Write all files of a suite's results folder: tables, figures and the page.

The functions here are pure functions of frames: the same trials give the same bytes. An exception
costs only the part, the model or the method that it comes from (`qbench.report.problems`). The way
of a number from a trial to a file:

1. `qbench.report.trial_rows` makes one row for each trial.
2. `qbench.report.summary` makes one row for each result, over its seeds. It decides, with the tests
   of `qbench.report.significance`, which result is bold.
3. `qbench.report.tables.table` arranges the results in tables.
4. `qbench.report.tables.markdown` and `qbench.report.tables.latex` print the tables,
   `qbench.report.figures` draws the figures, and `qbench.report.page` makes the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from qbench.errors import QbenchError
from qbench.files import write_atomic
from qbench.report.presentation import REHEARSAL_HEADING, Presentation
from qbench.report.problems import make_of_sound, noted
from qbench.report.summary import RESULT, summarise
from qbench.report.tables.details import DetailsTable, claims, protocol_and_cost
from qbench.report.tables.latex import details_to_latex, document, to_latex
from qbench.report.tables.markdown import details_to_markdown, to_markdown
from qbench.report.tables.table import ResultsTable, tables

if TYPE_CHECKING:
    from qbench.store.evidence import Evidence


@dataclass(frozen=True)
class Report:
    """Files that were written.

    Attributes:
        files: Paths of the files.
        problems: What could not be made, and why: a line for each part.
        tables: The tables of results.
    """

    files: list[Path]
    problems: list[str]
    tables: list[ResultsTable]


def write(
    presentation: Presentation,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    folder: Path,
    further: Sequence[Path] = (),
    evidence: Mapping[str, Evidence] | None = None,
    problems: Sequence[str] = (),
    beneath: Sequence[DetailsTable] = (),
    every: pd.DataFrame | None = None,
) -> Report:
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
        problems: What could not be made of these frames; the files say so too.
        beneath: Further tables, beneath those of the results.
        every: Rows of ``trials.csv``, if those of `trials` are means of several trials.

    Returns:
        The files: ``leaderboard.md`` and ``details.md``; ``leaderboard.tex``, a document of
        ``tables.tex`` and ``details.tex``; ``leaderboard.csv``, one row for each result, and
        ``trials.csv``, one row for each trial; ``leaderboard.html`` if `evidence` is given; and the
        figures that there is data for.

    Raises:
        QbenchError: Nothing can be made of the trials.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, metric = list(problems), presentation.shown[0]
    summary = make_of_sound(
        found,
        "the summary",
        trials,
        lambda rows: summarise(rows, metric, presentation.test_items),
        pd.DataFrame(),
    )
    if summary.empty:
        raise QbenchError(f"no table can be made: {'; '.join(found) or 'there are no trials'}")
    every = trials if every is None else every
    trials = trials[_results_in(trials, summary)]
    figures: list[Path] = []
    if not presentation.rehearsal:  # a figure cannot mark each of its points as a rehearsal
        figures += _draw(metric, trials, histories, summary, folder, found)
    figures += further
    arranged = make_of_sound(
        found,
        "the tables",
        trials,
        lambda rows: tables(presentation, rows, summary),
        list[ResultsTable](),
    )
    texts: dict[str, str] = {}
    beneath = _marked(presentation, beneath)
    beside = [*beneath, *_details(presentation, claims, summary, found)]
    single = _details(presentation, protocol_and_cost, summary, found)
    title = presentation.heading
    pictures = [path.name for path in figures if path.suffix == ".png"]
    makers: dict[str, Callable[[], str]] = {
        "details.md": lambda: details_to_markdown(f"Protocol and cost: {title}", single),
        "leaderboard.tex": lambda: document(["tables", "details"]),
        "tables.tex": lambda: to_latex(presentation.name, title, arranged),
        "details.tex": lambda: details_to_latex([*beside, *single], arranged),
        "leaderboard.csv": lambda: _csv(
            _of_rehearsal(summary) if presentation.rehearsal else summary
        ),
        "trials.csv": lambda: _csv(every),
        "leaderboard.md": lambda: to_markdown(
            title, arranged, pictures, beside, "details.md", found
        ),  # the last one: it lists the problems
    }
    if evidence is not None:
        page = make_of_sound(
            found,
            "the page",
            trials,
            lambda rows: _page(
                presentation, arranged, summary, rows, histories, evidence, figures, beneath
            ),
            "",
        )
        texts |= {"leaderboard.html": page} if page else {}
    for file, make in makers.items():
        with noted(found, file):
            texts[file] = make()
    for file, text in texts.items():
        with write_atomic(folder / file) as scratch:
            scratch.write_bytes(text.encode(errors="backslashreplace"))
    return Report([folder / file for file in texts] + figures, found, arranged)


def _results_in(rows: pd.DataFrame, others: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows belong to a result that is among other rows."""
    known = pd.MultiIndex.from_frame(others[RESULT])
    return pd.Series(pd.MultiIndex.from_frame(rows[RESULT]).isin(known), index=rows.index)


def _draw(
    metric: str,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    summary: pd.DataFrame,
    folder: Path,
    problems: list[str],
) -> list[Path]:
    """Draw the figures of a suite that there is data for."""
    # matplotlib takes a second to import
    from qbench.report.figures.accuracy import accuracy_by_bits
    from qbench.report.figures.pareto import pareto
    from qbench.report.figures.ranks import ranks
    from qbench.report.figures.training import soft_and_hard, training_curves

    drawings: dict[str, tuple[pd.DataFrame, Callable[[pd.DataFrame], list[Path]]]] = {
        "accuracy_by_bits": (summary, lambda rows: accuracy_by_bits(rows, folder)),
        "pareto": (summary, lambda rows: pareto(rows, folder)),
        "pareto_latency": (
            summary if "latency_ratio" in summary else summary[:0],
            lambda rows: pareto(rows, folder, ("latency_ratio",), "pareto_latency"),
        ),
        "ranks": (summary, lambda rows: ranks(rows, folder)),
        "training_curves": (trials, lambda rows: training_curves(rows, histories, folder, metric)),
        "soft_and_hard": (trials, lambda rows: soft_and_hard(rows, histories, folder, metric)),
    }
    drawn: list[Path] = []
    for stem, (rows, draw) in drawings.items():
        before = len(problems)
        files = make_of_sound(problems, f"the figure {stem}", rows, draw, list[Path]())
        if not files and len(problems) > before:  # of an earlier report, or of a part
            for suffix in (".png", ".svg"):
                (folder / f"{stem}{suffix}").unlink(missing_ok=True)
        drawn += files
    return drawn


def _page(
    presentation: Presentation,
    arranged: Sequence[ResultsTable],
    summary: pd.DataFrame,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    evidence: Mapping[str, Evidence],
    figures: Sequence[Path],
    beneath: Sequence[DetailsTable],
) -> str:
    from qbench.report.page.page import MIME_TYPES, render

    content = {path.name: path.read_bytes() for path in figures if path.suffix in MIME_TYPES}
    shown = summary[_results_in(summary, trials)]
    csv = _csv(_of_rehearsal(shown) if presentation.rehearsal else shown)
    return render(presentation, arranged, shown, trials, histories, evidence, content, csv, beneath)


def _details(
    presentation: Presentation,
    make: Callable[[pd.DataFrame], list[DetailsTable]],
    summary: pd.DataFrame,
    problems: list[str],
) -> list[DetailsTable]:
    what = make.__name__.replace("_", " ")
    found = make_of_sound(problems, f"the tables of {what}", summary, make, list[DetailsTable]())
    return _marked(presentation, found)


def _marked(presentation: Presentation, tables: Sequence[DetailsTable]) -> list[DetailsTable]:
    """Return tables. Of a rehearsal, each title says so, since it may be read alone."""
    if not presentation.rehearsal:
        return list(tables)
    return [replace(each, title=f"{REHEARSAL_HEADING}: {each.title}") for each in tables]


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _of_rehearsal(summary: pd.DataFrame) -> pd.DataFrame:
    return summary.assign(status=summary["status"].replace("done", "rehearsal"))

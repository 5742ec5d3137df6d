"""A leaderboard as one HTML file, from the frames that tables are made from.

The file needs no network and no server, and the same store gives the same bytes. Whatever users
name (methods, options, reasons) is text in it: Jinja2 escapes it, the embedded data has no ``<``,
and a content security policy allows this page's script and style, by their hashes, and no more.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qbench.files import write_atomic
from qbench.report.columns import BY_NAME, Column
from qbench.report.page.details import PageDetails, kind, tip, value
from qbench.report.presentation import Presentation
from qbench.report.summary import columns_of, records, summarise
from qbench.report.tables.table import tables as tables_of
from qbench.report.tables.text import one_line
from qbench.spec.bits import FULL_PRECISION
from qbench.spec.metrics import TITLES
from qbench.store.evidence import Evidence

PAGE_FILE = "leaderboard.html"
_PAGE_TEMPLATES = Path(__file__).parent
_ALWAYS = ("label", "bits", "mean", "std", "n")
# Columns without a place of their own: what hovering over another one says, or details.
_BESIDE = {"published": "source", "verdict": "verdict_note", "status": "reason"}
_ELSEWHERE = {"method", "options", "metric", "bold", *_BESIDE.values()}
_WHOLE = {"n", "seeds", "epochs", "w_bits", "a_bits", "w_levels", "a_levels"}
_SEARCHED = ("label", "method", "model", "bits", "status", "reason", "standing", "verdict")
_MIME = {".svg": "image/svg+xml", ".png": "image/png"}


def write(
    presentation: Presentation,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    evidence: Mapping[str, Evidence],
    beside: Sequence[Path],
    folder: Path,
) -> Path:
    """Write ``leaderboard.html``.

    Args:
        presentation: what the suite says of its tables.
        trials: one row for each trial, as `qbench.report.write.write` takes them.
        histories: likewise, one row for each trial and epoch.
        evidence: what is known of each trial that has ended, by key.
        beside: files of the leaderboard; the page shows those that are figures.
        folder: where to.

    Returns:
        The file, replaced as a whole.
    """
    summary = summarise(trials, presentation.shown[0])
    tables = tables_of(presentation, trials, summary)
    captions = list(dict.fromkeys(table.caption for table in tables))
    pictures = {path.name: path.read_bytes() for path in beside if path.suffix in _MIME}
    text = render(presentation, captions, summary, trials, histories, evidence, pictures)
    path = folder / PAGE_FILE
    with write_atomic(path) as scratch:
        scratch.write_bytes(text.encode(errors="backslashreplace"))
    return path


def render(
    presentation: Presentation,
    captions: Sequence[str],
    summary: pd.DataFrame,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    evidence: Mapping[str, Evidence],
    pictures: Mapping[str, bytes],
) -> str:
    """Return the page.

    Args:
        presentation: what the suite says of its tables.
        captions: what the numbers are: a paragraph for each table.
        summary: one row for each result, as `qbench.report.summary.summarise` returns it.
        trials: one row for each trial: ``key``, ``seed``, ``status``, ``reason``, what makes a
            result, and metrics in percent.
        histories: one row for each trial and epoch: ``key``, ``epoch`` (from 1) and metrics.
        evidence: what is known of each trial that has ended, by key.
        pictures: contents of figures (SVG or PNG) by file name. Of the files of one figure the
            smallest is embedded.

    Raises:
        KeyError: a frame lacks a column.
    """
    details = PageDetails(presentation.shown[0], trials, histories, evidence)
    columns = _columns(summary)
    rows = [_result(row, columns, details) for row in records(summary)]
    for index, row in enumerate(rows):
        row["index"] = index
    style, script = (_read(f"leaderboard.{suffix}") for suffix in ("css", "js"))
    environment = Environment(
        loader=FileSystemLoader(_PAGE_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("leaderboard.html").render(
        title=one_line(presentation.heading),
        captions=captions,
        policy=_policy(style, script),
        style=style,
        script=script,
        filters=_filters(presentation, rows),
        groups=[group for group in dict.fromkeys(map(_hidden_with, columns)) if group],
        columns=[(column, _alignment(column), _hidden_with(column)) for column in columns],
        common=_common(summary, columns),
        grids=_grids(presentation, rows),
        results=rows,
        figures=_figures(pictures),
        glossary=columns_of(summary),
        data=_embedded({"results": [row["details"] for row in rows], **details.trials()}),
    )


def _columns(summary: pd.DataFrame) -> list[Column]:
    """Columns of the list: first those that stay, then those that tell results apart."""
    first = [BY_NAME[name] for name in _ALWAYS]
    rest = [c for c in columns_of(summary) if c not in first and c.name not in _ELSEWHERE]
    return first + [column for column in rest if len(_texts(summary, column)) > 1]


def _common(summary: pd.DataFrame, columns: Sequence[Column]) -> list[tuple[str, str]]:
    """What is the same of all results, and so no column of the list: title and text."""
    left = [c for c in columns_of(summary) if c not in columns and c.name not in _ELSEWHERE]
    said = ((column.title, *_texts(summary, column)) for column in left)
    return [(title, text) for title, text in said if text]


def _texts(summary: pd.DataFrame, column: Column) -> set[str]:
    return {column.text(each) for each in summary[column.name].tolist()}


def _result(
    row: Mapping[str, Any], columns: Sequence[Column], details: PageDetails
) -> dict[str, Any]:
    """A result as the template shows it."""
    about = details.result(row)
    said = tip(row, details.trials_of(row))
    cells = [
        {
            "text": _text(row, column),
            "sort": _sort(row[column.name]),
            "tip": one_line(row.get(_BESIDE.get(column.name, ""), "")),
            "group": _hidden_with(column),
            "kind": f"{_alignment(column)} {kind(row) if column.name == 'mean' else ''}".strip(),
        }
        for column in columns
    ]
    return {
        **{name: one_line(row[name]) for name in ("dataset", "model", "label", "bits")},
        "text": value(row),
        "tip": said,
        "kind": kind(row),
        "worse": row["standing"] == "worse",
        "apart": bool(row["differs"]),
        "sort": _sort(row["mean"]),
        "words": one_line(" ".join(str(row[name]) for name in _SEARCHED)),
        "published": BY_NAME["published"].text(row["published"]),
        "cells": cells,
        "details": about,
    }


def _text(row: Mapping[str, Any], column: Column) -> str:
    text = one_line(column.text(row[column.name]))
    return text.replace("-", "−") if _alignment(column) == "number" else text


def _sort(value: Any) -> str:
    """By what a cell is sorted: '' of one that is missing."""
    return "" if pd.isna(value) else str(value)


def _hidden_with(column: Column) -> str:
    """The group of columns with which it can be hidden; '' of those that always stay."""
    return "" if column.name in _ALWAYS else column.group


def _alignment(column: Column) -> str:
    return "number" if column.digits is not None or column.name in _WHOLE else "text"


def _filters(presentation: Presentation, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The filters that leave a choice, their values in the suite's order."""
    names = {"model": "Model", "bits": "Bits", "label": "Method"}
    found = [
        {"name": name, "title": title, "choices": list(dict.fromkeys(row[name] for row in rows))}
        for name, title in names.items()
    ]
    found[1]["choices"] = _ordered(found[1]["choices"], presentation)
    return [each for each in found if len(each["choices"]) > 1]


def _ordered(bits: Iterable[str], presentation: Presentation) -> list[str]:
    """Widths in the suite's order; full precision, which it does not name, comes first."""
    order = list(presentation.bits)
    return sorted(bits, key=lambda width: order.index(width) if width in order else -1)


def _grids(presentation: Presentation, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table for each dataset and model: methods down, widths across."""
    grids = []
    for dataset, model in dict.fromkeys((row["dataset"], row["model"]) for row in rows):
        its = [row for row in rows if (row["dataset"], row["model"]) == (dataset, model)]
        full = next((row for row in its if row["bits"] == str(FULL_PRECISION)), None)
        if full is not None and len(its) > 1:
            its.remove(full)
        bits = _ordered(dict.fromkeys(row["bits"] for row in its), presentation)
        cells = {(row["label"], row["bits"]): row for row in its}
        labels = {row["label"]: False for row in its}
        for row in its:
            labels[row["label"]] |= row["apart"]
        title = f"{model} on {dataset}: {TITLES[presentation.shown[0]]} in %"
        grids.append(
            {
                "model": model,
                "title": f"{title}, by bits of weights/activations",
                "full": full if full not in its else None,
                "bits": bits,
                "rows": [
                    (label, apart, [(width, cells.get((label, width))) for width in bits])
                    for label, apart in labels.items()
                ],
            }
        )
    return grids


def _figures(pictures: Mapping[str, bytes]) -> list[dict[str, str]]:
    """Each figure's title and data URL."""
    smallest: dict[str, str] = {}
    for name in sorted(pictures, key=lambda name: len(pictures[name])):
        smallest.setdefault(Path(name).stem, name)
    found = []
    for stem in dict.fromkeys(Path(name).stem for name in pictures):
        name = smallest[stem]
        content = base64.b64encode(pictures[name]).decode()
        title = stem.replace("_", " ").capitalize()
        found.append({"title": title, "url": f"data:{_MIME[Path(name).suffix]};base64,{content}"})
    return found


def _embedded(data: object) -> str:
    """JSON that no HTML parser takes for markup."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":  # in JSON they stand in strings only
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _read(name: str) -> str:
    return (_PAGE_TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy: no network; this style, this script, embedded pictures."""

    def of(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; img-src data:; style-src {of(style)}; script-src {of(script)}; "
        "base-uri 'none'; form-action 'none'"
    )

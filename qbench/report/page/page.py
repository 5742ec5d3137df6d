"""Leaderboard as one HTML file, made from the same frames as the tables.

The file needs no network and no server, and the same store gives the same bytes. Names and texts
from users (methods, options, reasons) are never markup: Jinja2 escapes them, the embedded data
contains no ``<``, and a content security policy allows only the script and the style of this page,
by their hashes.
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

from qbench.report.columns import BY_NAME, Column
from qbench.report.page.details import PageDetails, kind, published, value
from qbench.report.presentation import Presentation
from qbench.report.summary import columns_of, records
from qbench.report.tables.details import DetailsTable
from qbench.report.tables.table import ResultsTable
from qbench.report.tables.text import one_line
from qbench.spec.bits import FULL_PRECISION
from qbench.spec.metrics import TITLES
from qbench.store.evidence import Evidence

_PAGE_TEMPLATES = Path(__file__).parent
_ALWAYS = ("label", "bits", "mean", "std", "n")
# Columns that are not shown on their own, but in the tooltip of another column or in the details.
_BESIDE = {"published": "source", "verdict": "verdict_note", "status": "reason"}
_ELSEWHERE = {"method", "options", "metric", "bold", *_BESIDE.values()}
_WHOLE = {"n", "seeds", "epochs", "w_bits", "a_bits", "w_levels", "a_levels"}
_SEARCHED = ("label", "method", "model", "bits", "status", "reason", "standing", "verdict")
MIME_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def render(
    presentation: Presentation,
    tables: Sequence[ResultsTable],
    summary: pd.DataFrame,
    trials: pd.DataFrame,
    histories: pd.DataFrame,
    evidence: Mapping[str, Evidence],
    pictures: Mapping[str, bytes],
    csv: str,
    beneath: Sequence[DetailsTable] = (),
) -> str:
    """Render the page.

    Args:
        presentation: How the suite presents its results.
        tables: The tables of results, whose captions and doubts the page shows.
        summary: One row for each result, from `qbench.report.summary.summarise`.
        trials: One row for each trial. Columns: ``key``, ``dataset``, ``model``, ``label``,
            ``bits``, ``seed``, ``status``, ``reason`` and metrics (%).
        histories: One row for each trial and epoch. Columns: ``key``, ``epoch`` (int, from 1) and
            metrics (%).
        evidence: Configuration, environment, audit and log of each trial that has ended, by key.
        pictures: Contents of figures (SVG or PNG) by file name. If a figure has several files, the
            smallest one is embedded.
        csv: Content of ``leaderboard.csv``, which readers can save.
        beneath: Further tables, beneath the results.

    Returns:
        The HTML document.

    Raises:
        KeyError: A frame lacks a required column.
    """
    details = PageDetails(presentation.shown[0], summary, trials, histories, evidence)
    columns = _columns(summary)
    rows = [_result(row, columns, details) for row in records(summary)]
    for index, row in enumerate(rows):
        row["index"] = index
    grids = _grids(presentation, rows)
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
        captions=list(dict.fromkeys(table.caption for table in tables)),
        doubts=list(dict.fromkeys(doubt for table in tables for doubt in table.doubts)),
        policy=_policy(style, script),
        style=style,
        script=script,
        filters=_filters(rows, grids),
        groups=[group for group in dict.fromkeys(map(_hidden_with, columns)) if group],
        columns=[(column, _alignment(column), _hidden_with(column)) for column in columns],
        common=_common(summary, columns),
        grids=grids,
        results=rows,
        beneath=[(t, [(c, _alignment(c)) for c in t.columns]) for t in beneath],
        figures=_figures(pictures),
        glossary=columns_of(summary),
        suite=one_line(presentation.name),
        origin=_origin(presentation, evidence),
        csv=_data_url("text/csv;charset=utf-8", csv.encode(errors="backslashreplace")),
        data=_embedded({"results": [row["details"] for row in rows], **details.trials()}),
    )


def _columns(summary: pd.DataFrame) -> list[Column]:
    """Select the columns of the list: those that are always shown, then those that vary."""
    first = [BY_NAME[name] for name in _ALWAYS]
    rest = [c for c in columns_of(summary) if c not in first and c.name not in _ELSEWHERE]
    return first + [column for column in rest if len(_texts(summary, column)) > 1]


def _common(summary: pd.DataFrame, columns: Sequence[Column]) -> list[tuple[str, str]]:
    """Return title and text of the columns that are the same for all results."""
    left = [c for c in columns_of(summary) if c not in columns and c.name not in _ELSEWHERE]
    said = ((column.title, *_texts(summary, column)) for column in left)
    return [(title, text) for title, text in said if text]


def _texts(summary: pd.DataFrame, column: Column) -> set[str]:
    return {column.text(each) for each in summary[column.name].tolist()}


def _result(
    row: Mapping[str, Any], columns: Sequence[Column], details: PageDetails
) -> dict[str, Any]:
    """Return a result as the template needs it."""
    about = details.result(row)
    said = details.tip(row)
    cells = [
        {
            "text": _text(row, column),
            "sort": _sort(row[column.name]),
            "tip": details.standing(row)
            if column.name == "standing"
            else one_line(row.get(_BESIDE.get(column.name, ""), "")),
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
        "marks": "‡" * bool(row["differs"]) + "§" * bool(row["teacher"]),
        "sort": _sort(row["mean"]),
        "words": one_line(" ".join(str(row[name]) for name in _SEARCHED)),
        "published": published(row, details.trials_of(row)),
        "cells": cells,
        "details": about,
    }


def _text(row: Mapping[str, Any], column: Column) -> str:
    text = one_line(column.text(row[column.name]))
    return text.replace("-", "−") if _alignment(column) == "number" else text


def _sort(value: Any) -> str:
    """Return the sort key of a cell, or an empty string if its value is missing."""
    return "" if pd.isna(value) else str(value)


def _hidden_with(column: Column) -> str:
    """Return the group that a column is hidden with, or an empty string if it is always shown."""
    return "" if column.name in _ALWAYS else column.group


def _alignment(column: Column) -> str:
    return "number" if column.digits is not None or column.name in _WHOLE else "text"


def _filters(
    rows: Sequence[Mapping[str, Any]], grids: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the filters with more than one choice. Choices are in the order of the suite.

    Bit-widths are those of the grids' columns, of which full precision is usually none.
    """
    names = {"model": "Model", "bits": "Bits", "label": "Method"}
    found = [
        {"name": name, "title": title, "choices": list(dict.fromkeys(row[name] for row in rows))}
        for name, title in names.items()
    ]
    found[1]["choices"] = list(dict.fromkeys(bits for grid in grids for bits in grid["bits"]))
    return [each for each in found if len(each["choices"]) > 1]


def _ordered(bits: Iterable[str], presentation: Presentation) -> list[str]:
    """Sort bit-widths in the order of the suite, with full precision first."""
    order = list(presentation.bits)
    return sorted(bits, key=lambda width: order.index(width) if width in order else -1)


def _grids(presentation: Presentation, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a table for each dataset and model, with methods as rows and bit-widths as columns."""
    grids = []
    for dataset, model in dict.fromkeys((row["dataset"], row["model"]) for row in rows):
        its = [row for row in rows if (row["dataset"], row["model"]) == (dataset, model)]
        full = next((row for row in its if row["bits"] == str(FULL_PRECISION)), None)
        if full is not None and len(its) > 1:
            its.remove(full)
        bits = _ordered(dict.fromkeys(row["bits"] for row in its), presentation)
        cells = {(row["label"], row["bits"]): row for row in its}
        marks: dict[str, str] = {}
        for row in its:
            marks[row["label"]] = marks.get(row["label"], "") + row["marks"]
        title = f"{model} on {dataset}: {TITLES[presentation.shown[0]]} in %"
        grids.append(
            {
                "model": model,
                "title": f"{title}, by bits of weights/activations",
                "full": full if full not in its else None,
                "bits": bits,
                "rows": [
                    (
                        label,
                        "".join(mark for mark in "‡§" if mark in found),
                        [(width, cells.get((label, width))) for width in bits],
                    )
                    for label, found in marks.items()
                ],
            }
        )
    return grids


def _figures(pictures: Mapping[str, bytes]) -> list[dict[str, str]]:
    """Return title, data URL and kind of each figure. Pages invert drawings in the dark."""
    smallest: dict[str, str] = {}
    for name in sorted(pictures, key=lambda name: len(pictures[name])):
        smallest.setdefault(Path(name).stem, name)
    found = []
    for stem in dict.fromkeys(Path(name).stem for name in pictures):
        name = smallest[stem]
        found.append(
            {
                "title": stem.replace("_", " ").capitalize(),
                "url": _data_url(MIME_TYPES[Path(name).suffix], pictures[name]),
                "kind": "photo" if stem.startswith("detections") else "drawing",
            }
        )
    return found


def _data_url(mime_type: str, content: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def _origin(presentation: Presentation, evidence: Mapping[str, Evidence]) -> str:
    """Return when and with which versions of qbench the trials were run, to end a sentence with."""
    versions = {
        (known.environment.get("qbench", ""), known.environment.get("git_commit", "")[:10])
        for known in evidence.values()
    }
    told = [
        f"qbench {version}" + (f", commit {commit}" if commit else "")
        for version, commit in sorted(versions)
        if version
    ]
    newest = [f"the newest trial is of {presentation.date}"] if presentation.date else []
    return "; ".join([*newest, *told])


def _embedded(data: object) -> str:
    """Serialise data as JSON that no HTML parser takes for markup."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":  # in JSON they occur only in strings
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _read(name: str) -> str:
    return (_PAGE_TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Return a content security policy: no network, only this style, script and embedded images."""

    def of(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; img-src data:; style-src {of(style)}; script-src {of(script)}; "
        "base-uri 'none'; form-action 'none'"
    )

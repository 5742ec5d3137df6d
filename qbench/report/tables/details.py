"""Tables with one row for each result: published numbers, protocol and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from qbench.report.columns import BY_NAME, Column
from qbench.report.tables.text import one_line
from qbench.spec.trial import FP32

CLAIMS = (
    *("label", "bits", "n", "mean", "ci95", "published", "paper_network", "delta", "verdict"),
    *("verdict_note", "source"),
)
PROTOCOL = (
    *("label", "bits", "w_levels", "a_levels", "w_coverage", "mac_coverage"),
    *("first_layer", "last_layer", "start", "teacher", "epochs", "augmentation", "checkpoint"),
    "differs",
)
COST = (
    *(
        "label",
        "bits",
        "n",
        "mean",
        "drop",
        "soft_gap",
        "reestimation",
        "standing",
        "p_holm",
        "ranks",
        "weight_mb",
        "compression",
    ),
    *("gbops", "bops_ratio", "train_ratio", "audit"),
)

DEPLOYMENT = ("label", "bits", "exported", "flips", "onnx_mb", "latency_ratio")


@dataclass(frozen=True)
class DetailsTable:
    """A table with one row for each result.

    Attributes:
        title: Title of the table.
        columns: Descriptions of the columns.
        rows: Texts of each row, one for each column.
        about: Sentences that explain the table, or an empty string.
    """

    title: str
    columns: Sequence[Column]
    rows: list[list[str]]
    about: str = ""


def claims(summary: pd.DataFrame) -> list[DetailsTable]:
    """Return the tables of measured and published numbers.

    Args:
        summary: One row for each result, as `qbench.report.summary.summarise` returns it.

    Returns:
        One table for each dataset and model that has a measured result with a published number.
        Columns in which all rows agree are stated in `DetailsTable.about`.
    """
    found = summary[summary["published"].notna() & (summary["n"] > 0)]
    about = (
        "Δ is measured less published. A claim is reproduced where the published number, rounded "
        "as it is, lies within the 95 % interval of the mean over seeds."
    )
    return [
        _without_common(
            _details(f"Measured and published: {model} on {dataset}", group, CLAIMS, about)
        )
        for (dataset, model), group in found.groupby(["dataset", "model"], sort=False)
    ]


def protocol_and_cost(summary: pd.DataFrame) -> list[DetailsTable]:
    """Return the tables of protocol and cost.

    Args:
        summary: One row for each result, as `qbench.report.summary.summarise` returns it.

    Returns:
        Two tables for each dataset and model, protocol and cost, without unsupported results, and
        a third one where trials are deployed. The protocol is that of the quantized networks; the
        table is left out if there are none.
    """
    found = []
    for (dataset, model), group in summary.groupby(["dataset", "model"], sort=False):
        able = group[group["status"] != "unsupported"]
        if able.empty:
            continue
        quantized = able[able["method"] != FP32]
        what = f"{model} on {dataset}"
        if len(quantized):
            found.append(_without_common(_details(f"Protocol: {what}", quantized, PROTOCOL)))
        found.append(_details(f"Accuracy and cost: {what}", able, COST))
        if "exported" in able:
            about = BY_NAME["latency_ratio"].about
            found.append(_details(f"Deployed to ONNX: {what}", able, DEPLOYMENT, about))
    return found


def _details(
    title: str, results: pd.DataFrame, names: Sequence[str], about: str = ""
) -> DetailsTable:
    """Return a table of some columns. Columns without any text are left out."""
    columns = [BY_NAME[name] for name in names]
    texts = {c: [one_line(c.text(value)) for value in results[c.name]] for c in columns}
    used = [column for column in columns if any(texts[column])]
    rows = [list(row) for row in zip(*(texts[column] for column in used), strict=True)]
    return DetailsTable(one_line(title), used, rows, about)


def _without_common(found: DetailsTable) -> DetailsTable:
    """Move columns in which all of several rows agree to a sentence above the table."""
    if len(found.rows) < 2:
        return found
    columns = list(zip(found.columns, zip(*found.rows, strict=True), strict=True))
    common = [(c, texts[0]) for c, texts in columns if len(set(texts)) == 1 and c.name != "label"]
    kept = [(c, texts) for c, texts in columns if c not in [each for each, _ in common]]
    alike = "; ".join(f"{c.title.lower()} {text}" for c, text in common)
    return DetailsTable(
        found.title,
        [column for column, _ in kept],
        [list(row) for row in zip(*(texts for _, texts in kept), strict=True)],
        f"{found.about} Alike in all rows: {alike}.".strip() if common else found.about,
    )

"""Frames of trials that tables are tested with."""

from __future__ import annotations

import pandas as pd

from qbench.report.summary import summarise
from qbench.report.tables.table import ResultsTable


def trials(label: str, *top1: float | str, bits: str = "1/32", **more: object) -> pd.DataFrame:
    """The seeds of one cell: a number is a finished trial, a text the status of another."""
    rows = [
        {
            "key": f"{label}-{more.get('model', '')}-{bits}-{seed}",
            "method": label.lower(),
            "label": label,
            "options": "{}",
            "model": "net",
            "dataset": "digits",
            "bits": bits,
            "seed": seed,
            "recipe": "aligned",
            "epochs": 20,
            "status": value if isinstance(value, str) else "done",
            "reason": "",
            "top1": float("nan") if isinstance(value, str) else value,
            "stale": "",
            "audit": "",
            **more,
        }
        for seed, value in enumerate(top1)
    ]
    return pd.DataFrame(rows)


def full(*top1: float | str, **more: object) -> pd.DataFrame:
    return trials("Full precision", *top1, bits="32/32", method="fp32", **more)


def texts(found: ResultsTable) -> dict[str, list[str]]:
    return {label: [cell.text for cell in cells] for label, cells in found.rows}


def costly(cell: pd.DataFrame, megabytes: float) -> pd.DataFrame:
    """With costs beside; bit-operations go with size."""
    return cell.assign(
        weight_mb=megabytes, full_weight_mb=8.0, gbops=2 * megabytes, full_gbops=16.0
    )


def summary(*cells: pd.DataFrame) -> pd.DataFrame:
    return summarise(pd.concat(cells, ignore_index=True))

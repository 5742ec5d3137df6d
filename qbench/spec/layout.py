"""How a suite arranges results in tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from qbench.errors import nearest
from qbench.spec.metrics import shown_by

Dimension = Literal["method", "bits", "model"]
# The column of trials that says each.
DIMENSIONS: dict[Dimension, str] = {"method": "label", "bits": "bits", "model": "model"}


class TableLayout(BaseModel):
    """How results are arranged in a table; by default as papers do, a table for each model.

    Attributes:
        rows: what goes down: ``method``, ``bits`` or ``model``.
        columns: what goes across: another of these.
        cell: the metrics that a cell shows, as ``top1/top5``, of which the first decides what is
            best; by default the dataset's.
        third: what the one that is left makes: ``tables`` of its own, or ``blocks`` of rows in one
            table.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Dimension = "method"
    columns: Dimension = "bits"
    cell: str = ""
    third: Literal["tables", "blocks"] = "tables"

    @model_validator(mode="after")
    def _rows_are_not_columns(self) -> TableLayout:
        if self.rows == self.columns:
            raise ValueError(f"rows and columns are both '{self.rows}'; one has to be another")
        return self

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics of a cell; empty: the dataset's."""
        return tuple(_words(self.cell))

    @property
    def left(self) -> Dimension:
        """What goes neither down nor across."""
        return next(name for name in DIMENSIONS if name not in (self.rows, self.columns))


def unknown_metrics(entry: Any, task: str) -> Iterator[str]:
    """What is wrong with the cell of an arrangement as it is written, for a dataset's task."""
    known = shown_by(task)
    for word in _words(str(entry.get("cell") or "")) if isinstance(entry, dict) else []:
        if word not in known:
            yield f"'{word}' is no metric of {task}{nearest(word, known)}"


def _words(cell: str) -> list[str]:
    return [word.strip() for word in cell.split("/")] if cell else []

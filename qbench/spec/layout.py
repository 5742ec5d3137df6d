"""Layout of a table of results, as the key ``tables`` of a suite gives it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from qbench.errors import nearest
from qbench.spec.metrics import shown_by

Dimension = Literal["method", "bits", "model"]
# The column of the frame of trials that holds each dimension.
DIMENSIONS: dict[Dimension, str] = {"method": "label", "bits": "bits", "model": "model"}


class TableLayout(BaseModel):
    """Layout of a table. By default it is that of most papers: methods × widths for each model.

    Attributes:
        rows: Dimension of the rows: ``method`` (default), ``bits`` or ``model``.
        columns: Dimension of the columns: ``bits`` (default) or another one than the rows.
        cell: Metrics that a cell shows, such as ``top1/top5``. The first one decides which result
            is best. By default, the metrics of the dataset.
        third: What the values of the third dimension become: ``tables`` of their own (default), or
            ``blocks`` of rows in one table.
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
        """Metrics of a cell. Empty if they are those of the dataset."""
        return tuple(_words(self.cell))

    @property
    def left(self) -> Dimension:
        """The third dimension, which is neither that of the rows nor that of the columns."""
        return next(name for name in DIMENSIONS if name not in (self.rows, self.columns))


def unknown_metrics(entry: Any, task: str) -> Iterator[str]:
    """Yield a message for each metric of a layout's ``cell`` that the task does not have.

    Args:
        entry: Entry of ``tables`` as the suite's file has it, of any type.
        task: Task of the dataset, ``classification`` or ``detection``.
    """
    known = shown_by(task)
    for word in _words(str(entry.get("cell") or "")) if isinstance(entry, dict) else []:
        if word not in known:
            yield f"'{word}' is no metric of {task}{nearest(word, known)}"


def _words(cell: str) -> list[str]:
    return [word.strip() for word in cell.split("/")] if cell else []

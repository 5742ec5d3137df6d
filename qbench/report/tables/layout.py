"""What a suite says of its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qbench.spec.layout import TableLayout

REHEARSAL = "Rehearsal, no results"


@dataclass(frozen=True)
class Layout:
    """What a suite says of its tables.

    Attributes:
        name: the suite's name, for LaTeX labels.
        title: heading.
        bits: widths ``W/A``, in the order of columns.
        shown: the metrics that a cell shows; the first decides which is best.
        rehearsal: whether the trials only tried things out: then every cell says so.
        tables: how results are arranged, one or more ways.
    """

    name: str
    title: str
    bits: Sequence[str] = ()
    shown: Sequence[str] = ("top1",)
    rehearsal: bool = False
    tables: Sequence[TableLayout] = (TableLayout(),)

    @property
    def heading(self) -> str:
        """The title, of a rehearsal as such."""
        return f"{REHEARSAL}: {self.title}" if self.rehearsal else self.title

"""How a suite presents its results: title, metrics, order of bit-widths, layout of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qbench.spec.layout import TableLayout

REHEARSAL_HEADING = "Rehearsal, no results"


@dataclass(frozen=True)
class Presentation:
    """How a suite presents its results.

    Attributes:
        name: Name of the suite, used in LaTeX labels.
        title: Heading.
        bits: Bit-widths ``W/A``, in the order of columns. If empty, the order of the trials.
        shown: Metrics that a cell shows. The first one decides which result is best.
        rehearsal: Whether the trials are a rehearsal. If so, every cell says so.
        tables: Layouts of the tables, at least one.
    """

    name: str
    title: str
    bits: Sequence[str] = ()
    shown: Sequence[str] = ("top1",)
    rehearsal: bool = False
    tables: Sequence[TableLayout] = (TableLayout(),)

    @property
    def heading(self) -> str:
        """The title, marked if the trials are a rehearsal."""
        return f"{REHEARSAL_HEADING}: {self.title}" if self.rehearsal else self.title

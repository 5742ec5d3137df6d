"""How a suite presents its results: title, metrics, order of bit-widths, layout of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qbench.data import Dataset
from qbench.spec.layout import TableLayout

REHEARSAL_HEADING = "Rehearsal, no results"

_FEWEST_CLASSES = 10  # for top-5 accuracy: with fewer, guessing is right more often than not


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
        data: What the data are, if they are not the original of their name. Otherwise empty.
        effort: What each study of a tuned suite does. Otherwise empty.
        chance: Accuracy (%) of guessing. NaN if it is not known.
        test_items: Number of test items. 0 if it is not known.
        date: Day on which the newest trial ended, such as ``2026-03-31``. Empty if it is not known.
    """

    name: str
    title: str
    bits: Sequence[str] = ()
    shown: Sequence[str] = ("top1",)
    rehearsal: bool = False
    tables: Sequence[TableLayout] = (TableLayout(),)
    data: str = ""
    effort: str = ""
    chance: float = float("nan")
    test_items: int = 0
    date: str = ""

    @property
    def heading(self) -> str:
        """The title, marked if the trials are a rehearsal."""
        return f"{REHEARSAL_HEADING}: {self.title}" if self.rehearsal else self.title


def shown_metrics(dataset: Dataset) -> tuple[str, ...]:
    """Return the metrics that a cell shows: those of a dataset that mean something.

    Args:
        dataset: The dataset. Top-5 accuracy means something if it has ten classes or more.
    """
    few = dataset.num_classes < _FEWEST_CLASSES
    return tuple(name for name in dataset.shown if name != "top5" or not few)

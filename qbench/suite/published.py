"""Numbers that papers print, to stand beside measured ones: ``suites/published.csv``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from qbench.errors import QbenchError
from qbench.spec.bits import Bits, Width
from qbench.suite.bundled import bundled_folder
from qbench.suite.suite import MethodRow, Published

FILE = "published.csv"
_VALUES = {"top1": "top1", "top5": "top5", "map50_voc07": "map"}
_NEEDED = ("paper", "table", "dataset", "model", "method", "w_bits", "w_levels", "a_bits", "note")
_COLUMNS = (*_NEEDED, *_VALUES.values(), *(f"fp_{name}" for name in _VALUES.values()))


@dataclass(frozen=True)
class Number:
    """A published result.

    Attributes:
        values: in percent, by the metrics' names.
        source: where it is from, and what of; a sentence's end.
    """

    values: dict[str, float]
    source: str


class PublishedNumbers:
    """The numbers of one table of a paper.

    Args:
        results: Results folder. A file of that name there takes precedence over the installed one.
        wanted: the table.

    Raises:
        QbenchError: the file lacks a column, or has nothing of that table.
    """

    def __init__(self, results: Path, wanted: Published) -> None:
        path = results / FILE
        if not path.exists():
            path = bundled_folder() / FILE
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in _COLUMNS if name not in frame]:
            raise QbenchError(f"{path}: has no column '{missing[0]}'")
        for name, value in wanted.model_dump().items():
            frame = frame[frame[name] == value]
            if frame.empty:
                raise QbenchError(f"{path}: has nothing of published.{name} '{value}'")
        self._rows = frame
        self._wanted = wanted

    def find(self, row: MethodRow, bits: Bits) -> Number | None:
        """The number of a row of a suite at some widths; None where there is not exactly one."""
        rows = self._rows
        rows = rows[
            (rows["method"] == row.method)
            & (rows["w_bits"] == str(bits.weights.bits))
            & (rows["a_bits"] == str(bits.activations.bits))
            & rows["note"].str.contains(row.published, regex=False)
            & (rows[list(_VALUES.values())] != "").any(axis=1)
        ]
        rows = rows[[_fits(levels, bits.weights) for levels in rows["w_levels"]]]
        if len(rows) != 1:
            return None
        found, wanted = rows.iloc[0], self._wanted
        values = _values(found, "")
        first = next(iter(_values(found, "fp_").values()), None)
        full = f", where full precision has {first:g}" if first is not None else ""
        source = f"{wanted.model} on {wanted.dataset}{full} ({wanted.paper}, Table {wanted.table})"
        return Number(values, source)


def _values(row: pd.Series[str], prefix: str) -> dict[str, float]:
    """What a row says of each metric."""
    found = {name: row[prefix + column] for name, column in _VALUES.items()}
    return {name: float(text) for name, text in found.items() if text}


def _fits(published: str, width: Width) -> bool:
    """Whether published levels, as ``-1 0 1`` or ``-15..15``, are those that a width means."""
    if not published:
        return width.levels is None
    first, dots, last = published.partition("..")
    levels = (
        range(int(first), int(last) + 1) if dots else [int(level) for level in published.split()]
    )
    if width.levels is not None:
        return tuple(levels) == width.levels
    spread = levels[-1] - levels[0] + 1
    # With fewer than fit, or with gaps, it is a set that ± names.
    return len(levels) in (2, spread) and len(levels) >= 2**width.bits - 1

"""Numbers that papers publish (``suites/published.csv``), shown next to measured ones."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd

from qbench.errors import QbenchError, nearest
from qbench.spec.bits import BitWidth, BitWidths
from qbench.spec.trial import FP32
from qbench.suite.bundled import bundled_folder
from qbench.suite.suite import MethodRow, Published

PUBLISHED_FILE = "published.csv"
_VALUES = {"top1": "top1", "top5": "top5", "map50_voc07": "map"}
_PUBLISHED_COLUMNS = (
    *("paper", "table", "dataset", "model", "method", "w_bits", "w_levels", "a_bits", "note"),
    *_VALUES.values(),
    *(f"fp_{name}" for name in _VALUES.values()),
)


@dataclass(frozen=True)
class Number:
    """A published result.

    Attributes:
        values: Values in percent, by names of metrics.
        source: Model, dataset, paper and table, to end a sentence with.
        network: The network that it was measured on: the name of a model, or a description if no
            model is that network. Empty if it is not known. None if the file does not say.
    """

    values: dict[str, float]
    source: str
    network: str | None = None


class PublishedNumbers:
    """Numbers of one table of a paper.

    Args:
        results: Results folder. A file ``published.csv`` there takes precedence over the installed
            one.
        wanted: The table.

    Raises:
        QbenchError: The file lacks a column, or has no numbers of that table.
    """

    def __init__(self, results: Path, wanted: Published) -> None:
        path, frame = _read(results)
        for name, value in wanted.model_dump().items():
            hint = nearest(value, frame[name].unique())
            frame = frame[frame[name] == value]
            if frame.empty:
                raise QbenchError(f"{path}: has nothing of published.{name} '{value}'{hint}")
        self._path = path
        self._rows = frame
        self._wanted = wanted

    def check(self, row: MethodRow) -> str:
        """Return what is wrong with the words that select a row's number, or an empty string.

        Args:
            row: Row of a suite. Its key ``published`` holds the words.
        """
        rows = self._rows[self._rows["method"] == row.method]
        notes = [note for note in rows["note"].unique() if note]
        if not row.published or any(row.published in note for note in notes):
            return ""
        where = f"{self._wanted.source}, {self._wanted.model}"
        return (
            f"{row.method}: no note of {where} has the words '{row.published}' of published"
            f"{nearest(row.published, notes)} ({self._path})"
        )

    def find(self, row: MethodRow, bits: BitWidths) -> Number | None:
        """Return the published number of a row of a suite.

        Args:
            row: Row of the suite.
            bits: Bit-widths.

        Returns:
            The number, or None if the table has none or several that match.
        """
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
        source = f"{wanted.model} on {wanted.dataset}{full} ({wanted.source})"
        return Number(values, source, found.get("network"))


def differences(results: Path, metric: str) -> dict[tuple[str, str], list[float]]:
    """Return how far apart papers show methods of one table, at the same bit-widths.

    Args:
        results: As of `PublishedNumbers`.
        metric: Name of the metric.

    Returns:
        The absolute difference of each pair of methods, in points, by bits of weights and
        activations as the file writes them. Of a method with several numbers, each counts.

    Raises:
        QbenchError: The file lacks a column.
    """
    column = _VALUES.get(metric)
    found: dict[tuple[str, str], list[float]] = {}
    if column is None:
        return found
    _, frame = _read(results)
    measured = frame[(frame[column] != "") & (frame["method"] != FP32)]
    where = ["paper", "table", "dataset", "model", "w_bits", "a_bits"]
    for (*_, w_bits, a_bits), rows in measured.groupby(where, sort=False):
        numbers = list(zip(rows["method"], map(float, rows[column]), strict=True))
        found.setdefault((str(w_bits), str(a_bits)), []).extend(
            abs(a - b) for (one, a), (other, b) in combinations(numbers, 2) if one != other
        )
    return found


def _read(results: Path) -> tuple[Path, pd.DataFrame]:
    """Return the file of published numbers and its content.

    Raises:
        QbenchError: The file lacks a column.
    """
    path = results / PUBLISHED_FILE
    if not path.exists():
        path = bundled_folder() / PUBLISHED_FILE
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in _PUBLISHED_COLUMNS if name not in frame]:
        raise QbenchError(f"{path}: has no column '{missing[0]}'")
    return path, frame


def _values(row: pd.Series[str], prefix: str) -> dict[str, float]:
    """Return the values of a row in percent, by names of metrics."""
    found = {name: row[prefix + column] for name, column in _VALUES.items()}
    return {name: float(text) for name, text in found.items() if text}


def _fits(published: str, width: BitWidth) -> bool:
    """Return whether published levels, such as ``-1 0 1`` or ``-15..15``, are those of a width."""
    if not published:
        return width.levels is None
    first, dots, last = published.partition("..")
    levels = (
        range(int(first), int(last) + 1) if dots else [int(level) for level in published.split()]
    )
    if width.levels is not None:
        return tuple(levels) == width.levels
    spread = levels[-1] - levels[0] + 1
    # Fewer levels than fit, or levels with gaps, are a set that only ± can name.
    return len(levels) in (2, spread) and len(levels) >= 2**width.bits - 1

"""What tuning changes in a table: the ranking, the differences between rows, and each row.

Rows are compared if both tables have a complete k-bit result of them. Tests are those of the tables
(`qbench.report.significance`), over all pairs of a column with Holm's correction: over seeds in the
aligned table, and over studies in the tuned one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qbench.report.columns import BY_NAME, Column
from qbench.report.significance import LEVEL, PairedTests
from qbench.report.studies import comparable
from qbench.report.summary import COLUMN, by_seed, grouped, records, summarise
from qbench.report.tables.details import DetailsTable
from qbench.report.tables.text import one_line
from qbench.spec.bits import BitWidths
from qbench.spec.trial import FP32

_FEWEST_ROWS = 3  # two have no rank correlation worth the name
_DRAWS = 1000  # of the bootstrap
_RANGE = (2.5, 97.5)  # percentiles

Values = dict[str, dict[int, float]]
"""Values (%) by label and by seed or study."""


@dataclass(frozen=True)
class Effect:
    """What tuning changes in one column of a table.

    Attributes:
        model: Model of the column.
        bits: Bit-widths ``W/A`` of the column.
        rows: Number of rows that are compared.
        correlation: Spearman's rank correlation of the aligned and the tuned means.
        correlation_low: Lower end of its 95 % interval, by a bootstrap over seeds and studies.
        correlation_high: Upper end.
        pairs: Number of pairs of rows.
        told_aligned: Pairs that the aligned table tells apart.
        told_tuned: Pairs that the tuned table tells apart.
        told_both: Pairs that both tables tell apart.
        flips: Those of them whose better row is another one.
        moves: Median of what tuning moves a row, gain or loss, in points.
        published: Differences between two methods in a table of a paper at these bit-widths.
        within: Those of them that are at most `moves`.
    """

    model: str
    bits: str
    rows: int
    correlation: float
    correlation_low: float
    correlation_high: float
    pairs: int
    told_aligned: int
    told_tuned: int
    told_both: int
    flips: int
    moves: float
    published: int
    within: int


EFFECT = (
    BY_NAME["bits"],
    Column("rows", "Rows", "Rows of both tables.", "tuning"),
    Column("correlation", "Rank correlation", "Spearman's, with its 95 % interval.", "tuning"),
    Column("pairs", "Pairs", "Pairs of rows.", "tuning"),
    Column("told_aligned", "Told apart, aligned", "By the aligned table.", "tuning"),
    Column("told_tuned", "Told apart, tuned", "By the tuned table.", "tuning"),
    Column("told_both", "In both", "Told apart by both tables.", "tuning"),
    Column("flips", "Flips", "Pairs told apart by both, in opposite directions.", "tuning"),
    Column("moves", "Tuning moves", "Median of gains and losses.", "tuning", "points", 2),
    Column("within", "Published within", "Differences of papers at most as large.", "tuning"),
)
_ABOUT = (
    "The aligned and the tuned table of the same rows. The interval of the rank correlation is a "
    "bootstrap over seeds and studies. Flips are counted among pairs that both tables tell apart. "
    "The last column counts the differences between two methods of one table of a paper, at these "
    "bit-widths, that are at most what tuning moves a row here (median)."
)
_GAINS = "Tuned less aligned, in points, the largest mean first."


def effects(
    aligned: pd.DataFrame,
    studies: pd.DataFrame,
    metric: str,
    items: int = 0,
    published: Mapping[tuple[str, str], Sequence[float]] | None = None,
) -> list[Effect]:
    """Return what tuning changes in each column.

    Args:
        aligned: Trials with the aligned recipe, with the columns of
            `qbench.report.summary.summarise`.
        studies: The same of the tuned table: means of studies, with the study as ``seed``.
        metric: Metric of the means. Higher values are better.
        items: Number of test items. 0 if it is not known.
        published: Absolute differences, in points, by bits of weights and
            activations.

    Returns:
        One for each model and bit-widths of which both tables have three rows.
    """
    before, after = (_columns(frame, metric, items) for frame in (aligned, studies))
    found = []
    for (_, model, bits), rows in after.items():
        others = before.get((_, model, bits), {})
        labels = [label for label in rows if label in others]
        if len(labels) >= _FEWEST_ROWS:
            width = BitWidths.parse(bits)
            both = str(width.weights.bits), str(width.activations.bits)
            differences = (published or {}).get(both, [])
            aligned_rows = {label: others[label] for label in labels}
            tuned_rows = {label: rows[label] for label in labels}
            found.append(_effect(model, bits, aligned_rows, tuned_rows, items, differences))
    return found


def _columns(frame: pd.DataFrame, metric: str, items: int) -> dict[tuple[str, str, str], Values]:
    """Return the values of the rows of each column that can be compared, by column and label."""
    if frame.empty:
        return {}
    summary = records(summarise(frame, metric, items))
    compared = {
        (*(row[name] for name in COLUMN), row["label"])
        for row in summary
        if row["method"] != FP32 and row["deviation"] == row["deviation"] and not row["same_as"]
    }
    found: dict[tuple[str, str, str], Values] = {}
    for group in grouped(records(frame), *COLUMN, "label"):
        dataset, model, bits = (str(group[0][name]) for name in COLUMN)
        label = str(group[0]["label"])
        if (dataset, model, bits, label) in compared:
            found.setdefault((dataset, model, bits), {})[label] = by_seed(group, metric)
    return found


def _effect(
    model: str,
    bits: str,
    aligned: Values,
    tuned: Values,
    items: int,
    published: Sequence[float],
) -> Effect:
    before, after = _means(_matrix(aligned)), _means(_matrix(tuned))
    pairs = list(combinations(range(len(before)), 2))
    told = [_told(values, pairs, items) for values in (aligned, tuned)]
    both = [pair for pair, *marks in zip(pairs, *told, strict=True) if all(marks)]
    flips = [(a, b) for a, b in both if (before[a] > before[b]) != (after[a] > after[b])]
    moves = float(np.median(np.abs(after - before)))
    drawn = _bootstrap(_matrix(aligned), _matrix(tuned))
    # A draw in which all means are equal has no correlation.
    low, high = np.nanpercentile(drawn, _RANGE) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Effect(
        model=model,
        bits=bits,
        rows=len(before),
        correlation=float(_correlation(before[:, None], after[:, None])[0]),
        correlation_low=float(low),
        correlation_high=float(high),
        pairs=len(pairs),
        told_aligned=sum(told[0]),
        told_tuned=sum(told[1]),
        told_both=len(both),
        flips=len(flips),
        moves=moves,
        published=len(published),
        within=sum(difference <= moves for difference in published),
    )


def _matrix(values: Values) -> NDArray[np.float64]:
    """Return values of shape (rows, seeds). NaN where a row lacks a seed."""
    seeds = sorted(set[int]().union(*values.values()))
    return np.array([[row.get(seed, np.nan) for seed in seeds] for row in values.values()])


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.nanmean(values, axis=1)
    return means


def _told(values: Values, pairs: Sequence[tuple[int, int]], items: int) -> list[bool]:
    """Return whether each pair is told apart, with Holm's correction over all of them."""
    return [p < LEVEL for p in PairedTests(list(values.values()), items).corrected(pairs)]


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Spearman's rank correlation of each column of two matrices; NaN where all tie."""
    ranks = (pd.DataFrame(each).rank().to_numpy() for each in (a, b))
    first, second = (each - each.mean(axis=0) for each in ranks)
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (first * second).sum(axis=0) / scale
    return found


def _bootstrap(aligned: NDArray[np.float64], tuned: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rank correlations of means over seeds, and over studies, drawn with replacement."""
    random = np.random.RandomState(0)
    drawn = []
    for values in (aligned, tuned):
        count = values.shape[1]
        chosen = random.randint(count, size=(_DRAWS, count))
        drawn.append(np.nanmean(values[:, chosen], axis=2))
    return _correlation(*drawn)


def to_frame(found: Sequence[Effect]) -> pd.DataFrame:
    """Return effects as a frame with a column for each attribute of `Effect`.

    Args:
        found: The effects.
    """
    return pd.DataFrame(map(asdict, found), columns=list(Effect.__dataclass_fields__))


def tables(
    found: Sequence[Effect],
    studies: pd.DataFrame,
    aligned: Mapping[tuple[str, str, str], float],
    metric: str,
) -> list[DetailsTable]:
    """Return tables of what tuning changes, for each model.

    Args:
        found: Effects, as `effects` returns them.
        studies: Means of studies, as `qbench.report.studies.means` returns them. Those of
            complete and sound results are used.
        aligned: Mean with the aligned recipe (%), by model, label and bit-widths, where known.
        metric: Metric of the means.

    Returns:
        A table of the ranking and the pairs, if there are effects, and one of the gains of each
        method, if there are any.
    """
    made = []
    done = comparable(studies)
    done = done[done["method"] != FP32]
    for model, group in done.groupby("model", sort=False):
        own = [each for each in found if each.model == model]
        if own:
            title = one_line(f"What tuning changes: {model}")
            made.append(DetailsTable(title, EFFECT, [_texts(each) for each in own], _ABOUT))
        gains: dict[str, dict[str, float]] = {}
        for (bits, label), values in group.groupby(["bits", "label"], sort=False)[metric]:
            before = aligned.get((str(model), str(label), str(bits)))
            if before is not None:
                gains.setdefault(str(bits), {})[str(label)] = float(values.mean()) - before
        if gains:
            made.append(_gains(str(model), pd.DataFrame(gains)))
    return made


def _texts(found: Effect) -> list[str]:
    correlation = ""  # where all means of a table are equal
    if np.isfinite(found.correlation):
        ends = f"{found.correlation_low:.2f} to {found.correlation_high:.2f}"
        correlation = f"{found.correlation:.2f} ({ends})"
    return [
        found.bits,
        str(found.rows),
        correlation,
        *map(str, (found.pairs, found.told_aligned, found.told_tuned, found.told_both)),
        str(found.flips),
        f"{found.moves:.2f}",
        f"{found.within} of {found.published}" if found.published else "",
    ]


def _gains(model: str, gains: pd.DataFrame) -> DetailsTable:
    """Return the table of the gains of each method, by bit-widths."""
    mean = gains.mean(axis=1)
    column = Column("gain", "Gain", "Tuned less aligned.", "tuning", "points", 2)
    columns = [BY_NAME["label"], *(_titled(column, str(bits)) for bits in gains)]
    rows = [
        [one_line(str(label)), *map(column.text, [*gains.loc[label], mean[label]])]
        for label in mean.sort_values(ascending=False, kind="stable").index
    ]
    title = one_line(f"What tuning gains: {model}")
    return DetailsTable(title, [*columns, _titled(column, "Mean")], rows, _GAINS)


def _titled(column: Column, title: str) -> Column:
    return Column(f"{column.name}_{title}", title, column.about, column.group, "points", 2)

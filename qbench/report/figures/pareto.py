"""Figure of accuracy against cost, with the Pareto front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Bbox

from qbench.report.columns import BY_NAME
from qbench.report.figures.style import (
    COLORS,
    HOLLOW,
    POINTS,
    STYLE,
    Looks,
    error_axis,
    legend,
    save,
)
from qbench.spec.metrics import SHORT
from qbench.spec.trial import FP32

COSTS = ("weight_mb", "gbops")
FRONT: dict[str, Any] = {
    "color": "0.25",
    "linewidth": 1.2,
    "drawstyle": "steps-post",
    "zorder": 1.5,
}
FULL_PRECISION_POINT: dict[str, Any] = {"color": "0.15", "marker": "*", "markersize": 11, **POINTS}
ON_FRONT: dict[str, Any] = {"color": COLORS[0], "marker": "o", "zorder": 2.5, **POINTS}
BEATEN: dict[str, Any] = {"color": "0.72", "marker": "o", "markersize": 4, **POINTS}
LEADER: dict[str, Any] = {"color": "0.5", "linewidth": 0.6, "zorder": 1.4}
MOST_TICKS = 6
PLOT = (4.2, 2.8)  # inches, approximately
LETTER = 0.063  # inches
ROOM = 1.12  # factor by which a logarithmic axis exceeds its points


def pareto(
    summary: pd.DataFrame, folder: Path, costs: Sequence[str] = COSTS, stem: str = "pareto"
) -> list[Path]:
    """Draw accuracy against costs, and the Pareto front.

    A point is a result. The front joins the k-bit results, full precision included, that no other
    k-bit result beats or equals at less cost. Their names and bit-widths are written beside them
    where there is room; the others are grey. The cost axis is logarithmic, the accuracy axis is
    logarithmic in the error, as in `qbench.report.figures.training`. Each network has a row of
    panels.

    Args:
        summary: One row for each result, from `qbench.report.summary.summarise`. Columns:
            ``dataset``, ``model``, ``method``, ``label``, ``bits``, ``metric``, ``n``, ``mean``
            (%), ``audit`` and `costs`.
        folder: An existing folder for the files.
        costs: Columns of costs, with a panel each. Default: packed weights and bit-operations.
        stem: Name of the files without their suffixes.

    Returns:
        Paths of the PNG and the SVG file. Empty if fewer than two quantized results of
        different cost are measured.

    Raises:
        KeyError: A column is missing.
        OSError: The folder cannot be written.
    """
    if not len(summary):
        return []
    found = summary[summary["mean"].notna() & summary[list(costs)].notna().all(axis=1)]
    found = found[found["n"] > 0]
    full = found["method"] == FP32  # the network as it is comes before those that methods changed
    found = found[~full | (found["label"] == next(iter(found.loc[full, "label"]), ""))]
    if found.loc[found["method"] != FP32, costs[0]].nunique() < 2:
        return []
    networks = list(found.groupby(["model", "dataset"], sort=False))
    with mpl.rc_context(STYLE):
        width = 4.75 * len(costs)
        figure = Figure(figsize=(width, 3.6 * len(networks)), layout="constrained")
        grid = figure.subplots(len(networks), len(costs), squeeze=False)
        for row, ((model, dataset), results) in zip(grid, networks, strict=True):
            for axes, cost in zip(row, costs, strict=True):
                error_axis(axes, results["mean"])
                _panel(axes, results, cost)
                ratio = " × full precision" if BY_NAME[cost].unit == "×" else ""
                axes.set_xlabel(BY_NAME[cost].heading + ratio)
            row[0].set_ylabel(f"{SHORT[results['metric'].iloc[0]]} (%)")
            for axes in row[1:]:
                axes.tick_params(labelleft=False)
            row[0].set_title(f"{model} on {dataset}", loc="left")
        named: Looks = {
            "on the Pareto front": ON_FRONT,
            "other results": BEATEN,
            "full precision": FULL_PRECISION_POINT,
        }
        if (found["audit"].str.len() > 0).any() and not found["audit"].isin(["", "k-bit"]).all():
            named["hollow: not k-bit"] = {"color": "0.25", "marker": "o", **POINTS, **HOLLOW}
        legend(figure, named)
        return save(figure, stem, folder)


def front(results: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Return the results that no other result beats or equals at less cost.

    Args:
        results: One row for each result. Columns: ``mean`` (%), ``audit`` and `cost`. Results that
            are not k-bit are left out.
        cost: Name of the column to minimise.

    Returns:
        The rows of the front, by ascending cost.

    Raises:
        KeyError: A column is missing.
    """
    fair = results[results["audit"].isin(["", "k-bit"])]
    ordered = fair.sort_values([cost, "mean"], ascending=[True, False], kind="stable")
    best = ordered["mean"].cummax()
    first = ~best.duplicated() & (ordered["mean"] == best)
    return ordered[first]


def _panel(axes: Axes, results: pd.DataFrame, cost: str) -> None:
    best = front(results, cost)
    for index, result in results.iterrows():
        full = result["method"] == FP32
        look = dict(ON_FRONT if index in best.index else BEATEN)
        if full:
            look = dict(FULL_PRECISION_POINT)
        if result["audit"] not in ("", "k-bit"):
            look |= HOLLOW | {"markeredgecolor": look["color"]}
        axes.plot(result[cost], result["mean"], **look)
    low, high = results[cost].min() / ROOM, results[cost].max() * ROOM
    axes.plot([*best[cost], high], [*best["mean"], best["mean"].iloc[-1]], **FRONT)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    _name_points(axes, best, cost)
    ticks = _ticks(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _name_points(axes: Axes, best: pd.DataFrame, cost: str) -> None:
    """Name each point of the front beside it, if need be at the end of a line.

    Where nothing else is free, the bit-width alone is its name.
    """
    place = axes.transData - axes.transAxes
    points = [place.transform((row[cost], row["mean"])) * PLOT for _, row in best.iterrows()]
    taken = [Bbox.from_bounds(x - 0.06, y - 0.06, 0.12, 0.12) for x, y in points]
    whole = Bbox.from_bounds(0, 0, *PLOT)
    for (x, y), (_, result) in zip(points, best.iterrows(), strict=True):
        names = [f"{result['label']} {result['bits']}", str(result["bits"])]
        for name, lines, right, down in itertools.product(names, range(6), (1, 0), (1, 0)):
            width, height, away = LETTER * len(name), 0.13, 0.02 + 0.15 * lines
            left = x + 0.07 if right else x - 0.07 - width
            box = Bbox.from_bounds(left, y - away - height if down else y + away, width, height)
            inside = whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1
            if inside and not any(box.overlaps(other) for other in taken):
                corner = (box.x0 / PLOT[0], box.y0 / PLOT[1])
                axes.text(*corner, name, fontsize=8, va="bottom", transform=axes.transAxes)
                if lines:
                    ends = (x, box.x0 if right else box.x1), (y, box.y1 if down else box.y0)
                    xs, ys = (np.array(end) / size for end, size in zip(ends, PLOT, strict=True))
                    axes.plot(xs, ys, transform=axes.transAxes, **LEADER)
                taken.append(box)
                break


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers on a logarithmic axis, at most `MOST_TICKS` if possible."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= MOST_TICKS:
            break
    return inside

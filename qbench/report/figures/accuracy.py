"""Figure of a suite: accuracy by bit-width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qbench.report.baseline import unchanged
from qbench.report.figures.style import (
    FULL_PRECISION_LINE,
    HOLLOW,
    POINTS,
    STYLE,
    Looks,
    drawn,
    legend,
    looks_of,
    save,
)
from qbench.spec.metrics import SHORT
from qbench.spec.trial import FP32

COLUMN = 0.95  # inches for a bit-width; more if there are many methods
WIDEST = 12.0  # inches of a figure; further bit-widths continue in the next row
POINT = 0.105  # inches for the point of a method
SLOTS = 0.84  # share of a bit-width's column that its points fill
STRIP = 0.19  # share of the panel's height for points below the axis
ACCURACIES = ("top1", "top5")


def accuracy_by_bits(trials: pd.DataFrame, folder: Path, metric: str = "top1") -> list[Path]:
    """Draw a metric by bit-width: a point for each method, with mean and deviation over seeds.

    A point far below the others does not compress the axis. It is drawn in a strip under the axis,
    with its value. The dashed line is full precision. Each model has one panel, or several panels
    below each other if its bit-widths do not fit side by side.

    Args:
        trials: One row for each trial, in the order of the suite. Columns: ``method``, ``label``,
            ``model``, ``dataset``, ``bits``, ``status``, ``audit`` (empty if k bits hold) and
            `metric` (float, %), as described by `qbench.report.write.write`.
        folder: An existing folder for the files.
        metric: Name of the column to draw.

    Returns:
        Paths of ``accuracy_by_bits.png`` and ``accuracy_by_bits.svg``. Empty if no quantized trial
        is done.

    Raises:
        KeyError: A column is missing.
        OSError: The folder cannot be written.
    """
    trials = trials.rename(columns={metric: "value"})
    quantized = trials[trials["method"] != FP32]
    done = quantized[quantized["status"] == "done"]
    if done.empty:
        return []
    looks = looks_of(trials)
    networks = list(done.groupby(["model", "dataset"], sort=False))
    column = max(COLUMN, POINT * done.groupby("bits")["label"].nunique().max() / SLOTS)
    across = max(1, int((WIDEST - 0.8) / column))
    rows = []
    for (model, dataset), group in networks:
        here = trials[(trials["model"] == model) & (trials["dataset"] == dataset)]
        base = unchanged(here)
        full = base.loc[base["status"] == "done", "value"].mean()
        widths = list(here.loc[here["method"] != FP32, "bits"].unique())
        for first in range(0, len(widths), across):
            part = widths[first : first + across]
            points = group[group["bits"].isin(part)]
            title = "" if first else f"{model} on {dataset}"
            rows += [] if points.empty else [(title, points, part, float(full))]
    with mpl.rc_context(STYLE):
        width = max(6.5, 0.8 + column * max(len(part) for _, _, part, _ in rows))
        figure = Figure(figsize=(width, 3.4 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), squeeze=False)[:, 0]
        for axes, (title, points, part, full) in zip(grid, rows, strict=True):
            _accuracy_panel(axes, points, part, full, looks)
            axes.set_ylabel(SHORT[metric] + (" accuracy (%)" if metric in ACCURACIES else " (%)"))
            axes.set_title(title, loc="left")
        more = {"Full precision": FULL_PRECISION_LINE}
        if (done["audit"] != "").any():
            more["hollow: not k-bit"] = {"color": "0.25", "marker": "o", **POINTS, **HOLLOW}
        shown = drawn(looks, done)
        legend(figure, {label: look | POINTS for label, look in shown.items()} | more)
        return save(figure, "accuracy_by_bits", folder)


def _accuracy_panel(
    axes: Axes, done: pd.DataFrame, widths: list[str], full: float, looks: Looks
) -> None:
    rows = done.groupby(["label", "bits"], sort=False)
    points = rows.agg(mean=("value", "mean"), std=("value", "std"), audit=("audit", "max"))
    points = points.fillna({"std": 0.0}).reset_index()
    low, high = _limits(points, full)
    below = low - STRIP / (1 - STRIP) * (high - low)
    hidden = points["mean"] < low
    points["x"] = points["bits"].map(widths.index) + _dodge(points, list(looks))
    each: Any = points.itertuples(index=False)
    for point, is_hidden in zip(each, hidden, strict=True):
        look = looks[point.label] | POINTS
        if point.audit:
            look |= HOLLOW | {"markeredgecolor": look["color"]}
        y = below + 0.2 * (low - below) if is_hidden else point.mean
        bar = None
        if point.std and not is_hidden:
            bar = [[min(point.std, point.mean - low)], [point.std]]  # the bar ends above the strip
        axes.errorbar(point.x, y, bar, capsize=2, elinewidth=1.2, **look)
        if is_hidden:
            axes.annotate(
                f"{point.mean:.1f}",
                (point.x, y),
                xytext=(0, 6),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="bottom",
                fontsize=9,
            )
    for edge in np.arange(0.5, len(widths) - 1):
        axes.axvline(edge, color="0.85", linewidth=0.8, zorder=0)
    if not np.isnan(full):
        axes.axhline(full, zorder=1, **FULL_PRECISION_LINE)
    if hidden.any():
        axes.axhspan(below, low, color="0.93", zorder=0.5)
        middle, beside = (below + low) / 2, axes.get_yaxis_transform()
        axes.text(-0.01, middle, "lower", transform=beside, ha="right", va="center", fontsize=9)
    axes.set(
        xlim=(-0.5, len(widths) - 0.5),
        ylim=(below if hidden.any() else low, high),
        xlabel="bits (weights/activations)",
    )
    axes.set_xticks(range(len(widths)), widths)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 100)])
    axes.grid(visible=False, axis="x")


def _dodge(points: pd.DataFrame, labels: list[str]) -> pd.Series[float]:
    """Return the offset of each point from the centre of its bit-width, in the suite's order."""
    order = points["label"].map(labels.index)
    place = order.groupby(points["bits"]).rank() - 1
    count = points.groupby("bits")["label"].transform("count")
    step = np.minimum(SLOTS / count, SLOTS / 4)
    return (place - (count - 1) / 2) * step


def _limits(points: pd.DataFrame, full: float) -> tuple[float, float]:
    """Return the limits of the axis: all means, except those below Tukey's outer fence."""
    means = points["mean"]
    lower, upper = means.quantile([0.25, 0.75])
    fence = min(lower - 3 * (upper - lower), lower - 1)
    inside = points[means >= fence]
    low = max((inside["mean"] - inside["std"]).min(), min(fence, inside["mean"].min()))
    high = float(np.nanmax([(inside["mean"] + inside["std"]).max(), full]))
    margin = 0.05 * max(high - low, 0.5)
    return low - margin, high + margin

"""Figures from trials, in one style that survives print and colour blindness.

A pure function of its frames, as `qbench.leaderboard` is. A method has one colour and one marker in
every figure of a suite; a hollow marker is a network that the audit found not to be k-bit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

STYLE: Any = {
    **sns.axes_style("whitegrid"),
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same letters everywhere
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.markersize": 5.5,
    "text.parse_math": False,  # labels are text, dollars and all
    "svg.hashsalt": "qbench",
}
COLORS = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 9, 7, 6, 8)]
MARKERS = "osD^vPX*<>hp"
OUTLINE: dict[str, Any] = {"markeredgecolor": "0.2", "markeredgewidth": 0.6}
POINTS: dict[str, Any] = {"linestyle": "none"}
HOLLOW: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 1.4}
FULL_PRECISION: dict[str, Any] = {"color": "0.25", "linestyle": "--", "linewidth": 1.2}
COLUMN = 0.95  # inches for a width, or more for many methods
POINT = 0.105  # inches for a method's point
SLOTS = 0.84  # of a width's column, shared by its points
STRIP = 0.19  # of the panel's height, for points below the axis
ERROR_TICKS = (0, 1, 10, 100, 50, 5, 0.5, 20, 2, 0.2, 30, 40, 60, 70, 80)  # by preference
TICKS_APART = 0.09  # of the axis, at least
OFFSET = 0.1  # percent, added to errors: zero has no logarithm

LEGEND_KEY, LEGEND_LETTER, LEGEND_LINE = 0.55, 0.072, 0.19  # inches

Looks = dict[str, dict[str, Any]]


def accuracy_by_bits(trials: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw top-1 (%) by bit-width: a point for each method, mean and standard deviation over seeds.

    A point far below the others does not squash them: it stands in a strip under the axis, with its
    value. The dashed line is full precision. There is a panel for each model.

    Args:
        trials: as of `qbench.leaderboard.write`.
        folder: where to.

    Returns:
        ``accuracy_by_bits.png`` and ``.svg``; nothing where no quantized trial has finished.

    Raises:
        KeyError: a column is missing.
        OSError: the folder cannot be written.
    """
    quantized = trials[trials["method"] != "fp32"]
    done = quantized[quantized["status"] == "done"]
    if done.empty:
        return []
    looks = _looks(trials)
    panels = list(done.groupby(["model", "dataset"], sort=False))
    with mpl.rc_context(STYLE):
        column = max(COLUMN, POINT * done["label"].nunique() / SLOTS)
        width = max(6.5, 0.8 + column * quantized["bits"].nunique())
        size = (width, 3.4 * len(panels))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(panels), squeeze=False)[:, 0]
        for axes, ((model, dataset), group) in zip(grid, panels, strict=True):
            here = trials[(trials["model"] == model) & (trials["dataset"] == dataset)]
            full = here.loc[(here["method"] == "fp32") & (here["status"] == "done"), "top1"]
            widths = list(here.loc[here["method"] != "fp32", "bits"].unique())
            _accuracy_panel(axes, group, widths, float(full.mean()), looks)
            axes.set_title(f"{model} on {dataset}", loc="left")
        more = {"Full precision": FULL_PRECISION}
        if (done["audit"] != "").any():
            more["hollow: not k-bit"] = {"color": "0.25", "marker": "o", **POINTS, **HOLLOW}
        _legend(figure, {label: look | POINTS for label, look in looks.items()}, done, more)
        return _save(figure, "accuracy_by_bits", folder)


def _accuracy_panel(
    axes: Axes, done: pd.DataFrame, widths: list[str], full: float, looks: Looks
) -> None:
    rows = done.groupby(["label", "bits"], sort=False)
    points = rows.agg(mean=("top1", "mean"), std=("top1", "std"), audit=("audit", "max"))
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
            bar = [[min(point.std, point.mean - low)], [point.std]]  # not into the strip
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
        axes.axhline(full, zorder=1, **FULL_PRECISION)
    if hidden.any():
        axes.axhspan(below, low, color="0.93", zorder=0.5)
        middle, beside = (below + low) / 2, axes.get_yaxis_transform()
        axes.text(-0.01, middle, "lower", transform=beside, ha="right", va="center", fontsize=9)
    axes.set(
        xlim=(-0.5, len(widths) - 0.5),
        ylim=(below if hidden.any() else low, high),
        xlabel="bits (weights/activations)",
        ylabel="top-1 accuracy (%)",
    )
    axes.set_xticks(range(len(widths)), widths)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= min(high, 100)])
    axes.grid(visible=False, axis="x")


def _dodge(points: pd.DataFrame, labels: list[str]) -> pd.Series[float]:
    """How far each point stands from its width's centre: side by side, in the suite's order."""
    order = points["label"].map(labels.index)
    place = order.groupby(points["bits"]).rank() - 1
    count = points.groupby("bits")["label"].transform("count")
    step = np.minimum(SLOTS / count, SLOTS / 4)
    return (place - (count - 1) / 2) * step


def _limits(points: pd.DataFrame, full: float) -> tuple[float, float]:
    """The accuracy axis: all means, but those that Tukey's outer fence calls far out."""
    means = points["mean"]
    lower, upper = means.quantile([0.25, 0.75])
    fence = min(lower - 3 * (upper - lower), lower - 1)
    inside = points[means >= fence]
    low = max((inside["mean"] - inside["std"]).min(), min(fence, inside["mean"].min()))
    high = float(np.nanmax([(inside["mean"] + inside["std"]).max(), full]))
    margin = 0.05 * max(high - low, 0.5)
    return low - margin, high + margin


def training_curves(trials: pd.DataFrame, histories: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw top-1 (%) on the test split by epoch: a line for each method, a panel for each width.

    A line is the mean over seeds, its band reaches from the lowest seed to the highest. The axis is
    logarithmic in the error, so that 98 and 99 percent stand as far apart as 60 and 80.

    Args:
        trials: as of `qbench.leaderboard.write`.
        histories: likewise.
        folder: where to.

    Returns:
        ``training_curves.png`` and ``.svg``; nothing where no quantized trial has a history.

    Raises:
        KeyError: a column is missing.
        OSError: the folder cannot be written.
    """
    done = trials[(trials["method"] != "fp32") & (trials["status"] == "done")]
    if done.empty or histories.empty:
        return []
    curves = done[["key", "model", "dataset", "label", "bits", "audit"]].merge(histories, on="key")
    curves = curves.dropna(subset="top1")
    if curves.empty:
        return []
    looks = _looks(trials)
    places = trials[["model", "dataset", "bits"]].drop_duplicates()  # in the suite's order
    curves = places.merge(curves, on=list(places))
    panels = list(curves.groupby(list(places), sort=False))
    several = len(curves[["model", "dataset"]].drop_duplicates()) > 1
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context(STYLE):
        size = (max(6.5, 0.6 + 1.8 * across), 0.5 + 1.9 * down)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, ((model, _, bits), group) in zip(grid, panels, strict=False):
            _curves_panel(axes, group, looks)
            axes.set_title(f"{model}, {bits}" if several else bits)
        _error_axis(grid[0], curves["top1"])
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes in grid[::across]:
            axes.set_ylabel("top-1 (%)")
        for axes in grid[across * (down - 1) : len(panels)]:
            axes.set_xlabel("epoch")
        _legend(figure, looks, done)
        return _save(figure, "training_curves", folder)


def _curves_panel(axes: Axes, curves: pd.DataFrame, looks: Looks) -> None:
    step = max(1, curves["epoch"].nunique() // 3)
    for i, (label, group) in enumerate(curves.groupby("label", sort=False)):
        seeds = group.groupby("epoch")["top1"].agg(["mean", "min", "max"])
        look = looks[str(label)]
        start = i * step // curves["label"].nunique()  # so that markers do not hide one another
        axes.plot(seeds["mean"], linewidth=1.3, markersize=4.5, markevery=(start, step), **look)
        axes.fill_between(
            seeds.index, seeds["min"], seeds["max"], color=look["color"], alpha=0.15, linewidth=0
        )


def _error_axis(axes: Axes, top1: pd.Series[float]) -> None:
    """Make the axis of top-1 logarithmic in 100 − top-1."""

    def place(accuracy: Any) -> Any:
        return -np.log10(np.maximum(100 + OFFSET - np.asarray(accuracy), OFFSET / 10))

    def accuracy(place: Any) -> Any:
        return 100 + OFFSET - 10.0 ** -np.asarray(place)

    axes.set_yscale("function", functions=(place, accuracy))
    low, high = place(top1.min()) - 0.05, place(top1.max()) + 0.05
    ticks: list[float] = []
    for tick in (100 - error for error in ERROR_TICKS):
        apart = min((abs(place(tick) - place(other)) for other in ticks), default=high - low)
        if low <= place(tick) <= high and apart >= TICKS_APART * (high - low):
            ticks.append(tick)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(accuracy(low), accuracy(high))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))


def _looks(trials: pd.DataFrame) -> Looks:
    """Colour and marker of each method by its label, in the suite's order."""
    labels = trials.loc[trials["method"] != "fp32", "label"].unique()
    return {
        label: {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]} | OUTLINE
        for i, label in enumerate(labels)
    }


def _legend(figure: Figure, looks: Looks, done: pd.DataFrame, more: Looks | None = None) -> None:
    """Name the methods that have finished trials, and what else is drawn, below the panels."""
    drawn = set(done["label"])
    named = {label: look for label, look in looks.items() if label in drawn} | (more or {})
    keys = [Line2D([], [], label=label, **look) for label, look in named.items()]
    for columns in (4, 3, 2, 1):
        parts = np.array_split([LEGEND_KEY + LEGEND_LETTER * len(name) for name in named], columns)
        if sum(max(part, default=0) for part in parts) <= figure.get_figwidth():
            break
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * len(parts[0]))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, frameon=False)


def _save(figure: Figure, stem: str, folder: Path) -> list[Path]:
    """Write a figure as PNG and SVG, each replaced as a whole, without dates or versions."""
    paths = []
    for suffix, metadata in {"png": {"Software": None}, "svg": {"Date": None}}.items():
        path, scratch = folder / f"{stem}.{suffix}", folder / f".{stem}.{suffix}.tmp"
        figure.savefig(scratch, format=suffix, dpi=150, metadata=metadata)
        os.replace(scratch, path)
        paths.append(path)
    return paths

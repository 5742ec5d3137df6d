"""Figures of suites: accuracy by bit-width, and by epoch.

Pure functions of what they draw, as `qbench.report.write` is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qbench.report.figures.style import (
    FULL_PRECISION_LINE,
    HOLLOW,
    POINTS,
    STYLE,
    Looks,
    drawn,
    error_axis,
    legend,
    looks_of,
    panels,
    save,
)
from qbench.spec.metrics import SHORT
from qbench.spec.trial import FP32

SOFT: dict[str, Any] = {"linestyle": (0, (3, 1.5)), "linewidth": 1.3}
HARD: dict[str, Any] = {"linestyle": "-", "linewidth": 1.3}
COLUMN = 0.95  # inches for a width, or more for many methods
WIDEST = 12.0  # inches of a figure; more widths go on below
POINT = 0.105  # inches for a method's point
SLOTS = 0.84  # of a width's column, shared by its points
STRIP = 0.19  # of the panel's height, for points below the axis
PLACE = ["model", "dataset", "bits"]
ACCURACIES = ("top1", "top5")


def accuracy_by_bits(trials: pd.DataFrame, folder: Path, metric: str = "top1") -> list[Path]:
    """Draw a metric (%) by bit-width: a point for each method, mean and deviation over seeds.

    A point far below the others does not squash them: it stands in a strip under the axis, with its
    value. The dashed line is full precision. There is a panel for each model, or several one below
    the other where widths would not fit beside each other.

    Args:
        trials: as of `qbench.report.write.write`.
        folder: where to.
        metric: which column to draw.

    Returns:
        ``accuracy_by_bits.png`` and ``.svg``; nothing where no quantized trial has finished.

    Raises:
        KeyError: a column is missing.
        OSError: the folder cannot be written.
    """
    trials = _valued(trials, metric)
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
        full = here.loc[(here["method"] == FP32) & (here["status"] == "done"), "value"].mean()
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


def training_curves(
    trials: pd.DataFrame, histories: pd.DataFrame, folder: Path, metric: str = "top1"
) -> list[Path]:
    """Draw a metric (%) on the test split by epoch: a line for each method, a panel for each width.

    A line is the mean over seeds, its band reaches from the lowest seed to the highest. The axis is
    logarithmic in the error, so that 98 and 99 percent stand as far apart as 60 and 80.

    Args:
        trials: as of `qbench.report.write.write`.
        histories: likewise.
        folder: where to.
        metric: which column to draw.

    Returns:
        ``training_curves.png`` and ``.svg``; nothing where no quantized trial has a history.

    Raises:
        KeyError: a column is missing.
        OSError: the folder cannot be written.
    """
    curves = _by_epoch(trials, _valued(histories, metric), "value")
    if curves.empty:
        return []
    looks = looks_of(trials)
    with mpl.rc_context(STYLE):
        figure = _curves_figure(curves, looks, _curves_panel, curves["value"], metric)
        legend(figure, drawn(looks, curves))
        return save(figure, "training_curves", folder)


def soft_and_hard(
    trials: pd.DataFrame, histories: pd.DataFrame, folder: Path, metric: str = "top1"
) -> list[Path]:
    """Draw a metric (%) by epoch of networks with soft quantizers, dashed, and hard ones, solid.

    A line is the mean over seeds, both lines over the same ones. Panels and axis are those of
    `training_curves`. After Quantization Networks (arXiv:1911.09464), Fig. 4.

    Args:
        trials: as of `qbench.report.write.write`.
        histories: likewise.
        folder: where to.
        metric: which column to draw.

    Returns:
        ``soft_and_hard.png`` and ``.svg``; nothing where no quantized trial that has finished has
        soft quantizers.

    Raises:
        KeyError: a column is missing, other than that of soft quantizers.
        OSError: the folder cannot be written.
    """
    histories = _valued(histories, metric)
    if "soft_value" not in histories:
        return []
    curves = _by_epoch(trials, histories, "value", "soft_value")
    if curves.empty:
        return []
    both = ["soft_value", "value"]
    means = curves.groupby([*PLACE, "label", "epoch"], sort=False)[both].mean().reset_index()
    looks = looks_of(trials)
    with mpl.rc_context(STYLE):
        every = pd.concat([means[name] for name in both])
        figure = _curves_figure(means, looks, _gap_panel, every, metric)
        more = {"soft quantizers": SOFT, "hard quantizers": HARD}
        more = {label: {"color": "0.25"} | look for label, look in more.items()}
        legend(figure, drawn(looks, means) | more)
        return save(figure, "soft_and_hard", folder)


def _valued(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A frame with the metric to draw as ``value``, and as ``soft_value`` with soft quantizers."""
    return frame.rename(columns={metric: "value", f"soft_{metric}": "soft_value"})


def _by_epoch(trials: pd.DataFrame, histories: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Epochs of finished quantized trials that have these columns, panels in the suite's order."""
    done = trials[(trials["method"] != FP32) & (trials["status"] == "done")]
    if done.empty or histories.empty:
        return pd.DataFrame()
    curves = done[["key", *PLACE, "label"]].merge(histories, on="key")
    curves = curves.dropna(subset=list(columns))
    return trials[PLACE].drop_duplicates().merge(curves, on=PLACE)


def _curves_figure(
    curves: pd.DataFrame,
    looks: Looks,
    draw: Callable[[Axes, pd.DataFrame, Looks], None],
    values: pd.Series[float],
    metric: str,
) -> Figure:
    """Draw a panel for each model and width, on one axis that holds ``values``."""
    groups = list(curves.groupby(PLACE, sort=False))
    several = len(curves[["model", "dataset"]].drop_duplicates()) > 1
    figure, grid = panels(len(groups), "epoch", f"{SHORT[metric]} (%)", share=True)
    for axes, ((model, _, bits), group) in zip(grid, groups, strict=True):
        draw(axes, group, looks)
        axes.set_title(f"{model}, {bits}" if several else str(bits))
    error_axis(grid[0], values)
    grid[0].xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    return figure


def _curves_panel(axes: Axes, curves: pd.DataFrame, looks: Looks) -> None:
    step = max(1, curves["epoch"].nunique() // 3)
    for i, (label, group) in enumerate(curves.groupby("label", sort=False)):
        seeds = group.groupby("epoch")["value"].agg(["mean", "min", "max"])
        look = looks[str(label)]
        start = i * step // curves["label"].nunique()  # so that markers do not hide one another
        axes.plot(seeds["mean"], linewidth=1.3, markersize=4.5, markevery=(start, step), **look)
        axes.fill_between(
            seeds.index, seeds["min"], seeds["max"], color=look["color"], alpha=0.15, linewidth=0
        )


def _gap_panel(axes: Axes, curves: pd.DataFrame, looks: Looks) -> None:
    step = max(1, curves["epoch"].nunique() // 3)
    for i, (label, group) in enumerate(curves.groupby("label", sort=False)):
        look = looks[str(label)] | {"markersize": 4.5}
        start = i * step // curves["label"].nunique()
        means = group.set_index("epoch").sort_index()
        for column, line in {"soft_value": SOFT, "value": HARD}.items():
            axes.plot(means[column], markevery=(start, step), **look | line)

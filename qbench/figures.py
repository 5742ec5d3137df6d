"""Figures from trials, in one style: colours that the colour-blind can tell apart, and markers."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import matplotlib.lines
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

STYLE: Any = {
    **sns.axes_style("whitegrid"),
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.hashsalt": "qbench",
    "svg.fonttype": "path",
}
MARKERS = "osD^vP*X<>hp"
AXIS_SPANS = (1, 2, 3, 5, 8, 12, 20, 40, 100)


def render(figure: Figure, suffix: str) -> bytes:
    """A figure as ``png`` or ``svg``; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
    return buffer.getvalue()


def accuracy_by_bits(trials: pd.DataFrame) -> Figure | None:
    """Top-1 by bit-width: a point for each method, mean and standard deviation over seeds.

    Points far below the others do not squash them: they stand at the lower edge with their value
    beside them.

    Args:
        trials: as of `qbench.leaderboard.write`.

    Returns:
        A panel for each model, or None where no quantized trial has finished.
    """
    done = trials[(trials["status"] == "done") & (trials["method"] != "fp32")]
    if done.empty:
        return None
    models = list(dict.fromkeys(done["model"]))
    looks = _looks(trials)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.6 + 3.6 * len(models)), layout="constrained")
        for axes, model in zip(np.ravel(figure.subplots(len(models))), models, strict=True):
            full = trials[(trials["model"] == model) & (trials["method"] == "fp32")]["top1"]
            of_model = done[done["model"] == model]
            widths = [w for w in _widths(trials) if w in set(of_model["bits"])]
            _accuracy_panel(axes, of_model, widths, full.mean(), looks)
            axes.set_title(f"{model} on {done['dataset'].iloc[0]}", loc="left")
        _legend(figure, looks, full_precision=True)
    return figure


def _accuracy_panel(
    axes: Any,
    done: pd.DataFrame,
    widths: list[str],
    full: float,
    looks: dict[str, dict[str, Any]],
) -> None:
    points = done.groupby(["label", "bits"])["top1"].agg(["mean", "std"]).fillna(0)
    floor = _floor(points["mean"], full)
    top = max(float((points["mean"] + points["std"]).max()), 0 if np.isnan(full) else full)
    for column, bits in enumerate(widths):
        present = [label for label in looks if (label, bits) in points.index]
        for index, label in enumerate(present):
            x = column + 0.84 * ((index + 0.5) / len(present) - 0.5)
            mean = float(points["mean"][label, bits])
            std = float(points["std"][label, bits])
            if mean >= floor:
                axes.errorbar(x, mean, std, capsize=2, **looks[label])
                continue
            axes.plot(x, floor, **looks[label])
            above = (0, 7 + 12 * (index % 2))  # neighbours' numbers do not touch
            axes.annotate(
                f"↓{mean:.0f}", (x, floor), above, textcoords="offset points", ha="center"
            )
    for column in range(1, len(widths)):
        axes.axvline(column - 0.5, color="0.85", linewidth=0.8, zorder=0)
    if not np.isnan(full):
        axes.axhline(full, color="0.25", linestyle="--", linewidth=1.2, zorder=1)
    margin = 0.05 * (top - floor)
    axes.set(
        xlim=(-0.5, len(widths) - 0.5),
        ylim=(floor - margin, top + margin),
        xlabel="bits, weights/activations",
        ylabel="top-1 accuracy (%)",
    )
    axes.set_xticks(range(len(widths)), widths)
    axes.grid(visible=False, axis="x")


def _floor(means: pd.Series, full: float) -> float:
    """Where the accuracy axis starts: low enough for all but a few of the points."""
    high = float(np.nanmax([full, means.max()]))
    drop = high - float(means.quantile(0.07))
    return high - next((span for span in AXIS_SPANS if span >= 1.1 * drop), 100)


def _widths(trials: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(trials["bits"]))


def training_curves(trials: pd.DataFrame, histories: pd.DataFrame) -> Figure | None:
    """Test error by epoch, of the network in evaluation mode, on a logarithmic axis.

    Args:
        trials: as of `qbench.leaderboard.write`.
        histories: likewise.

    Returns:
        A panel for each model and bit-width: a line for each method, the mean over seeds, and a
        band from the lowest seed to the highest. None where no quantized trial has finished.
    """
    done = trials[(trials["status"] == "done") & (trials["method"] != "fp32")]
    curves = done[["key", "model", "label", "bits"]].merge(histories, on="key")
    if curves.empty:
        return None
    curves["error"] = 100 - curves["top1"]
    least = curves.loc[curves["error"] > 0, "error"].min() / 2  # a logarithm has no zero
    curves["error"] = curves["error"].clip(lower=0.1 if np.isnan(least) else least)
    looks = _looks(trials)
    models = list(dict.fromkeys(curves["model"]))
    panels = [
        (model, bits)
        for model in models
        for bits in _widths(trials)
        if ((curves["model"] == model) & (curves["bits"] == bits)).any()
    ]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.4 * columns + 2, 2.2 * rows + 0.5), layout="constrained")
        grid = np.ravel(figure.subplots(rows, columns, sharey=True, sharex=True))
        for axes, (model, bits) in zip(grid, panels, strict=False):
            panel = curves[(curves["model"] == model) & (curves["bits"] == bits)]
            _curves_panel(axes, panel, looks)
            axes.set_title(f"{model}, {bits}" if len(models) > 1 else bits)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel("epoch", fontsize=10)
        figure.supylabel("test error (%), log scale", fontsize=10)
        _legend(figure, looks, full_precision=False)
    return figure


def _curves_panel(axes: Any, panel: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    for label, look in looks.items():
        epochs = panel[panel["label"] == label].groupby("epoch")["error"]
        if not len(epochs):
            continue
        seeds = epochs.agg(["mean", "min", "max"])
        line = {"color": look["color"], "marker": look["marker"], "markevery": 0.3}
        axes.plot(seeds.index, seeds["mean"], linewidth=1.4, markersize=4, **line)
        axes.fill_between(
            seeds.index, seeds["min"], seeds["max"], color=look["color"], alpha=0.15, linewidth=0
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _looks(trials: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Colour and marker of each method, by its label; the same in every figure of a suite."""
    labels = dict.fromkeys(trials.loc[trials["method"] != "fp32", "label"])
    palette = sns.color_palette("colorblind", 10)
    return {
        label: {
            "color": palette[i % len(palette)],
            "marker": MARKERS[i % len(MARKERS)],
            "markersize": 6,
            "linestyle": "none",
        }
        for i, label in enumerate(labels)
    }


def _legend(figure: Figure, looks: dict[str, dict[str, Any]], full_precision: bool) -> None:
    lines = [mpl.lines.Line2D([], [], label=label, **look) for label, look in looks.items()]
    if full_precision:
        lines.append(mpl.lines.Line2D([], [], color="0.25", linestyle="--", label="Full precision"))
    figure.legend(handles=lines, loc="outside right upper", frameon=False)

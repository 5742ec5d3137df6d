"""Figure of a suite: the accuracy of each method at each bit-width."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qbench.report.figures.style import (
    COLORS,
    FULL_PRECISION_LINE,
    HOLLOW,
    POINTS,
    STYLE,
    Looks,
    legend,
    save,
)
from qbench.spec.metrics import SHORT
from qbench.spec.trial import FP32

ACROSS = 4  # panels side by side, at most
PANEL = 3.6  # inches: width of a panel with its labels
LETTERS = 28  # of a label, at most
ROW = 0.18  # inches for a method
AROUND = 0.75  # inches above and below the methods of a panel
TICKS = 4  # intervals between ticks, at most
ARROW = "◂"  # before the value of a point left of the axis
PERCENT = 100.0
ACCURACIES = ("top1", "top5")
CANDIDATE: dict[str, Any] = {"color": COLORS[0], "marker": "o"}
WORSE: dict[str, Any] = {"color": "0.62", "marker": "o"}
UNTESTED: dict[str, Any] = {"color": COLORS[1], "marker": "D", "markersize": 4.5}
NAMES = {
    "candidate for the best": CANDIDATE,
    "not a candidate (†)": WORSE,
    "not tested": UNTESTED,
}


def accuracy_by_bits(summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the accuracy of each method, a panel for each bit-width of each network.

    The methods of a panel are below each other, the best on top. A point is the mean over seeds and
    a bar its 95 % interval, which ends at 100 % and at the edge of the panel. Grey methods are not
    candidates for the best, by the test of the tables. On the right are the ranks that the seeds
    leave open. A point far below the others does not compress the axis: its value stands at the
    edge. The dashed line is full precision.

    Args:
        summary: One row for each result, from `qbench.report.summary.summarise`. Columns:
            ``dataset``, ``model``, ``method``, ``label``, ``bits``, ``metric``, ``n``, ``mean``
            (%), ``std`` and ``ci95`` (points), ``standing``, ``ranks`` and ``audit``.
        folder: An existing folder for the files.

    Returns:
        Paths of ``accuracy_by_bits.png`` and ``accuracy_by_bits.svg``. Empty if no quantized
        network is measured.

    Raises:
        KeyError: A column is missing.
        OSError: The folder cannot be written.
    """
    measured = summary[summary["n"] > 0]
    quantized = measured[measured["method"] != FP32]
    if quantized.empty:
        return []
    networks = list(quantized.groupby(["model", "dataset"], sort=False))
    widths = summary["bits"].unique()  # in the order of the suite, measured or not
    bands = [row for _, group in networks for row in _bands(group, widths)]
    across = min(ACROSS, max(group["bits"].nunique() for _, group in networks))
    heights = [AROUND + ROW * max(len(results) for _, results in band) for band in bands]
    used: dict[str, None] = {}
    with mpl.rc_context(STYLE):
        size = (max(6.5, PANEL * across), sum(heights))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(bands), across, squeeze=False, height_ratios=heights)
        for row, band in zip(grid, bands, strict=True):
            for axes in row[len(band) :]:
                axes.remove()
            for axes, (title, results) in zip(row, band, strict=False):
                first = results.iloc[0]
                network = (measured["model"] == first["model"]) & (
                    measured["dataset"] == first["dataset"]
                )
                full = measured.loc[network & (measured["method"] == FP32), "mean"]
                # The network as it is comes before those that methods have changed.
                used |= dict.fromkeys(_panel(axes, results, full.iloc[0] if len(full) else np.nan))
                axes.set_title(title if len(networks) > 1 else first["bits"], loc="left")
                axes.set_ylim(max(len(each) for _, each in band) - 0.4, -0.6)
                accuracy = " accuracy (%)" if first["metric"] in ACCURACIES else " (%)"
                axes.set_xlabel(SHORT[first["metric"]] + accuracy)
        named: Looks = {name: look | POINTS for name, look in NAMES.items() if name in used}
        named["full precision"] = FULL_PRECISION_LINE
        if not quantized["audit"].isin(["", "k-bit"]).all():
            named["hollow: not k-bit"] = {"color": "0.25", "marker": "o", **POINTS, **HOLLOW}
        legend(figure, named)
        return save(figure, "accuracy_by_bits", folder)


def _bands(network: pd.DataFrame, widths: Iterable[str]) -> list[list[tuple[str, pd.DataFrame]]]:
    """Return the title and the results of each panel of a network, in rows."""
    groups = dict(iter(network.groupby("bits")))
    panels = [
        (f"{results['model'].iloc[0]} on {results['dataset'].iloc[0]}, {bits}", results)
        for bits in widths
        if (results := groups.get(bits)) is not None
    ]
    return [panels[first : first + ACROSS] for first in range(0, len(panels), ACROSS)]


def _panel(axes: Axes, results: pd.DataFrame, full: float) -> list[str]:
    """Draw one bit-width and return the names of the looks that it uses."""
    ordered = results.sort_values("mean", ascending=False, kind="stable")
    low, high = _limits(ordered, full)
    used = []
    each: Any = ordered.itertuples(index=False)
    for place, result in enumerate(each):
        name = _kind(result.standing)
        used.append(name)
        look = NAMES[name] | POINTS
        if result.audit not in ("", "k-bit"):
            look |= HOLLOW | {"markeredgecolor": look["color"]}
        if result.mean < low:
            text = f" {ARROW} {result.mean:.1f}"
            axes.text(low, place, text, va="center", fontsize=8, color=look["color"])
            continue
        bar = None
        if result.ci95 > 0:
            left = min(result.ci95, result.mean - low)
            bar = [[left], [min(result.ci95, max(0.0, min(PERCENT, high) - result.mean))]]
        axes.errorbar(result.mean, place, xerr=bar, capsize=0, elinewidth=1.2, **look)
    if not np.isnan(full):
        axes.axvline(full, zorder=1, **FULL_PRECISION_LINE)
    beside = axes.get_yaxis_transform()
    for place, text in enumerate(ordered["ranks"]):
        axes.text(1.02, place, text, transform=beside, va="center", fontsize=7, color="0.35")
    axes.set_xlim(low, high)
    ticks = MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(low, min(high, PERCENT))
    axes.set_xticks([tick for tick in ticks if low <= tick <= min(high, PERCENT)])
    names = [
        label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…" for label in ordered["label"]
    ]
    axes.set_yticks(range(len(ordered)), names, fontsize=8)
    axes.grid(visible=False, axis="x")
    return used


def _kind(standing: str) -> str:
    """Return the name of the look of a standing."""
    candidate, worse, untested = NAMES
    return {"worse": worse, "untested": untested, "": untested}.get(standing, candidate)


def _limits(points: pd.DataFrame, full: float) -> tuple[float, float]:
    """Return the limits of the axis: all means, except those below Tukey's outer fence."""
    means, std = points["mean"], points["std"].fillna(0.0)
    lower, upper = means.quantile([0.25, 0.75])
    fence = min(lower - 3 * (upper - lower), lower - 1)
    inside = means >= fence
    low = max((means - std)[inside].min(), min(fence, means[inside].min()))
    high = float(np.nanmax([min(PERCENT, (means + std)[inside].max()), full]))
    margin = 0.05 * max(high - low, 0.5)
    return low - margin, high + margin

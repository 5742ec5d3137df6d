"""Common style of all figures, legible in print and with colour blindness.

A method has the same colour and marker in every figure of a suite. A hollow marker is a network
that is not k-bit according to the audit.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qbench.files import write_atomic
from qbench.spec.trial import FP32

STYLE: Any = {
    **sns.axes_style("whitegrid"),
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so figures are the same everywhere
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.markersize": 5.5,
    "text.parse_math": False,  # a dollar sign in a label is plain text
    "svg.hashsalt": "qbench",
}
COLORS = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 9, 7, 6, 8)]
MARKERS = "osD^vPX*<>hp"
OUTLINE: dict[str, Any] = {"markeredgecolor": "0.2", "markeredgewidth": 0.6}
POINTS: dict[str, Any] = {"linestyle": "none"}
HOLLOW: dict[str, Any] = {"markerfacecolor": "white", "markeredgewidth": 1.4}
FULL_PRECISION_LINE: dict[str, Any] = {"color": "0.25", "linestyle": "--", "linewidth": 1.2}
OTHERS: dict[str, Any] = {"color": "0.8", "linewidth": 0.9, "zorder": 1.5}
MOST_METHODS = 8  # with lines of their own
ERROR_TICKS = (0, 1, 10, 100, 50, 5, 0.5, 20, 2, 0.2, 30, 40, 60, 70, 80)  # in order of preference
TICKS_APART = 0.09  # share of the axis, at least
OFFSET = 0.1  # percent, added to errors, since zero has no logarithm
ACROSS = 4  # panels side by side, at most
PANEL, BESIDE, BELOW = 1.8, 0.6, 0.5  # inches: width of a panel, space for labels
LEGEND_KEY, LEGEND_LETTER, LEGEND_LINE = 0.55, 0.072, 0.19  # inches
TITLE_LETTER, TITLE_LINE = 0.083, 0.2  # inches

Looks = dict[str, dict[str, Any]]


def error_axis(axes: Axes, values: pd.Series[float]) -> None:
    """Make the y-axis logarithmic in the error, 100 % minus the value.

    Args:
        axes: The panel.
        values: All values (%) that the axis must contain, at least one.
    """

    def place(accuracy: Any) -> Any:
        return -np.log10(np.maximum(100 + OFFSET - np.asarray(accuracy), OFFSET / 10))

    def accuracy(place: Any) -> Any:
        return 100 + OFFSET - 10.0 ** -np.asarray(place)

    axes.set_yscale("function", functions=(place, accuracy))
    low, high = place(values.min()) - 0.05, place(values.max()) + 0.05
    ticks: list[float] = []
    for tick in (100 - error for error in ERROR_TICKS):
        apart = min((abs(place(tick) - place(other)) for other in ticks), default=high - low)
        if low <= place(tick) <= high and apart >= TICKS_APART * (high - low):
            ticks.append(tick)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(accuracy(low), accuracy(high))


def panels(count: int, x: str, y: str, share: bool) -> tuple[Figure, list[Axes]]:
    """Create a figure with panels, at most `ACROSS` side by side, with labels on the outer axes.

    Args:
        count: Number of panels, at least 1.
        x: Label of the x-axes.
        y: Label of the y-axes.
        share: Whether all panels have the same axes.

    Returns:
        The figure and its panels, row by row.
    """
    across = min(ACROSS, count)
    down = -(-count // across)
    size = (max(6.5, BESIDE + PANEL * across), BELOW + 1.9 * down)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, sharex=share, sharey=share, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[:count:across]:
        axes.set_ylabel(y)
    for axes in grid[across * (down - 1) : count]:
        axes.set_xlabel(x)
    for axes in grid[count - across : count]:  # panels without one below
        axes.tick_params(labelbottom=True)
    return figure, list(grid[:count])


def name_figure(figure: Figure, title: str) -> None:
    """Write a title above a figure, wrapped to its width, and make the figure taller for it.

    Args:
        figure: The figure.
        title: The title. An empty one adds nothing.
    """
    lines = textwrap.wrap(title, int(figure.get_figwidth() / TITLE_LETTER))
    figure.set_figheight(figure.get_figheight() + TITLE_LINE * len(lines))
    figure.suptitle("\n".join(lines), fontsize=10)


def looks_of(trials: pd.DataFrame) -> Looks:
    """Return the colour and marker of each method, in the order of the suite.

    Args:
        trials: A frame with the columns ``method`` and ``label``, in the order of the suite.

    Returns:
        Arguments of `matplotlib.lines.Line2D` by label. Full precision has none.
    """
    labels = trials.loc[trials["method"] != FP32, "label"].unique()
    return {
        label: {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]} | OUTLINE
        for i, label in enumerate(labels)
    }


def drawn(looks: Looks, rows: pd.DataFrame) -> Looks:
    """Select the looks of the methods that have rows.

    Args:
        looks: Looks by label.
        rows: A frame with the column ``label``.

    Returns:
        The selected looks, in the order of `looks`.
    """
    labels = set(rows["label"])
    return {label: look for label, look in looks.items() if label in labels}


def apart(looks: Looks, means: pd.Series[float]) -> tuple[Looks, Looks]:
    """Give the `MOST_METHODS` methods that rank best in any panel looks of their own.

    The others are grey. Of two that have the same best rank, that of the better mean rank is first.

    Args:
        looks: Looks by label, as of `looks_of`.
        means: Mean (%) of each method in each panel. The last level of the index is the label, the
            others are the panel.

    Returns:
        The look of each method by label, and the entries of the legend. The looks of grey methods
        are `OTHERS`.
    """
    panel = list(range(means.index.nlevels - 1))
    ranks = means.groupby(level=panel).rank(ascending=False)
    order = ranks.groupby(level=-1, sort=False).agg(["min", "mean"]).sort_values(["min", "mean"])
    leading = set(order.index[:MOST_METHODS])
    best = [label for label in looks if label in leading]
    colors = COLORS[: len(best)]
    named = {name: looks[name] | {"color": c} for name, c in zip(best, colors, strict=True)}
    found = {label: named.get(label, OTHERS) for label in looks}
    if len(named) < len(looks):
        named["other methods"] = OTHERS
    return found, named


def legend(figure: Figure, named: Looks) -> None:
    """Draw a legend below the panels, and make the figure taller for it.

    Args:
        figure: The figure.
        named: Arguments of `matplotlib.lines.Line2D` for each entry, by label.
    """
    keys = [Line2D([], [], label=label, **look) for label, look in named.items()]
    for columns in (4, 3, 2, 1):
        parts = np.array_split([LEGEND_KEY + LEGEND_LETTER * len(name) for name in named], columns)
        if sum(max(part, default=0) for part in parts) <= figure.get_figwidth():
            break
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * len(parts[0]))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, stem: str, folder: Path) -> list[Path]:
    """Write a figure as PNG and SVG, without dates or versions. Each file is replaced atomically.

    Args:
        figure: The figure.
        stem: Name of the files without suffix.
        folder: An existing folder for the files.

    Returns:
        Paths of ``{stem}.png`` and ``{stem}.svg``.

    Raises:
        OSError: The folder cannot be written.
    """
    paths = []
    for suffix, metadata in {"png": {"Software": None}, "svg": {"Date": None}}.items():
        path = folder / f"{stem}.{suffix}"
        with write_atomic(path) as scratch:
            figure.savefig(scratch, format=suffix, dpi=150, metadata=metadata)
        paths.append(path)
    return paths

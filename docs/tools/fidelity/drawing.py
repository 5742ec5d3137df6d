"""Panels of the figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from qbench.report.figures.style import COLORS

from .probe import Version, steps

STAIRS: dict[str, Any] = {"color": COLORS[0], "linewidth": 1.8}
OTHER: dict[str, Any] = {"color": COLORS[1], "linewidth": 1.8, "linestyle": (0, (3, 1.5))}
THIRD: dict[str, Any] = {"color": COLORS[2], "linewidth": 1.8, "linestyle": (0, (1, 1))}
THRESHOLD: dict[str, Any] = {"color": "0.3", "linestyle": ":", "linewidth": 1.2}
TENSOR: dict[str, Any] = {"color": "0.86"}
BEHIND: dict[str, Any] = {**TENSOR, "linewidth": 7, "solid_capstyle": "butt"}
END: dict[str, Any] = {"color": COLORS[0], "linestyle": "none", "marker": "o", "markersize": 4}
PANEL = (2.5, 2.05)  # inches


def draw_staircase(
    axes: Axes, version: Version, x: Tensor, reach: tuple[float, float], ends: bool = False
) -> None:
    """Draw a quantizer and its thresholds over the distribution of the tensor.

    Args:
        axes: The panel.
        version: A version with a function.
        x: The tensor.
        reach: Interval of the horizontal axis.
        ends: If True, mark the quantized values of the smallest and the largest element.
    """
    function = version.function
    if function is None:
        raise ValueError(f"{version.name} is not one function")
    draw_tensor(axes, x, reach)
    thresholds, levels = steps(function, *reach)
    for threshold in thresholds:
        axes.axvline(threshold, zorder=2, **THRESHOLD)
    axes.stairs(levels, [reach[0], *thresholds, reach[1]], baseline=None, zorder=3, **STAIRS)
    if ends:
        outermost = torch.stack([x.min(), x.max()])
        axes.plot(outermost, function(outermost), zorder=4, **END)
    margin = 0.04 * (reach[1] - reach[0])
    axes.set_xlim(reach[0] - margin, reach[1] + margin)


def draw_tensor(axes: Axes, x: Tensor, reach: tuple[float, float]) -> None:
    """Draw the histogram of the tensor behind a panel, up to half its height."""
    values = x.flatten().numpy()
    behind = axes.twinx()
    behind.hist(values, bins=48, range=reach, histtype="stepfilled", zorder=0, **TENSOR)
    behind.set_ylim(0, 2.2 * behind.get_ylim()[1])
    behind.set_yticks([])
    for spine in behind.spines.values():
        spine.set_visible(False)
    behind.grid(visible=False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.grid(visible=False)
    axes.axhline(0, color="0.75", linewidth=0.8, zorder=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def figure_of(rows: int, columns: int, share: bool = False) -> tuple[Figure, Any]:
    """Create a figure and its panels.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        share: If True, panels of a row share their vertical axis.
    """
    size = (0.5 + PANEL[0] * columns, 0.7 + PANEL[1] * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey="row" if share else "none")


def legend(figure: Figure, lines: dict[str, dict[str, Any]], columns: int = 4) -> None:
    """Draw a common legend below the panels.

    Args:
        figure: The figure.
        lines: Line styles by name. Thresholds and the distribution are added.
        columns: Number of columns.
    """
    named = {**lines, "threshold": THRESHOLD, "distribution of the tensor": BEHIND}
    keys = [Line2D([], [], label=name, **look) for name, look in named.items()]
    rows = -(-len(keys) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * (rows - 1))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, name: str, folder: Path) -> None:
    """Write a figure as SVG, with the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})

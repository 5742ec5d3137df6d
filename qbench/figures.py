"""Figures of suites and of trials, in one style that survives print and colour blindness.

Pure functions of what they draw, as `qbench.leaderboard` is. A method has one colour and one marker
in every figure of a suite; a hollow marker is a network that the audit found not to be k-bit. In
figures of weights, levels are solid lines and thresholds are dotted ones.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from qbench.metrics import SHORT

if TYPE_CHECKING:
    from qbench.outcome import Curve, Weights

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
SOFT: dict[str, Any] = {"linestyle": (0, (3, 1.5)), "linewidth": 1.3}
HARD: dict[str, Any] = {"linestyle": "-", "linewidth": 1.3}
HARD_STEPS: dict[str, Any] = {"color": "0.1", "linewidth": 1.6}
BEFORE: dict[str, Any] = {"color": "0.8", "linewidth": 7, "solid_capstyle": "butt"}  # a patch
AFTER: dict[str, Any] = {"color": COLORS[0], "linewidth": 1.3}
LEVEL: dict[str, Any] = {"color": COLORS[3], "linewidth": 1.0}
THRESHOLD: dict[str, Any] = {"color": "0.3", "linestyle": ":", "linewidth": 1.2}
COLUMN = 0.95  # inches for a width, or more for many methods
WIDEST = 12.0  # inches of a figure; more widths go on below
POINT = 0.105  # inches for a method's point
SLOTS = 0.84  # of a width's column, shared by its points
STRIP = 0.19  # of the panel's height, for points below the axis
ERROR_TICKS = (0, 1, 10, 100, 50, 5, 0.5, 20, 2, 0.2, 30, 40, 60, 70, 80)  # by preference
TICKS_APART = 0.09  # of the axis, at least
OFFSET = 0.1  # percent, added to errors: zero has no logarithm
ACROSS = 4  # panels, at most
PANEL, BESIDE, BELOW = 1.8, 0.6, 0.5  # inches: a panel's width, and what labels take
MOST_BINS = 50
MOST_LINES = 16  # across a panel: more would hide the rest
FAR = 4  # times as wide as its weights, a panel does not become

LEGEND_KEY, LEGEND_LETTER, LEGEND_LINE = 0.55, 0.072, 0.19  # inches
TITLE_LETTER, TITLE_LINE = 0.083, 0.2  # likewise
PLACE = ["model", "dataset", "bits"]

Looks = dict[str, dict[str, Any]]
ACCURACIES = ("top1", "top5")


def accuracy_by_bits(trials: pd.DataFrame, folder: Path, metric: str = "top1") -> list[Path]:
    """Draw a metric (%) by bit-width: a point for each method, mean and deviation over seeds.

    A point far below the others does not squash them: it stands in a strip under the axis, with its
    value. The dashed line is full precision. There is a panel for each model, or several one below
    the other where widths would not fit beside each other.

    Args:
        trials: as of `qbench.leaderboard.write`.
        folder: where to.
        metric: which column to draw.

    Returns:
        ``accuracy_by_bits.png`` and ``.svg``; nothing where no quantized trial has finished.

    Raises:
        KeyError: a column is missing.
        OSError: the folder cannot be written.
    """
    trials = _valued(trials, metric)
    quantized = trials[trials["method"] != "fp32"]
    done = quantized[quantized["status"] == "done"]
    if done.empty:
        return []
    looks = _looks(trials)
    panels = list(done.groupby(["model", "dataset"], sort=False))
    column = max(COLUMN, POINT * done.groupby("bits")["label"].nunique().max() / SLOTS)
    across = max(1, int((WIDEST - 0.8) / column))
    rows = []
    for (model, dataset), group in panels:
        here = trials[(trials["model"] == model) & (trials["dataset"] == dataset)]
        full = here.loc[(here["method"] == "fp32") & (here["status"] == "done"), "value"].mean()
        widths = list(here.loc[here["method"] != "fp32", "bits"].unique())
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
        more = {"Full precision": FULL_PRECISION}
        if (done["audit"] != "").any():
            more["hollow: not k-bit"] = {"color": "0.25", "marker": "o", **POINTS, **HOLLOW}
        drawn = _drawn(looks, done)
        legend(figure, {label: look | POINTS for label, look in drawn.items()} | more)
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
        axes.axhline(full, zorder=1, **FULL_PRECISION)
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
        trials: as of `qbench.leaderboard.write`.
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
    looks = _looks(trials)
    with mpl.rc_context(STYLE):
        figure = _curves_figure(curves, looks, _curves_panel, curves["value"], metric)
        legend(figure, _drawn(looks, curves))
        return save(figure, "training_curves", folder)


def soft_and_hard(
    trials: pd.DataFrame, histories: pd.DataFrame, folder: Path, metric: str = "top1"
) -> list[Path]:
    """Draw a metric (%) by epoch of networks with soft quantizers, dashed, and hard ones, solid.

    A line is the mean over seeds, both lines over the same ones. Panels and axis are those of
    `training_curves`. After Quantization Networks (arXiv:1911.09464), Fig. 4.

    Args:
        trials: as of `qbench.leaderboard.write`.
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
    looks = _looks(trials)
    with mpl.rc_context(STYLE):
        every = pd.concat([means[name] for name in both])
        figure = _curves_figure(means, looks, _gap_panel, every, metric)
        more = {"soft quantizers": SOFT, "hard quantizers": HARD}
        more = {label: {"color": "0.25"} | look for label, look in more.items()}
        legend(figure, _drawn(looks, means) | more)
        return save(figure, "soft_and_hard", folder)


def _valued(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A frame with the metric to draw as ``value``, and as ``soft_value`` with soft quantizers."""
    return frame.rename(columns={metric: "value", f"soft_{metric}": "soft_value"})


def _by_epoch(trials: pd.DataFrame, histories: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Epochs of finished quantized trials that have these columns, panels in the suite's order."""
    done = trials[(trials["method"] != "fp32") & (trials["status"] == "done")]
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
    panels = list(curves.groupby(PLACE, sort=False))
    several = len(curves[["model", "dataset"]].drop_duplicates()) > 1
    figure, grid = _grid(len(panels), "epoch", f"{SHORT[metric]} (%)", share=True)
    for axes, ((model, _, bits), group) in zip(grid, panels, strict=True):
        draw(axes, group, looks)
        axes.set_title(f"{model}, {bits}" if several else str(bits))
    _error_axis(grid[0], values)
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


def _error_axis(axes: Axes, values: pd.Series[float]) -> None:
    """Make the axis logarithmic in what is missing from 100."""

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
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))


def quantization_function(
    curve: Curve, weights: Weights | None, title: str, folder: Path
) -> list[Path]:
    """Draw a layer's quantization function: soft ones, darker by epoch, and the hard one on top.

    Levels are horizontal lines, thresholds vertical ones, unless there are very many. After
    Quantization Networks (arXiv:1911.09464), Fig. 2.

    Args:
        curve: the function.
        weights: levels and thresholds of the layer, if known.
        title: what was trained.
        folder: where to.

    Returns:
        ``quantization_function.png`` and ``.svg``.

    Raises:
        OSError: the folder cannot be written.
    """
    shades = sns.color_palette("crest", len(curve.soft))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.5, 4.0), layout="constrained")
        axes = figure.subplots()
        named: Looks = {}
        for (epoch, values), shade in zip(sorted(curve.soft.items()), shades, strict=True):
            named[f"epoch {epoch}"] = {"color": shade, "linewidth": 1.8}
            axes.plot(curve.x, values, **named[f"epoch {epoch}"])
        named["hard"] = HARD_STEPS
        axes.plot(curve.x, curve.hard, drawstyle="steps-mid", **HARD_STEPS)
        axes.set(xlim=(curve.x[0], curve.x[-1]), xlabel="latent weight", ylabel="quantized weight")
        axes.set_title(f"layer {curve.layer}", loc="left")
        if weights is not None:
            _lines(axes.axhline, weights.levels, LEVEL)
            _lines(axes.axvline, weights.thresholds, THRESHOLD)
            axes.grid(visible=False)
            named |= _marks([weights])
        _title(figure, title)
        legend(figure, named)
        return save(figure, "quantization_function", folder)


def weight_distributions(weights: list[Weights], title: str, folder: Path) -> list[Path]:
    """Draw how latent weights are distributed before and after training: a panel for each layer.

    Levels are solid lines, thresholds dotted ones, unless there are very many. Levels far outside a
    layer's weights are left out. After Quantization Networks (arXiv:1911.09464), Fig. 3.

    Args:
        weights: the layers.
        title: what was trained.
        folder: where to.

    Returns:
        ``weight_distributions.png`` and ``.svg``; nothing where there are no layers.

    Raises:
        OSError: the folder cannot be written.
    """
    if not weights:
        return []
    weights = list(map(_without_far_levels, weights))
    with mpl.rc_context(STYLE):
        figure, grid = _grid(len(weights), "latent weight", "% of weights", share=False)
        letters = int(figure.get_figwidth() / min(ACROSS, len(weights)) / TITLE_LETTER) - 2
        for axes, layer in zip(grid, weights, strict=True):
            _weights_panel(axes, layer)
            if len(weights) > 2:  # narrow panels: three ticks, as far apart as can be
                axes.xaxis.set_major_locator(MaxNLocator(2, steps=range(1, 11), min_n_ticks=3))
            name = layer.layer
            axes.set_title(name if len(name) <= letters else f"…{name[1 - letters :]}")
        _title(figure, title)
        named = {"before training": BEFORE, "after training": AFTER}
        legend(figure, named | _marks(weights))
        return save(figure, "weight_distributions", folder)


def _weights_panel(axes: Axes, weights: Weights) -> None:
    edges, before, after = _histograms(weights)
    axes.stairs(before, edges, fill=True, color=BEFORE["color"])
    _lines(axes.axvline, weights.thresholds, THRESHOLD)
    _lines(axes.axvline, weights.levels, LEVEL)
    axes.stairs(after, edges, zorder=3, **AFTER)
    low, high = min([edges[0], *weights.levels]), max([edges[-1], *weights.levels])
    margin = 0.03 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(bottom=0)
    axes.grid(visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 4, 5, 10]))


def _histograms(weights: Weights) -> tuple[Any, Any, Any]:
    """Edges of bins, and percent in each before and after: fewer bins where weights are few."""
    count, bins = sum(weights.before), len(weights.before)
    wanted = min(MOST_BINS, 3 * max(1, count) ** (1 / 3))
    each = next(
        n for n in range(1, bins + 1) if bins % n == 0 and (bins / n <= wanted or n == bins)
    )
    before, after = (
        np.reshape(counts, (-1, each)).sum(axis=1) * 100 / max(1, sum(counts))
        for counts in (weights.before, weights.after)
    )
    return weights.edges[::each], before, after


def _without_far_levels(weights: Weights) -> Weights:
    """The layer, without levels off the axis if an axis for them would squash the weights."""
    low, high = weights.edges[0], weights.edges[-1]
    levels = weights.levels
    if max([high, *levels]) - min([low, *levels]) > FAR * (high - low):
        levels = [level for level in levels if low <= level <= high]
    return weights.model_copy(update={"levels": levels})


def _lines(draw: Callable[..., Any], places: list[float], look: dict[str, Any]) -> None:
    """Draw lines from edge to edge of a panel, below its curves."""
    if len(places) <= MOST_LINES:
        for place in places:
            draw(place, zorder=1.5, **look)


def _marks(weights: list[Weights]) -> Looks:
    """What the legend says of levels and thresholds, where any are drawn."""
    named: Looks = {}
    if any(0 < len(layer.levels) <= MOST_LINES for layer in weights):
        named["levels"] = LEVEL
    if any(0 < len(layer.thresholds) <= MOST_LINES for layer in weights):
        named["thresholds"] = THRESHOLD
    return named


def _grid(count: int, x: str, y: str, share: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, at most `ACROSS` side by side, with labels on outer axes."""
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
    for axes in grid[count - across : count]:  # below these there is none
        axes.tick_params(labelbottom=True)
    return figure, list(grid[:count])


def _title(figure: Figure, title: str) -> None:
    """Name a figure, on as many lines as its width asks for."""
    lines = textwrap.wrap(title, int(figure.get_figwidth() / TITLE_LETTER))
    figure.set_figheight(figure.get_figheight() + TITLE_LINE * len(lines))
    figure.suptitle("\n".join(lines), fontsize=10)


def _looks(trials: pd.DataFrame) -> Looks:
    """Colour and marker of each method by its label, in the suite's order."""
    labels = trials.loc[trials["method"] != "fp32", "label"].unique()
    return {
        label: {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]} | OUTLINE
        for i, label in enumerate(labels)
    }


def _drawn(looks: Looks, rows: pd.DataFrame) -> Looks:
    """The looks of methods that have rows."""
    labels = set(rows["label"])
    return {label: look for label, look in looks.items() if label in labels}


def legend(figure: Figure, named: Looks) -> None:
    """Name what is drawn, below the panels."""
    keys = [Line2D([], [], label=label, **look) for label, look in named.items()]
    for columns in (4, 3, 2, 1):
        parts = np.array_split([LEGEND_KEY + LEGEND_LETTER * len(name) for name in named], columns)
        if sum(max(part, default=0) for part in parts) <= figure.get_figwidth():
            break
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * len(parts[0]))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, stem: str, folder: Path) -> list[Path]:
    """Write a figure as PNG and SVG, each replaced as a whole, without dates or versions."""
    paths = []
    for suffix, metadata in {"png": {"Software": None}, "svg": {"Date": None}}.items():
        path, scratch = folder / f"{stem}.{suffix}", folder / f".{stem}.{suffix}.tmp"
        figure.savefig(scratch, format=suffix, dpi=150, metadata=metadata)
        os.replace(scratch, path)
        paths.append(path)
    return paths

"""Figures of one network's weights, and of the function that quantizes them.

Levels are solid lines and thresholds are dotted ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qbench.report.figures.style import (
    ACROSS,
    COLORS,
    STYLE,
    TITLE_LETTER,
    Looks,
    legend,
    name_figure,
    panels,
    save,
)

if TYPE_CHECKING:
    from qbench.spec.result import QuantizerCurve, WeightDistribution

HARD_STEPS: dict[str, Any] = {"color": "0.1", "linewidth": 1.6}
BEFORE: dict[str, Any] = {"color": "0.8", "linewidth": 7, "solid_capstyle": "butt"}  # a patch
AFTER: dict[str, Any] = {"color": COLORS[0], "linewidth": 1.3}
LEVEL_LINE: dict[str, Any] = {"color": COLORS[3], "linewidth": 1.0}
THRESHOLD_LINE: dict[str, Any] = {"color": "0.3", "linestyle": ":", "linewidth": 1.2}
MOST_BINS = 50
MOST_LINES = 16  # across a panel; more would hide the rest
FAR = 4  # a panel is at most this many times as wide as its weights


def quantization_function(
    curve: QuantizerCurve, weights: WeightDistribution | None, title: str, folder: Path
) -> list[Path]:
    """Draw the quantization function of a layer: soft ones, darker by epoch, the hard one on top.

    Levels are horizontal lines and thresholds are vertical lines. More than `MOST_LINES` of either
    are not drawn. After Quantization Networks (arXiv:1911.09464), Fig. 2.

    Args:
        curve: The function.
        weights: Levels and thresholds of the layer. If None, no lines are drawn.
        title: Title of the figure, the name of the trial.
        folder: An existing folder for the files.

    Returns:
        Paths of ``quantization_function.png`` and ``quantization_function.svg``.

    Raises:
        OSError: The folder cannot be written.
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
            _lines(axes.axhline, weights.levels, LEVEL_LINE)
            _lines(axes.axvline, weights.thresholds, THRESHOLD_LINE)
            axes.grid(visible=False)
            named |= _marks([weights])
        name_figure(figure, title)
        legend(figure, named)
        return save(figure, "quantization_function", folder)


def weight_distributions(
    weights: list[WeightDistribution], title: str, folder: Path, trained: bool = True
) -> list[Path]:
    """Draw histograms of latent weights before and after training: a panel for each layer.

    Levels are solid lines and thresholds are dotted lines. More than `MOST_LINES` of either are not
    drawn, nor are levels far outside the weights of a layer. After Quantization Networks
    (arXiv:1911.09464), Fig. 3.

    Args:
        weights: The distributions, one for each layer.
        title: Title of the figure, such as the name of the trial.
        folder: An existing folder for the files.
        trained: Whether the network has been trained. If not, only the weights before training are
            drawn.

    Returns:
        Paths of ``weight_distributions.png`` and ``weight_distributions.svg``. Empty if there are
        no layers.

    Raises:
        OSError: The folder cannot be written.
    """
    if not weights:
        return []
    weights = list(map(_without_far_levels, weights))
    with mpl.rc_context(STYLE):
        figure, grid = panels(len(weights), "latent weight", "% of weights", share=False)
        letters = int(figure.get_figwidth() / min(ACROSS, len(weights)) / TITLE_LETTER) - 2
        for axes, layer in zip(grid, weights, strict=True):
            _weights_panel(axes, layer, trained)
            if len(weights) > 2:  # narrow panels have three ticks, as far apart as possible
                axes.xaxis.set_major_locator(MaxNLocator(2, steps=range(1, 11), min_n_ticks=3))
            name = layer.layer
            axes.set_title(name if len(name) <= letters else f"…{name[1 - letters :]}")
        name_figure(figure, title)
        named = {"before training": BEFORE}
        if trained:
            named["after training"] = AFTER
        legend(figure, named | _marks(weights))
        return save(figure, "weight_distributions", folder)


def _weights_panel(axes: Axes, weights: WeightDistribution, trained: bool) -> None:
    edges, before, after = _histograms(weights)
    axes.stairs(before, edges, fill=True, color=BEFORE["color"])
    _lines(axes.axvline, weights.thresholds, THRESHOLD_LINE)
    _lines(axes.axvline, weights.levels, LEVEL_LINE)
    if trained:
        axes.stairs(after, edges, zorder=3, **AFTER)
    low, high = min([edges[0], *weights.levels]), max([edges[-1], *weights.levels])
    margin = 0.03 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(bottom=0)
    axes.grid(visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 4, 5, 10]))


def _histograms(weights: WeightDistribution) -> tuple[Any, Any, Any]:
    """Return the edges of bins, and the percentages in each bin before and after training.

    Few weights have fewer bins.
    """
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


def _without_far_levels(weights: WeightDistribution) -> WeightDistribution:
    """Return the layer without outer levels if an axis for them would compress the weights."""
    low, high = weights.edges[0], weights.edges[-1]
    levels = weights.levels
    if max([high, *levels]) - min([low, *levels]) > FAR * (high - low):
        levels = [level for level in levels if low <= level <= high]
    return weights.model_copy(update={"levels": levels})


def _lines(draw: Callable[..., Any], places: list[float], look: dict[str, Any]) -> None:
    """Draw lines from edge to edge of a panel, below its curves, unless there are too many."""
    if len(places) <= MOST_LINES:
        for place in places:
            draw(place, zorder=1.5, **look)


def _marks(weights: list[WeightDistribution]) -> Looks:
    """Return the legend entries of levels and thresholds, if any are drawn."""
    named: Looks = {}
    if any(0 < len(layer.levels) <= MOST_LINES for layer in weights):
        named["levels"] = LEVEL_LINE
    if any(0 < len(layer.thresholds) <= MOST_LINES for layer in weights):
        named["thresholds"] = THRESHOLD_LINE
    return named

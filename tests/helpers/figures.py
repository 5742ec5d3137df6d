"""Frames and layers that figures are drawn of, and what a reader sees in a figure."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from qbench.report.figures import style as figure_style
from qbench.spec.result import QuantizerCurve, WeightDistribution

Suite = tuple[pd.DataFrame, pd.DataFrame]


LABELS = ("STE", "TWN", "DoReFa-Net", "LQ-Nets")


WIDTHS = ("1/32", "2/32", "1/1", "2/2")


def suite(models: tuple[str, ...] = ("net",), seeds: int = 3, epochs: int = 5) -> Suite:
    """Finished trials with plausible numbers, and their histories."""
    random = np.random.default_rng(0)
    rows, history = [], []
    cells = [("Full precision", "32/32")] + [(label, bits) for label in LABELS for bits in WIDTHS]
    for model in models:
        for label, bits in cells:
            for seed in range(seeds):
                key = f"{model}/{label}/{bits}/{seed}"
                top1 = 98 - random.random() - WIDTHS.index(bits) if bits in WIDTHS else 99.0
                method = label.lower() if bits in WIDTHS else "fp32"
                rows.append(
                    {
                        "key": key,
                        "method": method,
                        "label": label,
                        "model": model,
                        "dataset": "digits",
                        "bits": bits,
                        "seed": seed,
                        "status": "done",
                        "top1": top1,
                        "audit": "",
                        "recipe": "aligned",
                        "epochs": epochs,
                        "reason": "",
                    }
                )
                history += [
                    {"key": key, "epoch": epoch, "top1": top1 - 20 / epoch}
                    for epoch in range(1, epochs + 1)
                ]
    return pd.DataFrame(rows), pd.DataFrame(history)


def size(path: Path) -> tuple[int, ...]:
    """Height and width of a picture."""
    return tuple(matplotlib.image.imread(path).shape[:2])


def changed(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Suite:
    trials, histories = suite()
    return change(trials), histories


def with_soft(histories: pd.DataFrame, label: str = "STE", gap: float = 2.0) -> pd.DataFrame:
    """Histories in which one method has soft quantizers, better by a gap that closes."""
    soft = histories["top1"] + gap / histories["epoch"]
    return histories.assign(soft_top1=soft.where(histories["key"].str.contains(f"/{label}/")))


def weights(
    layer: str = "conv", levels: tuple[float, ...] = (-0.5, 0.0, 0.5), bins: int = 100
) -> WeightDistribution:
    """A layer of 10,000 weights in a bell, which training makes narrower."""
    edges = np.linspace(-1, 1, bins + 1)
    normal = np.random.default_rng(0).normal(size=10_000)
    return WeightDistribution(
        layer=layer,
        edges=edges.tolist(),
        before=np.histogram(normal * 0.25, edges)[0].tolist(),
        after=np.histogram(normal * 0.15, edges)[0].tolist(),
        levels=list(levels),
        thresholds=((np.array(levels[1:]) + levels[:-1]) / 2).tolist(),
    )


def curve(epochs: tuple[int, ...] = (1, 3, 10, 20)) -> QuantizerCurve:
    """A ternary staircase that gets harder."""
    x = np.linspace(-1, 1, 401)
    soft = {t: (np.tanh(4 * t * (x - 0.25)) + np.tanh(4 * t * (x + 0.25))) / 4 for t in epochs}
    hard = ((x > 0.25) * 1.0 - (x < -0.25)) / 2
    values = {epoch: y.tolist() for epoch, y in soft.items()}
    return QuantizerCurve(layer="conv", x=x.tolist(), soft=values, hard=hard.tolist())


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(axes: Axes, **look: object) -> list[Line2D]:
    """The lines of a panel that look like this."""
    return [
        line
        for line in axes.get_lines()
        if all(getattr(line, f"get_{name}")() == value for name, value in look.items())
    ]


def data(line: Line2D) -> tuple[Any, Any]:
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def across(axes: Axes, look: dict[str, Any]) -> list[float]:
    """Where lines from edge to edge cross a panel."""
    found = lines(axes, color=look["color"], linewidth=look["linewidth"])
    return [float(ends[0]) for line in found for ends in data(line) if ends[0] == ends[1]]


def histograms(axes: Axes) -> list[tuple[StepPatch, Any, Any]]:
    """Each histogram of a panel, with its values and edges."""
    found: list[Any] = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    return [(p, p.get_data().values, p.get_data().edges) for p in found]


def texts(figure: Figure) -> list[Text]:
    """What a reader reads."""
    found = [*figure.legends[0].get_texts(), *figure.texts]
    for axes in figure.axes:
        found += [text for text in axes.get_children() if isinstance(text, Text)]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            found += [axis.label, *(tick.label1 for tick in ticks)]
    return [text for text in found if text.get_visible() and text.get_text()]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Texts that stand on one another or stick out of the figure."""
    canvas = FigureCanvasAgg(figure)
    with plt.rc_context(figure_style.STYLE):  # ticks are made when they are drawn
        canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts(figure)]
    found = [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)]
    (left, bottom), (right, top) = figure.bbox.get_points()
    for name, box in boxes:
        if box.x0 < left or box.x1 > right or box.y0 < bottom or box.y1 > top:
            found.append((name, "the edge"))
    return found

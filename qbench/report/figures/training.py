"""Figures of a suite: accuracy by epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qbench.report.figures.style import (
    OTHERS,
    STYLE,
    Looks,
    apart,
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
TRAINING: dict[str, Any] = {"linestyle": (0, (3, 1.5)), "linewidth": 1.0, "marker": ""}
PLACE = ["model", "dataset", "bits"]


def training_curves(
    trials: pd.DataFrame, histories: pd.DataFrame, folder: Path, metric: str = "top1"
) -> list[Path]:
    """Draw a metric by epoch: a line for each method, a panel for each bit-width.

    A line is the mean over seeds on test images. Its band spans the lowest to the highest seed. A
    dashed line is the mean on training images, if it was recorded. The axis is logarithmic in the
    error, so that 98 and 99 percent are as far apart as 60 and 80. Of more than eight methods, the
    eight that rank best after the last epoch have lines of their own; the others are grey.

    Args:
        trials: One row for each trial, in the order of the suite. Columns: ``key``, ``method``,
            ``label``, ``model``, ``dataset``, ``bits`` and ``status``, as described by
            `qbench.report.write.write`.
        histories: One row for each trial and epoch. Columns: ``key``, ``epoch`` (int, from 1) and
            `metric` (float, %), and optionally ``train_`` and its name, the metric on training
            images (float, %).
        folder: An existing folder for the files.
        metric: Name of the column to draw.

    Returns:
        Paths of ``training_curves.png`` and ``training_curves.svg``. Empty if no quantized trial
        that is done has a history.

    Raises:
        KeyError: A column is missing.
        OSError: The folder cannot be written.
    """
    curves = _by_epoch(trials, _valued(histories, metric), "value")
    if curves.empty:
        return []
    last = curves[curves["epoch"] == curves.groupby("key")["epoch"].transform("max")]
    means = last.groupby([*PLACE, "label"], sort=False)["value"].mean()
    looks, named = apart(drawn(looks_of(trials), curves), means)
    every = curves["value"]
    if "train_value" in curves:
        shown = curves[curves["label"].isin(list(named))]
        means = shown.groupby([*PLACE, "label", "epoch"])["train_value"].mean()
        every = pd.concat([every, means.dropna()])
        named |= {"on training images": {"color": "0.25"} | TRAINING}
    with mpl.rc_context(STYLE):
        figure = _curves_figure(curves, looks, _curves_panel, every, metric)
        legend(figure, named)
        return save(figure, "training_curves", folder)


def soft_and_hard(
    trials: pd.DataFrame, histories: pd.DataFrame, folder: Path, metric: str = "top1"
) -> list[Path]:
    """Draw a test metric by epoch with soft quantizers (dashed) and with hard ones (solid).

    A line is the mean over seeds. Both lines are over the same seeds. Panels and axis are those of
    `training_curves`. After Quantization Networks (arXiv:1911.09464), Fig. 4.

    Args:
        trials: One row for each trial, in the order of the suite. Columns: ``key``, ``method``,
            ``label``, ``model``, ``dataset``, ``bits`` and ``status``, as described by
            `qbench.report.write.write`.
        histories: One row for each trial and epoch. Columns: ``key``, ``epoch`` (int, from 1) and
            `metric` (float, %), and optionally ``soft_`` and its name, the metric with soft
            quantizers (float, %).
        folder: An existing folder for the files.
        metric: Name of the column to draw.

    Returns:
        Paths of ``soft_and_hard.png`` and ``soft_and_hard.svg``. Empty if no quantized trial that
        is done has soft quantizers.

    Raises:
        KeyError: A column is missing, other than that of soft quantizers.
        OSError: The folder cannot be written.
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
    """Rename the metric to ``value``, with a prefix if it is one of another kind."""
    kinds = ("", "soft_", "train_")
    return frame.rename(columns={f"{kind}{metric}": f"{kind}value" for kind in kinds})


def _by_epoch(trials: pd.DataFrame, histories: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the epochs of done quantized trials that have `columns`, in the suite's order."""
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
    """Draw a panel for each model and bit-width, on one axis that contains `values`."""
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
        if look is OTHERS:
            axes.plot(seeds["mean"], **look)
            continue
        if "train_value" in group:
            axes.plot(group.groupby("epoch")["train_value"].mean(), **look | TRAINING)
        start = (
            i * step // curves["label"].nunique()
        )  # shifts the markers, so that they do not hide each other
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

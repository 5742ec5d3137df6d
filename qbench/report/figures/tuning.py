"""Figure of a suite with ``recipe: tuned``: the expected best score by the number of trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from qbench.report.figures.style import (
    FULL_PRECISION_LINE,
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
from qbench.spec.bits import FULL_PRECISION
from qbench.spec.metrics import SHORT

FULL = str(FULL_PRECISION)
_CELL = ["model", "bits", "label"]


def expected_best(scores: Sequence[float], most: int) -> list[float]:
    """Return the expected best score of n configurations, for n from 1 on.

    The quantity is that of Dodge et al., Show Your Work (EMNLP 2019). It is the mean over all
    subsets of n scores, as in Tang et al. (ACL 2020): subsets with replacement, as in the first
    paper, give too low values.

    Args:
        scores: Scores of configurations that are drawn alike.
        most: Largest n. It is at most the number of scores.

    Returns:
        The expectations, in the unit of the scores.
    """
    ascending, count = sorted(scores), len(scores)
    return [
        sum(math.comb(i, n - 1) * score for i, score in enumerate(ascending)) / math.comb(count, n)
        for n in range(1, min(most, count) + 1)
    ]


def tuning_curves(
    trials: pd.DataFrame,
    configurations: pd.DataFrame,
    folder: Path,
    metric: str = "top1",
    chance: float = math.nan,
) -> list[Path]:
    """Draw the expected best score on validation images by the number of configurations tried.

    There is a panel for each bit-width, and a line for each method. A line goes to the number of
    configurations of a study, and averages over those of all studies. The dashed line is full
    precision, which is tuned alike. The axis is logarithmic in the error. Of more than eight
    methods, the eight that rank best at the end have lines of their own; the others are grey.

    Args:
        trials: Frame with the columns ``method`` and ``label``, in the order of the suite.
        configurations: One row for each trial of the first stage that has ended. Columns:
            ``label``, ``model``, ``bits``, ``study`` and ``score`` (float, %; NaN of one that
            failed).
        folder: An existing folder for the files.
        metric: Metric of the scores.
        chance: Score of a network that guesses (%), which a configuration that failed counts as.
            NaN: configurations that failed are left out.

    Returns:
        Paths of ``tuning_curves.png`` and ``tuning_curves.svg``. Empty if no quantized method has a
        study with two configurations.

    Raises:
        KeyError: A column is missing.
        OSError: The folder cannot be written.
    """
    curves = _curves(configurations, chance)
    if curves[(curves["bits"] != FULL) & (curves["n"] > 1)].empty:
        return []
    quantized = curves[curves["bits"] != FULL]
    last = quantized.groupby(_CELL, sort=False)["value"].last()
    looks, named = apart(drawn(looks_of(trials), quantized), last)
    groups = list(quantized.groupby(["model", "bits"], sort=False))
    several = quantized["model"].nunique() > 1
    with mpl.rc_context(STYLE):
        across = f"expected best {SHORT[metric]} (%)"
        figure, grid = panels(len(groups), "configurations tried", across, share=True)
        for axes, ((model, bits), group) in zip(grid, groups, strict=True):
            full = curves[(curves["model"] == model) & (curves["bits"] == FULL)]
            _panel(axes, group, full, looks)
            axes.set_title(f"{model}, {bits}" if several else str(bits))
        if (curves["bits"] == FULL).any():
            named["full precision"] = FULL_PRECISION_LINE
        error_axis(grid[0], curves["value"])
        grid[0].xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        legend(figure, named)
        return save(figure, "tuning_curves", folder)


def _curves(configurations: pd.DataFrame, chance: float) -> pd.DataFrame:
    """Return the expected best score of each cell, with the columns ``n`` and ``value``."""
    rows = []
    for names, cell in configurations.groupby(_CELL, sort=False):
        most = int(cell.groupby("study").size().max())
        best = expected_best(cell["score"].fillna(chance).dropna().tolist(), most)
        rows += [(*names, n, value) for n, value in enumerate(best, 1)]
    return pd.DataFrame(rows, columns=[*_CELL, "n", "value"])


def _panel(axes: Axes, curves: pd.DataFrame, full: pd.DataFrame, looks: Looks) -> None:
    """Draw one bit-width of a model."""
    if len(full):
        axes.plot(full["n"], full["value"], **FULL_PRECISION_LINE)
    step = max(1, int(curves["n"].max()) // 3)
    for i, (label, group) in enumerate(curves.groupby("label", sort=False)):
        look = looks[str(label)]
        if look is OTHERS:
            axes.plot(group["n"], group["value"], **look)
            continue
        start = i % step  # shifts the markers, so that they do not hide each other
        line = look | {"linewidth": 1.3, "markersize": 4.5, "markevery": (start, step)}
        axes.plot(group["n"], group["value"], **line)

"""Mean ranks of methods over settings, and which of them differ significantly.

After Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets (JMLR 7, 2006).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from qbench.report.figures.style import STYLE, looks_of, save
from qbench.report.significance import LEVEL
from qbench.spec.trial import FP32

SETTING = ["dataset", "model", "bits"]
FEWEST_SETTINGS, FEWEST_METHODS, FEWEST_SEEDS = 5, 3, 2
BAR: dict[str, Any] = {"color": "0.15", "linewidth": 3.5, "solid_capstyle": "butt"}
ROW = 0.24  # inches for a method


@dataclass(frozen=True)
class Ranks:
    """Ranks of methods over settings in which all of them have a result.

    Attributes:
        mean: Mean rank of each method (float, 1 is best), indexed by label, best first.
        settings: Number of settings.
        p: The p-value of Friedman's test, whose null hypothesis is that all methods are equal.
        critical: Nemenyi's critical difference at the 5 % level. Mean ranks that are closer do not
            differ significantly.
    """

    mean: pd.Series[float]
    settings: int
    p: float
    critical: float

    def alike(self) -> list[tuple[float, float]]:
        """Return each maximal range of mean ranks that do not differ significantly.

        Returns:
            The lowest and the highest mean rank of each range.
        """
        ranks = list(self.mean)
        runs = [
            (start, max(rank for rank in ranks if rank - start < self.critical)) for start in ranks
        ]
        ends = [0.0, *(end for _, end in runs)]
        return [
            run
            for run, (before, end) in zip(runs, pairwise(ends), strict=True)
            if end > before and end > run[0]
        ]


def rank(summary: pd.DataFrame) -> Ranks | None:
    """Rank the methods in each setting (dataset, model, bit-width). Ties share their ranks.

    Only methods with a complete k-bit result in every setting can be ranked. Settings that few
    methods support are left out, those with the fewest methods first, so that the table of methods
    × settings is as large as possible.

    Args:
        summary: One row for each result, from `qbench.report.summary.summarise`. Columns:
            ``dataset``, ``model``, ``bits``, ``method``, ``label``, ``status``, ``audit``, ``n``
            and ``mean`` (%).

    Returns:
        The ranks, or None if fewer than five settings or three methods are left. A method
        of one seed cannot be ranked.

    Raises:
        KeyError: A column is missing.
    """
    fair = summary[
        (summary["status"] == "done")
        & (summary["audit"] == "k-bit")
        & (summary["method"] != FP32)
        & (summary["n"] >= FEWEST_SEEDS)
    ]
    table = fair.pivot_table("mean", "label", SETTING, sort=False, observed=True)
    order = table.notna().sum().sort_values(kind="stable").index
    choices = [table[list(order[left:])].dropna() for left in range(len(order))]
    fitting = [
        choice
        for choice in choices
        if choice.shape[1] >= FEWEST_SETTINGS and len(choice) >= FEWEST_METHODS
    ]
    if not fitting:
        return None
    from scipy import stats  # takes as long to import as to draw a figure

    chosen = max(fitting, key=lambda choice: choice.size)
    methods, settings = chosen.shape
    ranks = chosen.round(2).rank(ascending=False)
    spread = np.sqrt(methods * (methods + 1) / (6 * settings))
    return Ranks(
        ranks.mean(axis=1).sort_values(kind="stable"),
        settings,
        float(stats.friedmanchisquare(*chosen.round(2).to_numpy()).pvalue),
        float(stats.studentized_range.ppf(1 - LEVEL, methods, np.inf) / np.sqrt(2) * spread),
    )


def ranks(summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw mean ranks over settings, and bars over methods that do not differ significantly.

    Args:
        summary: One row for each result, with the columns that `rank` needs.
        folder: An existing folder for the files.

    Returns:
        Paths of ``ranks.png`` and ``ranks.svg``. Empty if `rank` returns None.

    Raises:
        KeyError: A column is missing.
        OSError: The folder cannot be written.
    """
    found = rank(summary)
    if found is None:
        return []
    looks = looks_of(summary)
    bars = found.alike()
    count = len(found.mean)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.5, 1.2 + ROW * (count + 0.6 * len(bars))), layout="constrained")
        axes = figure.subplots()
        for place, (label, mean) in enumerate(found.mean.items()):
            look = looks[str(label)]
            axes.plot([1, mean], [place, place], color="0.8", linewidth=1, zorder=1)
            axes.plot(mean, place, **look)
        for i, (start, end) in enumerate(bars):
            axes.plot([start, end], [-0.9 - 0.6 * i] * 2, **BAR)
        axes.set_yticks(range(count), list(map(str, found.mean.index)))
        axes.set_ylim(count - 0.4, -0.5 - 0.6 * (len(bars) + 0.3))
        axes.set_xlim(0.8, max(found.mean.max(), 1 + found.critical) + 0.3)
        axes.set_xlabel(
            "mean rank, 1 is best; bars: not told apart by Nemenyi's test\n"
            f"(critical difference {found.critical:.2f}, α = {LEVEL:g}); "
            f"Friedman's test: p = {found.p:.2g}"
        )
        axes.set_title(f"{count} methods in {found.settings} settings", loc="left")
        axes.grid(visible=False, axis="y")
        return save(figure, "ranks", folder)

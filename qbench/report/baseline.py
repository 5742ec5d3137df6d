"""Doubts about full-precision networks that say nothing about the quantizers they start."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from qbench.report.collapsed import standard_errors
from qbench.report.presentation import Presentation
from qbench.report.summary import grouped, records
from qbench.spec.trial import FP32

LEAST_GAP = 2.0  # points; a network that is trained longer may gain this much


def baseline_doubts(
    presentation: Presentation, summary: pd.DataFrame
) -> Mapping[tuple[str, str], str]:
    """Find full-precision networks at chance, or far below a network quantized from them.

    A quantizer that starts from such a network is not tested: everything is as good as the start,
    or the recipe of the full-precision network is at fault.

    Args:
        presentation: Names the accuracy of guessing and the number of test items.
        summary: One row for each result, from `qbench.report.summary.summarise`. Columns:
            ``dataset``, ``model``, ``label``, ``bits``, ``method``, ``n`` and ``mean`` (%).

    Returns:
        A sentence for each such network, by dataset and model.
    """
    found: dict[tuple[str, str], str] = {}
    if presentation.rehearsal:
        return found
    measured = [row for row in records(summary) if row["n"]]
    for network in grouped(measured, "dataset", "model"):
        full = next((row for row in network if row["method"] == FP32), None)
        if full is None:
            continue
        others = [row for row in network if row["method"] != FP32]
        best = max([full, *others], key=lambda row: float(row["mean"]))
        mean, chance, items = full["mean"], presentation.chance, presentation.test_items
        what = f"full precision of {full['model']} on {full['dataset']} ({mean:.2f} %)"
        doubt = ""
        if mean <= chance + standard_errors(chance, items):
            few = f", as far as {items} test items can show" if mean > chance else ""
            doubt = f"{what} is no better than guessing ({chance:.2f} %){few}"
        elif best["mean"] - mean > max(LEAST_GAP, standard_errors(mean, items)):
            row = f"{best['label']} at {best['bits']} ({best['mean']:.2f} %)"
            doubt = f"{what} is far below {row}"
        if doubt:
            found[full["dataset"], full["model"]] = f"Doubtful: {doubt}."
    return found


def unchanged(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the full-precision trials of models as they are, which no method has changed.

    Args:
        trials: One row for each trial. Columns: ``method``, and ``prepared``, ``model`` and
            ``network`` if a method has changed the network of some.
    """
    full = trials[trials["method"] == FP32]
    if "prepared" in full:
        full = full[full["prepared"] == ""]
    return full[full["network"] == full["model"]] if "network" in full else full

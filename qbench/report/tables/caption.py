"""Captions of tables, and titles of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from qbench.report.baseline import unchanged
from qbench.report.summary import Row
from qbench.report.tables.text import mean_and_deviation, one_line
from qbench.spec.metrics import TITLES
from qbench.spec.trial import FP32
from qbench.spec.words import counted

RECIPES = {
    "aligned": "recipe aligned: every method trained by the same recipe",
    "paper": "recipe paper: each method's published recipe",
    "tuned": "recipe tuned: every method tuned with the same effort on validation images",
}
BOLD = (
    "Bold: the best of its bit-widths, where a moderated paired t-test over seeds tells it apart "
    "from every other row (p < 0.05)."
)
WORSE = (
    "†: not a candidate for the best of its bit-widths (moderated paired t-test over seeds with "
    "Holm's correction, p < 0.05)."
)
APART = "‡: its protocol differs from that of most rows."
TAUGHT = "§: trained with the full-precision network as a teacher (distillation)."
ELSEWHERE = "Published numbers in parentheses are for another setting than that of this table."
REHEARSAL_NOTE = (
    "A rehearsal of a few steps on a stand-in for the data, to see that everything runs: "
    "no number measured here is a result. "
)


def unit(recipes: Iterable[str]) -> tuple[str, str]:
    """Return what the n of results counts, as one and as many.

    Args:
        recipes: Names of the recipes of their trials.
    """
    return ("study", "studies") if "tuned" in set(recipes) else ("seed", "seeds")


def caption(
    what: str, trials: pd.DataFrame, shown: Sequence[str], full: str, sentences: Sequence[str]
) -> str:
    """Return a caption: what is measured, over how many seeds, with which recipe.

    Args:
        what: Subject of the table, such as ``resnet18 on imagenet``.
        trials: Trials of the table, one row for each, including those in full precision. Required
            columns: ``method``, ``label``, ``seed``, ``recipe``, ``epochs`` (int), ``status``, and
            one (float, %) for each metric in `shown`.
        shown: Metrics that a cell shows.
        full: Full-precision accuracy to state, as `full_precision` returns it.
        sentences: Further sentences: on the data, doubts, and marks in the table.

    Returns:
        The caption, on one line, without markup.
    """
    base = trials[trials["method"] == FP32]
    quantized = trials[trials["method"] != FP32] if len(base) < len(trials) else base
    able = quantized[quantized["status"] != "unsupported"]
    trained = able[able["epochs"] > 0]
    lengths = list(map(int, trained["epochs"].unique()))
    name = quantized["recipe"].iloc[0]
    recipe = RECIPES[name]
    if lengths and name != "paper":
        *others, last = lengths
        recipe += f", {''.join(f'{each:,} or ' for each in others)}{counted(last, 'epoch')}"
    if untrained := list(able.loc[able["epochs"] == 0, "label"].unique()):
        recipe += f"; calibrated only, without training: {', '.join(untrained)}"
    seeds = quantized["seed"].nunique()
    one, many = unit(quantized["recipe"])
    over = (
        f"mean ± standard deviation over n = {seeds} {many}" if seeds > 1 else f"one {one} (n = 1)"
    )
    metrics = "/".join(TITLES[name] for name in shown)
    text = (
        f"{what}: {metrics} in % on the test split, of the hard-quantized "
        f"network after the last epoch, {over}; {recipe}."
    )
    if name == "tuned":
        text += " A study is the mean over the fresh seeds of its winner. Tests take it as a seed."
    if full:
        text += f" Full precision: {full}."
    if seeds == 1:
        text += f" With one {one} no difference is tested, and none is bold."
    return one_line(" ".join([text, *sentences]))


def paper_networks(trials: Sequence[Row]) -> str:
    """Return a sentence on the results whose network is that of a published number.

    Args:
        trials: Trials of the table. Required keys: ``label``, ``bits`` and ``paper_network``, as
            `qbench.report.columns.TRIAL_COLUMNS` describes it.

    Returns:
        The sentence, with the results of other networks and the reasons. Empty if no trial has a
        published number whose network is named.
    """
    others: dict[str, dict[str, dict[str, None]]] = {}  # widths by row by reason
    stated = [trial for trial in trials if trial.get("paper_network")]
    for trial in stated:
        answer, _, reason = trial["paper_network"].partition(": ")
        if answer == "no":
            others.setdefault(reason, {}).setdefault(trial["label"], {})[trial["bits"]] = None
    if not stated:
        return ""
    if all(trial["paper_network"] != "yes" for trial in stated):
        return "No network beside a published number is the one that it was measured on."
    if not others:
        return "The network beside each published number is the one that it was measured on."
    listed = []
    for reason, rows in others.items():
        cells = ", ".join(f"{label} {' '.join(widths)}" for label, widths in rows.items())
        listed.append(f"{cells} ({reason})")
    return (
        "The network beside a published number is the one that it was measured on, but for: "
        f"{'; '.join(listed)}."
    )


def full_precision(trials: pd.DataFrame, shown: Sequence[str]) -> str:
    """Return the full-precision accuracy, such as ``99.54 ± 0.16 (n = 3)``.

    Args:
        trials: Trials of the table, as in `caption`.
        shown: Metrics that a cell shows.

    Returns:
        The text. Empty if no trial is in full precision.
    """
    base = unchanged(trials)
    done = base[base["status"] == "done"]
    if base.empty:
        return ""
    if (base["status"] == "unsupported").all():
        return "cannot be run"
    if done.empty:
        return "not finished (n = 0)"
    means = "/".join(mean_and_deviation(list(done[name])) for name in shown)
    return f"{means} (n = {len(done)})"


def block_title(name: str, trials: pd.DataFrame, shown: Sequence[str]) -> str:
    """Return the title of a block: its name, and the full-precision accuracy if there is one.

    Args:
        name: Name of the block.
        trials: Trials of the block, one row for each. Required columns: ``method``, ``status``, and
            one (float, %) for each metric in `shown`.
        shown: Metrics that a cell shows.

    Returns:
        The title, on one line. The accuracy is left out if no trial is in full precision.
    """
    full = full_precision(trials, shown)
    return one_line(f"{name}, full precision {full}" if full else name)

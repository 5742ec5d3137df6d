"""What a table's numbers are, in words."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from qbench.report.tables.text import mean_and_deviation, one_line
from qbench.spec.metrics import TITLES
from qbench.spec.trial import FP32

RECIPES = {
    "aligned": "recipe aligned: every method trained by the same recipe, {epochs} epochs",
    "paper": "recipe paper: each method's published recipe",
}
BOLD = (
    "Bold: the best of its width, where a paired t-test over seeds tells every other row from it "
    "(p < 0.05)."
)
WORSE = "†: worse than the best, by that test and Holm's correction for the width."
APART = "‡: its protocol is not that of most rows."
REHEARSAL_NOTE = (
    "A rehearsal of a few steps on a stand-in for the data, to see that everything runs: "
    "no number measured here is a result. "
)


def caption(
    what: str, trials: pd.DataFrame, shown: Sequence[str], full: bool, marks: Sequence[str]
) -> str:
    """Return a caption: what is measured, over how many seeds, by which recipe.

    Args:
        what: what the table is about, as ``resnet18 on imagenet``.
        trials: of the table, full-precision ones included.
        shown: the metrics of a cell.
        full: whether to say the full-precision accuracy.
        marks: sentences on the marks that the table has.
    """
    base = trials[trials["method"] == FP32]
    quantized = trials[trials["method"] != FP32] if len(base) < len(trials) else base
    able = quantized[quantized["status"] != "unsupported"]
    trained = able[able["epochs"] > 0]
    epochs = " or ".join(map(str, trained["epochs"].unique()))
    recipe = RECIPES[quantized["recipe"].iloc[0]].format(epochs=epochs)
    if untrained := list(able.loc[able["epochs"] == 0, "label"].unique()):
        recipe += f"; calibrated only, without training: {', '.join(untrained)}"
    seeds = quantized["seed"].nunique()
    over = f"mean ± standard deviation over n = {seeds} seeds" if seeds > 1 else "one seed (n = 1)"
    metrics = "/".join(TITLES[name] for name in shown)
    text = (
        f"{what}: {metrics} in % on the test split, of the hard-quantized "
        f"network after the last epoch, {over}; {recipe}."
    )
    if full and len(base):
        text += f" Full precision: {_full_precision(base, shown)}."
    if seeds == 1:
        text += " With one seed no difference is tested, and none is bold."
    return one_line(" ".join([text, *marks]))


def _full_precision(base: pd.DataFrame, shown: Sequence[str]) -> str:
    done = base[base["status"] == "done"]
    if done.empty:
        return "not finished (n = 0)"
    means = "/".join(mean_and_deviation(list(done[name])) for name in shown)
    return f"{means} (n = {len(done)})"


def block_title(name: str, trials: pd.DataFrame, shown: Sequence[str]) -> str:
    """A block's name, with the full-precision accuracy where it is a model's."""
    base = trials[trials["method"] == FP32]
    return one_line(f"{name}, full precision {_full_precision(base, shown)}" if len(base) else name)

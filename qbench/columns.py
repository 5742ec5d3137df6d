"""What columns are called and mean: the one list behind tables, files and pages.

``python -m qbench.columns`` prints it as ``docs/columns.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Column:
    """One column of `qbench.summary.summarise`.

    Attributes:
        name: in frames and CSV files.
        title: in headings.
        about: what it is, in a sentence.
        group: ``result``, ``accuracy``, ``significance``, ``published``, ``policy`` or ``cost``.
        unit: ``%``, ``points`` (of percent), ``MB``, ``GBOPs``, ``×``, or '' of numbers and text.
        digits: behind the point; None of text and of whole numbers.
        better: which values are better, if any are.
    """

    name: str
    title: str
    about: str
    group: str
    unit: str = ""
    digits: int | None = None
    better: Better = ""

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return self.title if self.unit in ("", "×") else f"{self.title} ({self.unit})"

    def text(self, value: Any) -> str:
        """A value as people read it, without its unit but for ×; '' of one that is not there."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if self.digits is not None:
            sign = "+" if self.name == "delta" else ""
            small = self.unit in ("MB", "GBOPs") and abs(value) < 1
            shown = f"{value:.3g}" if small else f"{value:{sign}.{self.digits}f}"
            return f"{shown}×" if self.unit == "×" else shown
        if self.name == "published":
            return as_printed(value)
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)


def as_printed(value: float) -> str:
    """A published value as tables print it: with a digit behind the point, or more."""
    return max(f"{value:.1f}", f"{value:g}", key=len)


def _group(group: str, *rows: tuple[Any, ...]) -> list[Column]:
    return [Column(name, title, about, group, *rest) for name, title, about, *rest in rows]


COLUMNS: tuple[Column, ...] = (
    *_group(
        "result",
        ("dataset", "Dataset", "What the network is trained and measured on."),
        ("model", "Model", "The network."),
        ("label", "Method", "The row's name in the table."),
        ("method", "Method name", "The method, as suites name it."),
        ("options", "Options", "The method's options, as JSON."),
        ("bits", "Bits", "Widths asked for: weights/activations; 32 is full precision."),
        ("w_bits", "Weight bits", "Bits of a quantized layer's weight.", "", None, "lower"),
        ("a_bits", "Activation bits", "Bits of a quantized layer's input.", "", None, "lower"),
    ),
    *_group(
        "accuracy",
        (
            "status",
            "Status",
            "done: every seed is; partly: some; failed: none, and some failed; missing: not run; "
            "unsupported: the method cannot; rehearsal: a try of a few steps, no result.",
        ),
        ("reason", "Reason", "Why it failed or cannot be run."),
        ("n", "n", "Seeds that are done: what means are taken over."),
        ("seeds", "Seeds", "Seeds that the suite asks for."),
        ("metric", "Metric", "What mean, std and every difference are of."),
        ("mean", "Mean", "Mean over seeds, after the last epoch, hardened.", "%", 2, "higher"),
        ("std", "Std", "Sample standard deviation over seeds (n − 1).", "points", 2, "lower"),
        (
            "ci95",
            "± 95 %",
            "Half the width of the two-sided 95 % interval of the mean, Student's t.",
            "points",
            2,
            "lower",
        ),
        ("top5", "Top-5", "Mean top-5 accuracy.", "%", 2, "higher"),
        ("map50", "mAP 0.5", "Mean mAP at IoU 0.5, every point.", "%", 2, "higher"),
        ("map", "mAP", "Mean COCO mAP, IoU 0.5 to 0.95.", "%", 2, "higher"),
        (
            "full_precision",
            "Full precision",
            "Mean of the same network in full precision.",
            "%",
            2,
            "higher",
        ),
        (
            "drop",
            "Drop",
            "Full precision less this, over pairs of one seed.",
            "points",
            2,
            "lower",
        ),
        ("drop_std", "Drop std", "Sample deviation of these differences.", "points", 2, "lower"),
    ),
    *_group(
        "significance",
        (
            "standing",
            "Standing",
            "best of its column (dataset, model, bits); tied: a paired t-test over seeds does not "
            "tell it from the best; behind: it does; worse: it does after Holm's correction too; "
            "untested: too few seeds, or not all done; '' where nothing stands beside it.",
        ),
        ("p", "p", "Of the two-sided paired t-test against the best of the column.", "", 4),
        ("p_holm", "p (Holm)", "The same, corrected for all rows of the column.", "", 4),
        (
            "bold",
            "Bold",
            "Whether tables print it bold: the best, where the test tells all others from it.",
        ),
    ),
    *_group(
        "published",
        (
            "published",
            "Published",
            "What a paper prints; never part of a mean.",
            "%",
            None,
            "higher",
        ),
        ("source", "Source", "Where it is from."),
        (
            "delta",
            "Δ",
            "Measured less published, of claims that are judged.",
            "points",
            2,
            "higher",
        ),
        (
            "verdict",
            "Verdict",
            "reproduced: the published number, rounded as it is, lies in the 95 % interval over "
            "seeds; short by, above by: it does not; one seed: no interval; not judged: see note.",
        ),
        (
            "verdict_note",
            "Verdict note",
            "Why a claim is not judged, or in what the measurement departs from it.",
        ),
    ),
    *_group(
        "policy",
        ("first_layer", "First layer", "Widths of the first layer."),
        ("last_layer", "Last layer", "Widths of the last layer."),
        (
            "w_levels",
            "Weight levels",
            "Distinct values of a quantized weight that the audit counted: the most that any layer "
            "(or filter, where levels are a filter's own) has.",
        ),
        ("a_levels", "Activation levels", "Likewise of a quantized layer's input."),
        ("start", "Start", "pretrained, scratch, or given weights that are not trained here."),
        ("recipe", "Recipe", "aligned: one for all methods; paper: each method's own."),
        ("epochs", "Epochs", "Of training with quantizers; 0: calibrated only."),
        ("augmentation", "Augmentation", "What is drawn anew for each training image."),
        ("checkpoint", "Measured", "Which epoch's network is measured."),
        (
            "differs",
            "Differs in",
            "What of the protocol is not as in most rows of the table; '' where all is.",
        ),
    ),
    *_group(
        "cost",
        (
            "weight_mb",
            "Weights",
            "Weights packed: k-bit codes, their scales, all else at 32 bits; 1 MB is 10^6 bytes.",
            "MB",
            2,
            "lower",
        ),
        (
            "compression",
            "Smaller",
            "Weights in full precision over packed ones.",
            "×",
            1,
            "higher",
        ),
        (
            "gbops",
            "Bit-operations",
            "Σ over layers of multiply-adds × weight bits × input bits, of one image, in 10^9.",
            "GBOPs",
            2,
            "lower",
        ),
        ("bops_ratio", "Fewer", "Those of full precision over these.", "×", 1, "higher"),
        (
            "train_ratio",
            "Training",
            "Seconds of an epoch over those of full precision with the same seed.",
            "×",
            2,
            "lower",
        ),
        ("audit", "Audit", "k-bit: the stored network has the levels promised; else what has not."),
    ),
)
BY_NAME = {column.name: column for column in COLUMNS}
# Of `trials.csv`, in its order.
TRIAL_COLUMNS = {
    "key": "The trial's key: a hash of everything that determines its numbers.",
    "method": "The method, as suites name it; fp32 is the full-precision network.",
    "label": "The row of the table.",
    "options": "All options of the method, as JSON.",
    "model": "The network.",
    "dataset": "The data set.",
    "bits": "Widths asked for: weights/activations; 32 is full precision.",
    "w_bits": "Bits of a quantized layer's weight.",
    "a_bits": "Bits of a quantized layer's input.",
    "seed": "Of everything random.",
    "recipe": "aligned: one recipe for all methods; paper: each method's own.",
    "epochs": "Passes over the training data; 0: quantized and evaluated only.",
    "status": "done, failed, missing (not run yet) or unsupported.",
    "reason": "Why it failed or is not supported.",
    "top1": "Top-1 accuracy on the test split, %, after the last epoch, hardened.",
    "top5": "Top-5 accuracy, %.",
    "test_loss": "Cross-entropy on the test split.",
    "map50_voc07": "Mean average precision at IoU 0.5 by VOC2007's 11 points, %.",
    "map50": "Mean average precision at IoU 0.5, every point, %.",
    "map": "Mean average precision, IoU 0.5 to 0.95 as COCO's, %.",
    "train_seconds": "Seconds of training, evaluation after each epoch included.",
    "seconds": "Seconds of the whole trial.",
    "audit": "Empty where the promise of k bits holds; else the first layer that breaks it.",
    "layers": "Which layers are quantized: a policy, names, or widths by name.",
    "threads": "Torch's threads on a CPU.",
    "training": "The recipe's values, as JSON.",
    "published": "The published number, as tables show it.",
    "source": "Where that is from.",
    "published_value": "The published value of the metric that counts, %.",
    "published_decimals": "Digits behind its point.",
    "claim_unlike": "Why the published number is not one of this setting; empty where it is.",
    "claim_apart": "In what else the trial departs from it.",
    "unreadable": "Items of the data that could not be read and were left out.",
    "stale": "Why the number is not to be trusted any more; empty where it is.",
    "first_layer": "Widths of the first conv or linear layer, W/A.",
    "last_layer": "Widths of the last, W/A.",
    "weight_mb": "Packed weights in 10^6 bytes.",
    "full_weight_mb": "Weights of the same network in full precision, in 10^6 bytes.",
    "gbops": "Bit-operations of one image, in 10^9.",
    "full_gbops": "Those of the same network in full precision.",
    "w_levels": "Distinct values of a quantized weight, the most that any layer (or filter) has.",
    "a_levels": "Distinct values of a quantized layer's input, likewise, on a batch of images.",
    "start": "pretrained: from the full-precision trial of the same seed; scratch; or the weights "
    "given.",
    "augmentation": "What is drawn anew for each training image.",
}


def as_markdown() -> str:
    """Everything of columns, as ``docs/columns.md`` has it."""
    lines = [
        "# Columns",
        "",
        "Written by `python -m qbench.columns > docs/columns.md`.",
        "",
        "## leaderboard.csv: a row for each result",
        "",
        "A result is a row of the table at a width, on a model and a data set, over its seeds.",
    ]
    for group in dict.fromkeys(column.group for column in COLUMNS):
        lines += [
            "",
            f"### {group.capitalize()}",
            "",
            "| column | in tables | |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| `{column.name}` | {column.heading} | {column.about}{_best(column)} |"
            for column in COLUMNS
            if column.group == group
        ]
    lines += ["", "## trials.csv: a row for each trial", "", "| column | |", "| --- | --- |"]
    lines += [f"| `{name}` | {about} |" for name, about in TRIAL_COLUMNS.items()]
    return "\n".join(lines) + "\n"


def _best(column: Column) -> str:
    return f" {column.better.capitalize()} is better." if column.better else ""


if __name__ == "__main__":
    print(as_markdown(), end="")

"""What a result's columns are called and mean: the one list behind tables, files and pages."""

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
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value)


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
            "unsupported: the method cannot.",
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
        ("bold", "Bold", "Whether tables print it bold: best or tied, where not all rows are."),
    ),
    *_group(
        "published",
        ("published", "Published", "What a paper prints; never part of a mean.", "%", 2, "higher"),
        ("source", "Source", "Where it is from."),
        ("delta", "Δ", "Measured less published.", "points", 2, "higher"),
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

"""Names and meanings of all columns. Tables, files and pages use this list."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Column:
    """One column of the frame that `qbench.report.summary.summarise` returns.

    Attributes:
        name: Name in frames and CSV files.
        title: Title in headings, without the unit.
        about: Meaning of the column, in a sentence.
        group: ``result``, ``accuracy``, ``significance``, ``published``, ``policy``, ``cost`` or
            ``deployment``.
        unit: ``%``, ``points`` (of percent), ``MB`` (10^6 bytes), ``GBOPs`` (10^9 bit-operations),
            ``×``, or an empty string for text and numbers without a unit.
        digits: Number of decimals. None for text, whole numbers and published values.
        better: Which values are better: ``higher``, ``lower``, or an empty string if neither.
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
        """Format a value for tables.

        Args:
            value: Value of the column, of any type.

        Returns:
            The text. ``×`` is the only unit that it includes. Empty if the value is None or NaN.
        """
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
    """Format a published value for tables.

    Args:
        value: Published value, in %.

    Returns:
        The value with its own decimals, at least one.
    """
    return max(f"{value:.1f}", f"{value:g}", key=len)


def _group(group: str, *rows: tuple[Any, ...]) -> list[Column]:
    return [Column(name, title, about, group, *rest) for name, title, about, *rest in rows]


COLUMNS: tuple[Column, ...] = (
    *_group(
        "result",
        ("dataset", "Dataset", "The data set of training and measurement."),
        ("model", "Model", "The network."),
        ("label", "Method", "Name of the row in the table."),
        ("method", "Method name", "Name of the method in suites."),
        ("options", "Options", "Options of the method, as JSON."),
        ("bits", "Bits", "Requested widths: weights/activations; 32 is full precision."),
        ("w_bits", "Weight bits", "Bits of the weight of a quantized layer.", "", None, "lower"),
        ("a_bits", "Activation bits", "Bits of the input of a quantized layer.", "", None, "lower"),
    ),
    *_group(
        "accuracy",
        (
            "status",
            "Status",
            "done: every seed finished; partly: some seeds finished; failed: no seed finished and "
            "at least one failed; missing: not run; unsupported: the method cannot run this "
            "configuration; rehearsal: only a few steps ran, not a result.",
        ),
        ("reason", "Reason", "Why the trial failed or cannot be run."),
        ("n", "n", "Number of finished seeds, over which means are taken."),
        ("seeds", "Seeds", "Number of seeds that the suite requests."),
        ("metric", "Metric", "The metric of the mean, the std and every difference."),
        (
            "mean",
            "Mean",
            "Mean over seeds of the hardened network after the last epoch.",
            "%",
            2,
            "higher",
        ),
        ("std", "Std", "Sample standard deviation over seeds (n − 1).", "points", 2, "lower"),
        (
            "ci95",
            "± 95 %",
            "Half the width of the two-sided 95 % interval of the mean (Student's t).",
            "points",
            2,
            "lower",
        ),
        ("top5", "Top-5", "Mean top-5 accuracy.", "%", 2, "higher"),
        ("map50", "mAP 0.5", "Mean mAP at IoU 0.5 over every recall point.", "%", 2, "higher"),
        ("map", "mAP", "Mean COCO mAP, IoU 0.5 to 0.95.", "%", 2, "higher"),
        (
            "full_precision",
            "Full precision",
            "Mean of the full-precision network that it starts from; from scratch, that of the "
            "same network.",
            "%",
            2,
            "higher",
        ),
        (
            "drop",
            "Drop",
            "Full precision minus this mean, over pairs with the same seed.",
            "points",
            2,
            "lower",
        ),
        (
            "drop_std",
            "Drop std",
            "Sample standard deviation of these differences.",
            "points",
            2,
            "lower",
        ),
        (
            "soft_gap",
            "Soft − hard",
            "Metric with soft quantizers minus that with hard ones after the last epoch, mean over "
            "seeds; of methods with a soft form.",
            "points",
            2,
            "lower",
        ),
        (
            "reestimation",
            "Re-estimation",
            "Metric with re-estimated statistics of batch normalization minus before, mean over "
            "seeds; empty if they were not re-estimated.",
            "points",
            2,
            "higher",
        ),
    ),
    *_group(
        "significance",
        (
            "standing",
            "Standing",
            "best: the best of its column (dataset, model, bits); tied: a moderated paired t-test "
            "over seeds does not tell it apart from the best; behind: the test does; worse: it "
            "does after Holm's correction too, so it is not a candidate for the best; untested: "
            "too few seeds, or not all finished; empty if there is no other row to compare with.",
        ),
        (
            "p",
            "p",
            "p-value against the best of the column: the larger of the moderated and the ordinary "
            "two-sided paired t-test.",
            "",
            4,
        ),
        ("p_holm", "p (Holm)", "The same p-value, corrected for all rows of the column.", "", 4),
        (
            "ranks",
            "Ranks",
            "The ranks in its column that the seeds leave open, by all pairs with Holm's "
            "correction.",
        ),
        (
            "deviation",
            "Std of a difference",
            "Standard deviation of the difference of two rows in one seed, pooled over the column.",
            "points",
            2,
            "lower",
        ),
        (
            "same_as",
            "Same as",
            "The row whose network is the same function: results and losses are equal in every "
            "seed. Both count once in the tests.",
        ),
        (
            "bold",
            "Bold",
            "Whether tables print it bold: it is the best, and the test tells it apart from all "
            "other rows.",
        ),
    ),
    *_group(
        "published",
        (
            "published",
            "Published",
            "The number that a paper states; never part of a mean.",
            "%",
            None,
            "higher",
        ),
        ("source", "Source", "Source of the published number."),
        (
            "paper_network",
            "Paper's network",
            "Whether the network is the one that the published number was measured on: its model, "
            "its blocks, and the places of its activation quantizers. yes; or no, and why.",
        ),
        (
            "delta",
            "Δ",
            "Measured minus published, for claims that are judged.",
            "points",
            2,
            "higher",
        ),
        (
            "verdict",
            "Verdict",
            "reproduced: the published number, rounded as printed, lies in the 95 % interval over "
            "seeds; short by, above by: it does not; one seed: no interval; not judged: see the "
            "note.",
        ),
        (
            "verdict_note",
            "Verdict note",
            "Why a claim is not judged, or how the measurement departs from its setting.",
        ),
    ),
    *_group(
        "policy",
        (
            "network",
            "Network",
            "Model that is quantized: the one of the table, or the one that the method declares in "
            "its place.",
        ),
        ("first_layer", "First layer", "Widths of the first layer."),
        ("last_layer", "Last layer", "Widths of the last layer."),
        (
            "w_levels",
            "Weight levels",
            "Distinct values of a quantized weight, counted by the audit: the maximum over layers, "
            "or over filters if each filter has its own levels.",
        ),
        ("a_levels", "Activation levels", "The same for the input of a quantized layer."),
        (
            "w_coverage",
            "Quantized weights",
            "Share of the weights of matrix products and convolutions that are quantized.",
            "%",
            1,
        ),
        (
            "mac_coverage",
            "Quantized multiply-adds",
            "Share of the multiply-adds whose factors are quantized: the weights, the activations, "
            "or both, as the widths ask.",
            "%",
            1,
        ),
        (
            "partly",
            "Partly quantized",
            "What the layer policy promises and is not quantized; empty if there is nothing. Such "
            "a row is never bold, and its claim is not judged.",
        ),
        (
            "start",
            "Start",
            "pretrained, and the method that had changed the network before; scratch; or provided "
            "weights that are not trained here.",
        ),
        ("recipe", "Recipe", "aligned: one for all methods; paper: the published one of each."),
        ("epochs", "Epochs", "Epochs of training with quantizers; 0: calibrated only."),
        (
            "teacher",
            "Teacher",
            "Weight and temperature of the distillation from the full-precision network; empty if "
            "there is none.",
        ),
        ("augmentation", "Augmentation", "Random transformations of each training image."),
        ("checkpoint", "Measured", "The epoch whose network is measured."),
        (
            "differs",
            "Differs in",
            "How the protocol differs from most rows of the table; empty if it does not.",
        ),
    ),
    *_group(
        "cost",
        (
            "weight_mb",
            "Weights",
            "Size of the packed weights: k-bit codes, their scales, everything else at 32 bits; "
            "1 MB is 10^6 bytes.",
            "MB",
            2,
            "lower",
        ),
        (
            "compression",
            "Smaller",
            "Size of the weights in full precision over the packed size.",
            "×",
            1,
            "higher",
        ),
        (
            "gbops",
            "Bit-operations",
            "Sum over layers of multiply-adds × weight bits × input bits for one image, in 10^9.",
            "GBOPs",
            2,
            "lower",
        ),
        ("bops_ratio", "Fewer", "Bit-operations in full precision over these.", "×", 1, "higher"),
        (
            "train_ratio",
            "Training",
            "Seconds per epoch over those of full precision with the same seed.",
            "×",
            2,
            "lower",
        ),
        (
            "audit",
            "Audit",
            "k-bit if the stored network has the promised levels; else what has not.",
        ),
    ),
    *_group(
        "deployment",
        (
            "exported",
            "Exported",
            "Whether every seed is exported to ONNX and proven to be the same network: yes; or the "
            "reason why not.",
        ),
        (
            "flips",
            "Flips",
            "Predictions that differ from the recorded ones in any setting of onnxruntime, the "
            "maximum over seeds.",
        ),
        ("onnx_mb", "ONNX file", "Size of the ONNX model; 1 MB is 10^6 bytes.", "MB", 2, "lower"),
        (
            "latency_ratio",
            "Latency",
            "Time of one image in onnxruntime with one thread over that of the same graph in full "
            "precision, the median over seeds. Weights below 8 bits are not faster on a "
            "CPU: they are dequantized before they are used.",
            "×",
            2,
            "lower",
        ),
    ),
)
BY_NAME = {column.name: column for column in COLUMNS}
# The columns of `trials.csv`, in its order, with their meanings.
TRIAL_COLUMNS = {
    "key": "The trial's key: a hash of everything that determines its numbers.",
    "method": "Name of the method in suites; fp32 is the full-precision network.",
    "label": "The row of the table.",
    "options": "All options of the method, as JSON.",
    "model": "The network.",
    "dataset": "The data set.",
    "bits": "Requested widths: weights/activations; 32 is full precision.",
    "w_bits": "Bits of the weight of a quantized layer.",
    "a_bits": "Bits of the input of a quantized layer.",
    "seed": "Seed of everything random.",
    "recipe": "aligned: one recipe for all methods; paper: the published recipe of each method; "
    "tuned: what a search with the same effort for all has found.",
    "epochs": "Passes over the training data; 0: quantized and evaluated only.",
    "status": "done, failed, missing (not run yet) or unsupported.",
    "reason": "Why the trial failed or is not supported.",
    "top1": "Top-1 accuracy of the hardened network on the test split after the last epoch, %.",
    "top5": "Top-5 accuracy, %.",
    "test_loss": "Cross-entropy on the test split.",
    "map50_voc07": "Mean average precision at IoU 0.5 by the 11 points of VOC2007, %.",
    "map50": "Mean average precision at IoU 0.5 over every recall point, %.",
    "map": "Mean average precision over IoU 0.5 to 0.95, as in COCO, %.",
    "soft_gap": "The metric that decides which result is best after the last epoch, with soft "
    "quantizers minus with hard ones, in points; empty without a soft form.",
    "reestimation": "The same metric with re-estimated statistics of batch normalization minus "
    "before, in points; empty if they were not re-estimated.",
    "train_seconds": "Seconds of training, including the evaluation after each epoch.",
    "seconds": "Seconds of the whole trial.",
    "audit": "Empty if the network is k-bit as promised; else the first layer that is not.",
    "layers": "Which layers are quantized: a policy, names, or widths by name.",
    "placement": "Where the quantizers of activations sit.",
    "threads": "Number of torch threads on a CPU.",
    "training": "Values of the recipe, as JSON.",
    "teacher": "Weight and temperature of the distillation from the full-precision network; empty "
    "if there is none.",
    "published": "The published number as tables show it.",
    "source": "Source of the published number.",
    "published_value": "The published value of the metric that decides which result is best, %.",
    "published_decimals": "Number of decimals of the published value.",
    "claim_unlike": "Why the published number is for a different setting; empty if it is not.",
    "claim_apart": "Other departures of the trial from the setting of the published number.",
    "paper_network": "Whether the network is the one that the published number was measured on: "
    "yes; or no, and why.",
    "unreadable": "Items of the data set that could not be read and were skipped.",
    "clipped": "How many quantized inputs lose the sign of their negative values; empty if none "
    "does.",
    "placed": "How many quantizers of activations sit where; empty for `layer_inputs`.",
    "w_coverage": "Share of the weights of products that are quantized, %.",
    "mac_coverage": "Share of the multiply-adds whose factors are quantized, %.",
    "partly": "What the layer policy promises and is not quantized; empty if there is nothing.",
    "stale": "Why the number is stale; empty if it is current.",
    "first_layer": "Widths of the first convolution or linear layer, W/A.",
    "last_layer": "Widths of the last convolution or linear layer, W/A.",
    "weight_mb": "Size of the packed weights, in 10^6 bytes.",
    "full_weight_mb": "Size of the same weights in full precision, in 10^6 bytes.",
    "gbops": "Bit-operations of one image, in 10^9.",
    "full_gbops": "Bit-operations of the same network in full precision, in 10^9.",
    "w_levels": "Distinct values of a quantized weight, the maximum over layers (or filters).",
    "a_levels": "The same for the input of a quantized layer, on a batch of images.",
    "start": "pretrained: from the full-precision trial of the same seed; scratch; or the weights "
    "that the user provides.",
    "augmentation": "Random transformations of each training image.",
    "base": "Key of the full-precision trial whose weights it starts from; empty if none.",
    "prepared": "Method that changed the network in full precision before it was trained; empty if "
    "none did.",
    "network": "Model that is quantized: the network, or the one that the method declares in its "
    "place.",
    "exported": "Whether it is exported to ONNX and proven to be the same network: yes; or the "
    "reason why not. Only where the suite deploys, like the next three.",
    "flips": "Predictions that differ from the recorded ones in any setting of onnxruntime.",
    "onnx_mb": "Size of the ONNX model, in 10^6 bytes.",
    "latency_ratio": "Time of one image in onnxruntime over that in full precision.",
    "study": "Number of the study whose winner the trial is, from 1; 0 if it is none. Only in "
    "tuned suites, like the next one.",
    "searched": "Values that the study has found, as JSON.",
}

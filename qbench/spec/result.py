"""Result of a trial: plain data that the worker sends to the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from qbench.spec.bits import BitWidth, BitWidths
from qbench.spec.predictions import Predictions
from qbench.spec.trial import Trial
from qbench.spec.words import counted

Levels = tuple[int | None, int | None]


class PlainData(BaseModel):
    """Plain data whose JSON keeps NaN and infinity, which pydantic would write as ``null``."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


class Shares(PlainData):
    """Shares of a network that are quantized, from 0 to 1.

    Attributes:
        weights: Share of the weights that enter matrix products and convolutions.
        weight_operands: Share of the multiply-adds with a weight whose weight is quantized.
        activation_operands: Share of the multiply-adds whose activations are quantized.
        multiply_adds: Share of the multiply-adds both of whose factors are quantized.
        partly: What the layer policy promises and is not quantized, or an empty string.
    """

    weights: float
    weight_operands: float
    activation_operands: float
    multiply_adds: float
    partly: str = ""


class LevelCount(PlainData):
    """The audit of one tensor.

    Attributes:
        layer: Name of the layer.
        tensor: ``weight`` or ``input``.
        levels: Number of distinct values in the layer, or the largest number in any one group.
        promised: Number of levels that the method declares for the bit-width.
        scope: Part of the tensor over which `levels` was counted: ``layer``, ``filter``, or a
            granularity such as ``per_group(64)``.
        bits: Bit-width of the tensor. Empty in results that were recorded without it.
    """

    layer: str
    tensor: str
    levels: int
    promised: int
    scope: str
    bits: str = ""

    @property
    def holds(self) -> bool:
        """Whether the tensor has no more levels than promised."""
        return self.levels <= self.promised

    def __str__(self) -> str:
        each = {"layer": "", "filter": " in a filter"}.get(self.scope, f" {self.scope}")
        levels = counted(self.levels, "level")
        return f"{self.layer}.{self.tensor} has {levels}{each}, {self.promised} promised"


def most_levels(counts: Sequence[LevelCount], bits: BitWidths) -> Levels:
    """Return the largest level counts of weights and activations over all layers.

    Layers with widths of their own, such as 8-bit first and last layers, do not count.

    Args:
        counts: Audit of a model.
        bits: Nominal bit-widths.

    Returns:
        Largest number of levels of a weight and of an activation. None where no tensor counts.
    """

    def most(tensor: str, width: BitWidth) -> int | None:
        found = [
            count.levels
            for count in counts
            if count.tensor == tensor and not width.is_float and _has_width(count, width)
        ]
        return max(found, default=None)

    return most("weight", bits.weights), most("input", bits.activations)


def _has_width(count: LevelCount, width: BitWidth) -> bool:
    """Return whether a count is of a tensor with a bit-width."""
    return count.bits == str(width) if count.bits else count.promised == width.count


class WeightDistribution(PlainData):
    """Distribution of a layer's weights, and the levels that quantization maps them to.

    Attributes:
        layer: Name of the layer.
        edges: Evenly spaced edges of the bins, of length bins + 1.
        before: Number of weights in each bin before training.
        after: Number of latent weights in each bin after training.
        levels: Values of the quantized weights, ascending. Empty if filters have different values.
        thresholds: Weights at which the next level begins, of length levels − 1. Empty if `levels`
            is, or if a larger weight may get a smaller level. A layer with more than two million
            weights is represented by two million, evenly spaced.
    """

    layer: str
    edges: list[float]
    before: list[int]
    after: list[int]
    levels: list[float] = Field(default_factory=list)
    thresholds: list[float] = Field(default_factory=list)


class QuantizerCurve(PlainData):
    """Function that quantizes a layer's weights, at several stages of training.

    Attributes:
        layer: Name of the layer.
        x: Weights at which the function is sampled, ascending.
        soft: Values of the training function at `x`, by epoch, for some epochs.
        hard: Values of the evaluation function at `x` after the last epoch.
    """

    layer: str
    x: list[float]
    soft: dict[int, list[float]]
    hard: list[float]


class WeightObservations(PlainData):
    """Observations of the weights during training.

    Attributes:
        weights: Distribution of the weights of every quantized layer.
        curve: Quantization function of the first layer. None if the method has no soft one.
    """

    weights: list[WeightDistribution] = Field(default_factory=list)
    curve: QuantizerCurve | None = None


class CodeFingerprint(PlainData):
    """Fingerprint of the code that a result was computed with.

    The defaults stand for results that were recorded before code had fingerprints.

    Attributes:
        syntax: Hash of the syntax tree of the method's file, without comments and docstrings, and
            of the local files that it imports. Empty if it was not recorded.
        revision: Revision of the method (`qbench.method.Method.revision`).
        numerics: Revision of the arithmetic that all methods share.
    """

    syntax: str = ""
    revision: int = 1
    numerics: int = 1


class ImageDetections(PlainData):
    """Objects that a detector finds in an image.

    Attributes:
        boxes: Corners x1, y1, x2, y2 in pixels, of shape (n, 4).
        scores: Confidences in [0, 1], of shape (n,).
        labels: Class numbers from 1, of shape (n,).
    """

    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]


class Result(WeightObservations):
    """Result of a trial that has finished or failed.

    Attributes:
        trial: Trial that was trained.
        suite: Name of the suite that it was trained for.
        status: ``done`` or ``failed``.
        reason: Reason of a failure in one line.
        traceback: Traceback of a failure in code.
        metrics: Metrics of the hardened model on the test split after the last epoch.
        history: One entry for each epoch: ``epoch`` from 1, ``train_loss``, ``lr``, for a
            classifier ``train_top1`` (%), and the metrics of the model in evaluation mode. If the
            method has soft quantizers, the metrics of the network with them are included with the
            prefix ``soft_``.
        audit: Level counts of the tensors.
        started: Start time in seconds since 1970.
        seconds: Duration of the whole trial in seconds: data, model, attachment, training, audit.
        train_seconds: Duration of all epochs with their evaluations, in seconds.
        environment: Software and hardware that it ran on, by name.
        code: Fingerprint of the code that it was trained with.
        unreadable: Items of the data that could not be read and were left out.
        clipped: How many quantized inputs lose the sign of their negative values; empty if none
            does.
        predictions: Predicted classes of the hardened network on the split that `metrics` are of.
            None for tasks without classes, and in results that were recorded without it.
        coverage: Shares of the network that are quantized. None if they were not measured.
        placed: Where the quantizers of activations sit; empty for ``layer_inputs``.
        before_reestimation: Metrics of the hardened network before the statistics of its batch
            normalization were estimated again. Empty if they were not.
        examples: Detections in the first test images.
    """

    trial: Trial
    suite: str = ""
    status: Literal["done", "failed"]
    reason: str = ""
    traceback: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    history: list[dict[str, float]] = Field(default_factory=list)
    audit: list[LevelCount] = Field(default_factory=list)
    started: float
    seconds: float = 0.0
    train_seconds: float = 0.0
    environment: dict[str, str] = Field(default_factory=dict)
    code: CodeFingerprint = CodeFingerprint()
    unreadable: list[str] = Field(default_factory=list)
    clipped: str = ""
    predictions: Predictions | None = None
    coverage: Shares | None = None
    placed: str = ""
    before_reestimation: dict[str, float] = Field(default_factory=dict)
    examples: list[ImageDetections] = Field(default_factory=list)

    @property
    def unreadable_text(self) -> str:
        """Number of unreadable items and the first of them, or an empty string."""
        count = len(self.unreadable)
        if not count:
            return ""
        items = counted(count, "item")
        return f"{items} could not be read and left out: {self.unreadable[0]}"

    @property
    def levels(self) -> Levels:
        """Largest level counts of weights and activations, as of `most_levels`."""
        return most_levels(self.audit, BitWidths.parse(self.trial.bits))

    @property
    def audit_text(self) -> str:
        """First broken promise and the number of others, or an empty string."""
        broken = [str(count) for count in self.audit if not count.holds]
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return broken[0] + more if broken else ""

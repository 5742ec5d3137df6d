"""What a trial came to: plain data that travels from the worker to the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from qbench.spec.bits import Bits, Width
from qbench.spec.trial import Trial

Levels = tuple[int | None, int | None]


class LevelCount(BaseModel):
    """The audit of one tensor.

    Attributes:
        layer: the layer's name.
        tensor: ``weight`` or ``input``.
        levels: distinct values found: of a layer, or the most that any one filter has.
        promised: how many its width allows.
        scope: what `levels` was counted over.
    """

    layer: str
    tensor: str
    levels: int
    promised: int
    scope: Literal["layer", "filter"]

    @property
    def holds(self) -> bool:
        """Whether the promise was kept."""
        return self.levels <= self.promised

    def __str__(self) -> str:
        each = " in a filter" if self.scope == "filter" else ""
        return (
            f"{self.layer}.{self.tensor} has {self.levels} levels{each}, {self.promised} promised"
        )


def most_levels(counts: Sequence[LevelCount], bits: Bits) -> Levels:
    """The most levels that a weight and an input of the nominal widths have, of all layers.

    Layers with widths of their own, such as 8-bit ends, do not count; None where nothing does.
    """

    def most(tensor: str, width: Width) -> int | None:
        found = [
            count.levels
            for count in counts
            if count.tensor == tensor and count.promised == width.count and not width.is_float
        ]
        return max(found, default=None)

    return most("weight", bits.weights), most("input", bits.activations)


class WeightDistribution(BaseModel):
    """How a layer's weights are distributed, and what quantization makes of them.

    Attributes:
        layer: the layer's name.
        edges: (bins + 1) ends of the bins, evenly spaced.
        before: (bins) weights in each bin before training.
        after: (bins) latent weights in each bin after training.
        levels: the values that quantized weights take, ascending; empty where they differ from
            filter to filter.
        thresholds: (levels − 1) where the next level begins; empty where levels are, or where a
            larger weight may get a smaller level. Of two million weights,
            evenly spaced, where a layer has more.
    """

    layer: str
    edges: list[float]
    before: list[int]
    after: list[int]
    levels: list[float] = Field(default_factory=list)
    thresholds: list[float] = Field(default_factory=list)


class QuantizerCurve(BaseModel):
    """The function that quantizes a layer's weights, as training makes it harder.

    Attributes:
        layer: the layer's name.
        x: (points) weights, ascending.
        soft: for some epochs, the (points) values of the function that training uses.
        hard: (points) values of the function of evaluation, after the last epoch.
    """

    layer: str
    x: list[float]
    soft: dict[int, list[float]]
    hard: list[float]


class WeightObservations(BaseModel):
    """What was seen of the weights in training.

    Attributes:
        weights: distribution of every quantized layer's weights.
        curve: the quantization function of the first layer, where the method has a soft one.
    """

    weights: list[WeightDistribution] = Field(default_factory=list)
    curve: QuantizerCurve | None = None


class CodeFingerprint(BaseModel):
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


class ImageDetections(BaseModel):
    """The objects that a detector finds in an image.

    Attributes:
        boxes: (n, 4), in pixels as x1 y1 x2 y2.
        scores: (n), in 0–1.
        labels: (n), of classes from 1.
    """

    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]


class Result(WeightObservations):
    """The end of a trial, good or bad.

    Attributes:
        trial: what was trained.
        suite: the suite that it was trained for.
        status: ``done`` or ``failed``.
        reason: why it failed: one line.
        traceback: where it failed, if code did.
        metrics: of the hardened model on the test split, after the last epoch.
        history: a record for each epoch: ``epoch`` from 1, ``train_loss``, ``lr``, and the
            metrics of the model in evaluation mode; with ``soft_`` before them, those of the
            network with the soft quantizers that it is trained with, where the method has such.
        audit: the levels counted.
        started: seconds since 1970.
        seconds: the whole trial: data, model, attachment, training, audit.
        train_seconds: its epochs, each with its evaluation.
        environment: what it ran on.
        code: Fingerprint of the code that it was trained with.
        unreadable: items of the data that could not be read and were left out.
        examples: what a detector finds in the first test images.
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
    examples: list[ImageDetections] = Field(default_factory=list)

    @property
    def unreadable_text(self) -> str:
        """How many items could not be read, and the first of them, or ''."""
        count = len(self.unreadable)
        if not count:
            return ""
        items = "1 item" if count == 1 else f"{count} items"
        return f"{items} could not be read and left out: {self.unreadable[0]}"

    @property
    def levels(self) -> Levels:
        """As `most_levels`."""
        return most_levels(self.audit, Bits.parse(self.trial.bits))

    @property
    def audit_text(self) -> str:
        """The first broken promise and how many more there are, or ''."""
        broken = [str(count) for count in self.audit if not count.holds]
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        return broken[0] + more if broken else ""

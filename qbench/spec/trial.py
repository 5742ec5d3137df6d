"""A trial: everything that determines one number, and its key."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import Field

from qbench.spec.bits import FULL_PRECISION
from qbench.spec.recipe import Determining, Recipe
from qbench.spec.weights import is_backbone

KEY_LENGTH = 16
FP32 = "fp32"  # the method that trains the full-precision networks


class Trial(Determining):
    """One training: what to train, how, and from what.

    Attributes:
        method: the method's name.
        options: all its options, defaults included.
        model: the model's name.
        dataset: the dataset's name.
        task: what the dataset asks of the model.
        bits: widths as ``W/A``.
        layers: which layers are quantized: a policy, names, or widths by name.
        recipe: how it is trained.
        full_precision: how the weights it starts from were trained; None where it starts from
            random ones.
        seed: of everything random.
        threads: torch's threads on a CPU. They decide in which order sums are taken, and that
            changes low-bit results.
        data: what of the data decides numbers and is not said by the dataset's name.
        weights: of a full-precision trial that is not trained here: where its weights are from, as
            ``torchvision:IMAGENET1K_V1``, or ``sha256:…`` of a file; or those of its backbone, as
            ``backbone:torchvision:IMAGENET1K_FEATURES``. Of another, those of the trial that it
            starts from.
        processes: that train it together, each with its share of a batch.
        rehearsal: whether it only tries out what a real trial would do.
    """

    later = frozenset({"data", "weights", "processes", "rehearsal"})

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    model: str
    dataset: str
    task: str
    bits: str
    layers: str | tuple[str, ...] | dict[str, str] = "skip_first_last"
    recipe: Recipe
    full_precision: Recipe | None = None
    seed: int
    threads: int = 1
    data: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""
    processes: int = 1
    rehearsal: bool = False

    @cached_property
    def key(self) -> str:
        """A hash of exactly what determines the trial's number.

        The same for every order in which options, names or milestones are written; not of where or
        when the trial runs.
        """
        content = self.model_dump(mode="json")
        recipes = [content["recipe"], content["full_precision"] or {}]
        for holder, name in ((content, "layers"), *((r, "milestones") for r in recipes)):
            if isinstance(holder.get(name), list):
                holder[name].sort()  # in whatever order they were written
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def base(self) -> Trial | None:
        """The full-precision trial whose weights this one starts from, or None."""
        if self.full_precision is None:
            return None
        return full_precision_trial(self, self.full_precision)

    @cached_property
    def source(self) -> str | None:
        """The key under which the weights that it starts from are kept; None: it starts anew."""
        if self.full_precision is not None:
            return full_precision_trial(self, self.full_precision).key
        return given_weights_key(self.model, self.weights) if self.weights else None

    @property
    def starts_from_backbone(self) -> bool:
        """Whether the weights that it starts from are of a detector's backbone alone."""
        return self.full_precision is None and is_backbone(self.weights)

    @property
    def name(self) -> str:
        """A readable name, as for a run in MLflow."""
        return f"{self.method} {self.bits} {self.model} {self.dataset} seed {self.seed}"


def full_precision_trial(trial: Trial, recipe: Recipe) -> Trial:
    """The trial that trains the network of another one before it is quantized."""
    same = ("model", "dataset", "task", "seed", "threads", "data", "weights", "processes")
    return Trial(
        method=FP32,
        bits=str(FULL_PRECISION),
        recipe=recipe,
        rehearsal=trial.rehearsal,
        **{name: getattr(trial, name) for name in same},
    )


def given_weights_key(model: str, weights: str) -> str:
    """The key under which weights that were not trained here are kept."""
    return hashlib.sha256(f"{model} {weights}".encode()).hexdigest()[:KEY_LENGTH]

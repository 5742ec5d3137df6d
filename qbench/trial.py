"""A trial: everything that determines one number, and its key."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from qbench.bits import FULL_PRECISION
from qbench.recipe import Recipe

KEY_LENGTH = 16


class Trial(BaseModel):
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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        return full_precision_trial(
            self.model, self.dataset, self.task, self.full_precision, self.seed, self.threads
        )

    @property
    def name(self) -> str:
        """A readable name, as for a run in MLflow."""
        return f"{self.method} {self.bits} {self.model} {self.dataset} seed {self.seed}"


def full_precision_trial(
    model: str, dataset: str, task: str, recipe: Recipe, seed: int, threads: int
) -> Trial:
    """The trial that trains a network before it is quantized."""
    return Trial(
        method="fp32",
        model=model,
        dataset=dataset,
        task=task,
        bits=str(FULL_PRECISION),
        recipe=recipe,
        seed=seed,
        threads=threads,
    )

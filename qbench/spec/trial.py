"""Trials: everything that determines the result of one training run, and its key."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import Field, model_validator

from qbench.spec.bits import FULL_PRECISION
from qbench.spec.placement import LAYER_INPUTS, Placement
from qbench.spec.recipe import KeyContent, Recipe
from qbench.spec.weights import is_initial
from qbench.spec.words import counted

KEY_LENGTH = 16
FP32 = "fp32"  # the method that trains the full-precision networks


class Preparation(KeyContent):
    """Change of a network by a method, before quantizers are attached.

    Attributes:
        method: Name of the method whose `prepare` changes the network.
        options: Options of the method.
        bits: Bit-widths ``W/A`` that `prepare` is called with. Those that the method does not tell
            apart have the first of them.
    """

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    bits: str


class TeacherNetwork(KeyContent):
    """Full-precision network that teaches a trial.

    Attributes:
        recipe: Recipe of its training.
        weights: Identity of its given weights, as `Trial.weights`. Empty if it is trained here.
    """

    recipe: Recipe
    weights: str = ""


class Trial(KeyContent):
    """One training run of one configuration.

    Attributes:
        method: Name of the method.
        options: Options of the method, defaults included.
        model: Name of the model.
        dataset: Name of the dataset.
        task: Task of the dataset, ``classification`` or ``detection``.
        bits: Bit-widths ``W/A``.
        layers: Which layers are quantized: a policy, names, or widths by name.
        recipe: Recipe of the training.
        full_precision: Recipe of the full-precision trial whose weights it starts from. None if it
            starts from random or given weights.
        seed: Seed of all random number generators.
        threads: Threads of torch on a CPU. They determine the order of summation, and that changes
            low-bit results.
        data: Properties of the data that affect results and that the name of the dataset does not
            determine.
        weights: Identity of the given weights of a full-precision trial that is not trained here
            (`qbench.spec.weights.identify`), such as ``torchvision:IMAGENET1K_V1`` or
            ``sha256:…`` of a file, or of those of its backbone, such as
            ``backbone:torchvision:IMAGENET1K_FEATURES``. Another trial has the identity of the
            full-precision trial that it starts from. Empty if no weights are given.
        processes: Number of processes that train it together, each with its share of a batch.
        rehearsal: Whether it belongs to a rehearsal, which tries a suite out.
        network: Name of the model that the method declares in place of `model`
            (`qbench.method.Method.networks`), which is built, trained and quantized. Empty if it is
            `model` itself.
        prepared: Change of the network of a full-precision trial; another trial has that of the
            full-precision trial that it starts from. None if no method changes the network, or if
            it starts from random weights. It is part of the key of a full-precision trial only:
            that of another one follows from its method.
        validation: Number of validation images that it is measured on, and that are not trained on,
            to select something by the result. 0 (default): it is measured on the test split.
        placement: Where the quantizers of activations sit. ``layer_inputs`` (default) where no
            activation is quantized.
        teacher: Full-precision network of `model` that teaches it, if its recipe has a teacher.
            Otherwise None.
        stop_after: Epoch after which training ends and the network is measured, where the recipe
            has more. Rates, and what a method does by the epoch, are those of the whole recipe. It
            is for trials that are measured on validation images. 0 (default): none.
    """

    later = frozenset(
        {
            *("data", "weights", "processes", "rehearsal", "network", "prepared", "validation"),
            *("placement", "teacher", "stop_after"),
        }
    )

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
    network: str = ""
    prepared: Preparation | None = None
    validation: int = Field(default=0, ge=0)
    placement: Placement = LAYER_INPUTS
    teacher: TeacherNetwork | None = None
    stop_after: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _stops_before_its_end_on_validation_images(self) -> Trial:
        if self.stop_after and not self.validation:
            raise ValueError("stop_after is for a trial that is measured on validation images")
        if self.stop_after and self.stop_after >= self.recipe.epochs:
            raise ValueError(
                f"stop_after must be less than the {counted(self.recipe.epochs, 'epoch')} of the "
                f"recipe, not {self.stop_after}"
            )
        return self

    @cached_property
    def key(self) -> str:
        """Hash of everything that determines the trial's result: 16 hexadecimal digits.

        It does not depend on the order in which options, names or milestones are written, nor on
        where and when the trial runs.
        """
        before, after = self._around_seed
        text = f'{{{before}, "seed": {self.seed}, {after}}}'
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    @cached_property
    def _around_seed(self) -> tuple[str, str]:
        """JSON of the fields before and after ``seed``, by name, which all seeds share."""
        content = self.model_dump(mode="json")
        if self.method != FP32:
            content.pop("prepared", None)
        recipes = [content["recipe"], content["full_precision"] or {}]
        if self.teacher is not None:
            recipes.append(content["teacher"]["recipe"])
        for holder, name in ((content, "layers"), *((r, "milestones") for r in recipes)):
            if isinstance(holder.get(name), list):
                holder[name].sort()  # in whatever order they were written
        before = {name: value for name, value in content.items() if name < "seed"}
        after = {name: value for name, value in content.items() if name > "seed"}
        first, second = (json.dumps(part, sort_keys=True)[1:-1] for part in (before, after))
        return first, second

    @cached_property
    def base(self) -> Trial | None:
        """Full-precision trial whose weights this one starts from, or None."""
        if self.full_precision is None:
            return None
        return full_precision_trial(self, self.full_precision)

    @cached_property
    def taught_by(self) -> Trial | None:
        """Full-precision trial whose network is its teacher, or None.

        It is of the model that the table names, which a method may change for the trial itself.
        """
        if self.teacher is None:
            return None
        plain = self.changed(weights=self.teacher.weights, network="", prepared=None)
        return full_precision_trial(plain, self.teacher.recipe)

    @property
    def needs(self) -> tuple[Trial, ...]:
        """Full-precision trials whose weights it needs: its base and its teacher, each once."""
        found = (each for each in (self.base, self.taught_by) if each is not None)
        return tuple({each.key: each for each in found}.values())

    @property
    def sources(self) -> tuple[str, ...]:
        """Keys of the weights that it needs: those that it starts from, and its teacher's."""
        keys = (self.source, self.taught_by and self.taught_by.key)
        return tuple(dict.fromkeys(key for key in keys if key))

    @property
    def epochs(self) -> int:
        """Number of epochs that it trains: those of its recipe, or fewer if it is stopped."""
        return self.stop_after or self.recipe.epochs

    @property
    def length(self) -> str:
        """The number of epochs that it trains in words: ``12 epochs``, or ``4 of 12 epochs``."""
        part = f"{self.stop_after} of " if self.stop_after else ""
        return part + counted(self.recipe.epochs, "epoch")

    @property
    def whole(self) -> Trial:
        """The trial of full length that it is the beginning of; itself if it is not stopped."""
        return self.changed(stop_after=0) if self.stop_after else self

    def changed(self, **fields: Any) -> Trial:
        """Return the trial with other values of some fields.

        `model_copy` would keep the key of the trial that it copies.

        Args:
            **fields: Values by the names of the fields.
        """
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return Trial(**{**own, **fields})

    def with_seed(self, seed: int) -> Trial:
        """Return the trial that differs in its seed only.

        It shares what both have in common. Thousands of trials are made and their keys computed in
        a tenth of the time that way.

        Args:
            seed: Seed of the other trial.
        """
        shared: dict[str, Any] = {"_around_seed": self._around_seed}
        if self.base is not None:
            shared["base"] = self.base.with_seed(seed)
        if self.taught_by is not None:
            shared["taught_by"] = self.taught_by.with_seed(seed)
        other = self.model_copy(update={"seed": seed})
        for name in ("key", "source", "base", "taught_by"):
            other.__dict__.pop(name, None)
        other.__dict__.update(shared)
        return other

    @cached_property
    def source(self) -> str | None:
        """Key of the weights that it starts from. None if it starts from random weights."""
        if self.base is not None:
            return self.base.key
        return given_weights_key(self.model, self.weights) if self.weights else None

    @property
    def starts_from_initial_weights(self) -> bool:
        """Whether it starts from the weights of a detector's backbone alone."""
        return self.full_precision is None and is_initial(self.weights)

    @property
    def architecture(self) -> str:
        """Name of the model that is built: the one that the method declares, or `model`."""
        return self.network or self.model

    @property
    def has_changed_network(self) -> bool:
        """Whether its network is not `model` as it is, as far as its start tells."""
        return bool(self.network) or self.prepared is not None

    @property
    def code_method(self) -> str:
        """Name of the method whose code determines the result."""
        if self.method == FP32 and self.prepared is not None:
            return self.prepared.method
        return self.method

    def starts_from(self, recorded: str | None) -> bool:
        """Return whether a recorded start is the one that the trial has now.

        Args:
            recorded: Key of the weights that were started from. None if the trial started from
                random weights, or if it was recorded before changed networks were trained in full
                precision: then it started from the unchanged network.
        """
        return recorded == self.source or (recorded is None and not self.has_changed_network)

    @property
    def name(self) -> str:
        """Readable name, which is also that of its run in MLflow."""
        method = self.method
        if method == FP32 and self.prepared is not None:
            method += f" for {self.prepared.method}"
        model = f"{self.model} as {self.network}" if self.network else self.model
        name = f"{method} {self.bits} {model} {self.dataset} seed {self.seed}"
        return f"{name}, {self.length}" if self.stop_after else name


def full_precision_trial(trial: Trial, recipe: Recipe) -> Trial:
    """Return the trial that trains the full-precision network of another trial.

    Args:
        trial: Trial of any method.
        recipe: Recipe of the full-precision network.
    """
    same = (
        *("model", "dataset", "task", "seed", "threads", "data", "weights", "processes"),
        *("network", "prepared", "validation"),
    )
    return Trial(
        method=FP32,
        bits=str(FULL_PRECISION),
        recipe=recipe,
        rehearsal=trial.rehearsal,
        **{name: getattr(trial, name) for name in same},
    )


def given_weights_key(model: str, weights: str) -> str:
    """Return the key under which given weights are kept in the spool.

    Args:
        model: Name of the model.
        weights: Identity of the weights.
    """
    return hashlib.sha256(f"{model} {weights}".encode()).hexdigest()[:KEY_LENGTH]

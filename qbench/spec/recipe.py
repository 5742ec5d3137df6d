"""Recipes: how a network is trained."""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


class Determining(BaseModel):
    """What a trial's key is made of.

    Fields that came after the first keys were given are left out when they have their defaults, so
    that results recorded before stay known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = _later_defaults(type(self))
        unset = {name for name, default in defaults.items() if getattr(self, name) == default}
        return {name: value for name, value in handler(self).items() if name not in unset}


@functools.cache
def _later_defaults(kind: type[Determining]) -> dict[str, Any]:
    fields = kind.model_fields
    return {name: fields[name].get_default(call_default_factory=True) for name in kind.later}


class Recipe(Determining):
    """Everything about training that is not the method: it is part of a trial's key.

    Attributes:
        epochs: passes over the training data; 0 only quantizes and evaluates.
        batch_size: images per step.
        optimizer: ``sgd`` or ``adam``.
        lr: learning rate at the start.
        momentum: of SGD.
        nesterov: Nesterov's momentum, of SGD.
        weight_decay: L2 penalty on the network's parameters; a method's own are exempt.
        schedule: ``cosine``, ``linear`` or ``exponential`` to `final_lr`; ``cosine_restarts``,
            begun again at each of `milestones`; ``step`` (× `gamma` at each of `milestones`); or
            ``constant``. Steps once an epoch.
        milestones: epochs after which ``step`` lowers the rate, or ``cosine_restarts`` restarts it.
        gamma: the factor of ``step``.
        final_lr: the rate at the end, of ``cosine``, ``linear`` and ``exponential``.
        gradient_clip: largest L2 norm of the gradient of all parameters; None: not clipped.
        initialization: ``pretrained`` starts from the full-precision trial's weights of the same
            model, dataset and seed; ``scratch`` from random ones.
        calibration_images: training images from which input quantizers are initialised.
        precision: ``float32``, or ``bfloat16``: autocast in training. Evaluation is in float32.
        channels_last: images and convolutions in channels-last memory format.
        compile: train through ``torch.compile``.
        steps: batches of an epoch at most, as for a rehearsal; None: all.
        other_lr: learning rate of all but quantized layers and quantizers; None: `lr`. `schedule`
            lowers both alike.
    """

    later = frozenset({"precision", "channels_last", "compile", "steps", "other_lr"})

    epochs: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    optimizer: Literal["sgd", "adam"]
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["cosine", "cosine_restarts", "linear", "step", "exponential", "constant"] = (
        "cosine"
    )
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    final_lr: float = Field(default=0.0, ge=0)
    gradient_clip: float | None = Field(default=None, gt=0)
    initialization: Literal["pretrained", "scratch"] = "scratch"
    calibration_images: int = Field(default=1000, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    steps: int | None = Field(default=None, ge=1)
    other_lr: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _schedule_has_what_it_needs(self) -> Recipe:
        if self.schedule in ("step", "cosine_restarts") and not self.milestones:
            raise ValueError(f"schedule '{self.schedule}' needs milestones, as in [30, 45]")
        if self.schedule == "exponential" and self.final_lr == 0:
            raise ValueError("schedule 'exponential' needs a final_lr above 0")
        return self

    @property
    def calibration_batches(self) -> int:
        """How many batches hold `calibration_images`."""
        return -(-self.calibration_images // self.batch_size)

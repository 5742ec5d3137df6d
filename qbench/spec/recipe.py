"""Recipes: how a network is trained."""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from qbench.spec.booleans import no_boolean


class KeyContent(BaseModel):
    """Base class of what a trial's key is computed from.

    The key is a hash of the fields in JSON. A field that a later version of qbench adds must not
    change the keys of trials that are already recorded. Such a field is named in `later`, and JSON
    leaves it out while it has its default.

    Attributes:
        later: Names of the fields that were added after the first keys were computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = _later_defaults(type(self))
        unset = {name for name, default in defaults.items() if getattr(self, name) == default}
        return {name: value for name, value in handler(self).items() if name not in unset}


@functools.cache
def _later_defaults(kind: type[KeyContent]) -> dict[str, Any]:
    fields = kind.model_fields
    return {name: fields[name].get_default(call_default_factory=True) for name in kind.later}


class Recipe(KeyContent):
    """Settings of training that are independent of the method. They are part of a trial's key.

    Attributes:
        epochs: Passes over the training data. With 0, a trial only quantizes and evaluates.
        batch_size: Images per step, 1 or more.
        optimizer: ``sgd`` or ``adam``.
        lr: Learning rate at the start, above 0.
        momentum: Momentum of SGD, in [0, 1). Default: 0.9.
        nesterov: Whether SGD uses Nesterov's momentum. Default: false.
        weight_decay: L2 penalty on the parameters of the network; parameters of the method are
            exempt. Default: 0.
        schedule: Schedule of the learning rate, which changes once an epoch. ``cosine`` (default),
            ``linear`` and ``exponential`` end at `final_lr`; ``cosine_restarts`` starts again at
            each of `milestones`; ``step`` multiplies the rate by `gamma` at each of `milestones`;
            ``constant`` keeps it.
        milestones: Epochs after which ``step`` lowers the rate or ``cosine_restarts`` restarts it,
            each 1 or more.
        gamma: Factor of ``step``, in (0, 1]. Default: 0.1.
        final_lr: Learning rate at the end of ``cosine``, ``linear`` and ``exponential``; for
            ``exponential`` it must be above 0. Default: 0.
        gradient_clip: Largest L2 norm of the gradient of all parameters, above 0. By default, the
            gradient is not clipped.
        initialization: ``pretrained`` starts from the weights of the full-precision trial of the
            same model, dataset and seed; ``scratch`` (default) from random weights.
        calibration_images: Number of training images that initialise activation quantizers.
            Default: 1000.
        precision: ``float32`` (default), or ``bfloat16`` for autocast in training. Evaluation is in
            float32.
        channels_last: Whether images and convolutions are in channels-last memory format. Default:
            false.
        compile: Whether training uses ``torch.compile``. Default: false.
        steps: Largest number of batches in an epoch, as in a rehearsal. By default, all.
        other_lr: Learning rate at the start of all parameters but those of quantized layers and
            quantizers. By default `lr`. `schedule` lowers both by the same factor.
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

    _no_boolean = field_validator("*", mode="before")(no_boolean)

    @model_validator(mode="after")
    def _schedule_has_what_it_needs(self) -> Recipe:
        if self.schedule in ("step", "cosine_restarts") and not self.milestones:
            raise ValueError(f"schedule '{self.schedule}' needs milestones, as in [30, 45]")
        if self.schedule == "exponential" and self.final_lr == 0:
            raise ValueError("schedule 'exponential' needs a final_lr above 0")
        return self

    @property
    def calibration_batches(self) -> int:
        """Number of batches that hold `calibration_images`."""
        return -(-self.calibration_images // self.batch_size)

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
from qbench.spec.words import counted

RATES = ("lr", "other_lr", "final_lr", "milestone_lrs")
"""Fields of a recipe that are learning rates."""

DECAYS = ("weight_decay", "milestone_weight_decays")
"""Fields of a recipe that are weight decays."""


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


class Teacher(KeyContent):
    """Distillation from the full-precision network (Hinton et al., arXiv:1503.02531).

    The loss is (1 − w) · cross-entropy + w · T² · KL(teacher ‖ network), with both distributions
    softened by the temperature T. The teacher is the full-precision network of the same model,
    dataset and seed, in evaluation mode.

    Attributes:
        weight: Weight w, in [0, 1]. Default: 1, which trains on the teacher's distribution alone.
        temperature: Temperature T, above 0. Default: 1.
    """

    weight: float = Field(default=1.0, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)

    _no_boolean = field_validator("*", mode="before")(no_boolean)

    @property
    def text(self) -> str:
        """The weight and the temperature, for tables."""
        return f"weight {self.weight:g}, temperature {self.temperature:g}"


class Recipe(KeyContent):
    """Settings of training that are independent of the method. They are part of a trial's key.

    Attributes:
        epochs: Passes over the training data. With 0, a trial only quantizes and evaluates.
        batch_size: Images per step, 1 or more.
        optimizer: ``sgd``, ``adam``, or ``adamw``, which decays weights apart from the gradient.
        lr: Learning rate at the start, above 0.
        momentum: Momentum of SGD, in [0, 1). Default: 0.9.
        nesterov: Whether SGD uses Nesterov's momentum. Default: false.
        weight_decay: L2 penalty on the parameters of the network; the method sets that of its own.
            Default: 0. See `weight_decay_on` and `milestone_weight_decays`.
        schedule: Schedule of the learning rate, which changes once an epoch. ``cosine`` (default),
            ``linear`` and ``exponential`` end at `final_lr`; ``cosine_restarts`` starts again at
            each of `milestones`; ``step`` multiplies the rate by `gamma` at each of `milestones`,
            or takes the next of `milestone_lrs`; ``constant`` keeps it.
        milestones: Epochs after which ``step`` lowers the rate or ``cosine_restarts`` restarts it,
            each 1 or more.
        gamma: Factor of ``step``, in (0, 1], unless there are `milestone_lrs`. Default: 0.1.
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
        steps: Largest number of batches in an epoch, where an epoch is no pass over the data, or in
            a rehearsal. By default, all.
        other_lr: Learning rate at the start of all parameters but those of quantized layers and
            quantizers. By default `lr`. `schedule` lowers both by the same factor.
        milestone_lrs: Learning rate after each of `milestones` with the schedule ``step``, above 0,
            where one factor cannot give them. They are those of parameters that start at `lr`;
            others change by the same factors.
        milestone_weight_decays: Weight decay after each of `milestones`, with any schedule. By
            default, `weight_decay` stays.
        weight_decay_on: Parameters that `weight_decay` applies to: ``network`` (default), all of
            the network; ``weights``, those of convolutions and linear layers without their biases;
            ``quantized``, the weights that are quantized; ``classifier``, those of linear layers;
            ``all``, all of the network and those of the method, whatever it sets for them.
        warmup_epochs: Epochs, or a fraction of one, in which the learning rate rises linearly with
            every step, to what `schedule` gives. Default: 0.
        label_smoothing: Share of the target that all classes have equally, in [0, 1). It is for
            classification. Default: 0.
        epsilon: Term that ``adam`` and ``adamw`` add to the denominator, above 0. Default: 1e-8.
        teacher: Distillation from the full-precision network. None (default): there is none. A
            weight of 0 is the same as None.
        reestimate_batches: Number of training batches over which the running statistics of batch
            normalization are estimated again after training, in the hardened network. Default: 0,
            which keeps those of training.
    """

    later = frozenset(
        {
            *("precision", "channels_last", "compile", "steps", "other_lr", "milestone_lrs"),
            *("milestone_weight_decays", "weight_decay_on", "warmup_epochs", "label_smoothing"),
            *("epsilon", "teacher", "reestimate_batches"),
        }
    )

    epochs: int = Field(ge=0)
    batch_size: int = Field(ge=1)
    optimizer: Literal["sgd", "adam", "adamw"]
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
    milestone_lrs: tuple[Annotated[float, Field(gt=0)], ...] = ()
    milestone_weight_decays: tuple[Annotated[float, Field(ge=0)], ...] = ()
    weight_decay_on: Literal["network", "weights", "quantized", "classifier", "all"] = "network"
    warmup_epochs: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    teacher: Teacher | None = None
    reestimate_batches: int = Field(default=0, ge=0)

    _no_boolean = field_validator("*", mode="before")(no_boolean)

    @field_validator("teacher")
    @classmethod
    def _no_teacher_without_weight(cls, teacher: Teacher | None) -> Teacher | None:
        return teacher if teacher is not None and teacher.weight > 0 else None

    @model_validator(mode="after")
    def _schedule_has_what_it_needs(self) -> Recipe:
        if self.schedule in ("step", "cosine_restarts") and not self.milestones:
            raise ValueError(f"schedule '{self.schedule}' needs milestones, as in [30, 45]")
        if self.schedule == "exponential" and self.final_lr == 0:
            raise ValueError("schedule 'exponential' needs a final_lr above 0")
        return self

    @model_validator(mode="after")
    def _lists_fit_the_milestones(self) -> Recipe:
        if self.milestone_lrs and self.schedule != "step":
            raise ValueError(f"milestone_lrs need the schedule 'step', not '{self.schedule}'")
        milestones = list(self.milestones)
        for name in ("milestone_lrs", "milestone_weight_decays"):
            values = list(getattr(self, name))
            if values and len(values) != len(milestones):
                raise ValueError(
                    f"{name} has {counted(len(values), 'value')} and milestones has "
                    f"{len(milestones)}: "
                    f"{values} for {milestones}; write one value for each milestone"
                )
            if values and milestones != sorted(set(milestones)):
                raise ValueError(
                    f"{name} needs milestones in ascending order, {sorted(set(milestones))}, "
                    f"not {milestones}"
                )
        return self

    @property
    def calibration_batches(self) -> int:
        """Number of batches that hold `calibration_images`."""
        return -(-self.calibration_images // self.batch_size)

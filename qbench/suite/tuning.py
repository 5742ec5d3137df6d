"""The effort that a suite with ``recipe: tuned`` spends on each row."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from qbench.spec.booleans import no_boolean


class Tuning(BaseModel):
    """Effort that ``recipe: tuned`` spends on each method, model and bit-width.

    Attributes:
        studies: Number of independent studies. They are the unit of every interval and test, so
            that fewer than three tell nothing apart. Default: 3.
        trials: Number of configurations that each study tries on validation images. Default: 7.
        seeds: Number of seeds on which the best of a study is trained and measured on the test
            split. Default: 3.
        search: How configurations are chosen: ``quasirandom`` (default), points that cover the
            ranges evenly, scrambled by study; or ``random``.
        validation: Number of validation images, which no trial of a study is trained on. Default:
            5000.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies: int = Field(default=3, ge=1, le=1000)
    trials: int = Field(default=7, ge=1, le=1000)
    seeds: int = Field(default=3, ge=1, le=999)
    search: Literal["quasirandom", "random"] = "quasirandom"
    validation: int = Field(default=5000, ge=1)

    _no_boolean = field_validator("*", mode="before")(no_boolean)

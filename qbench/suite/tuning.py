"""The effort that a suite with ``recipe: tuned`` spends on each row."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from qbench.spec.booleans import no_boolean
from qbench.spec.words import counted
from qbench.suite import halving

_LONG = 1000  # epochs, enough for all rungs
_KINDS = {
    "quasirandom": "quasirandom configuration",
    "random": "random configuration",
    "optuna": "configuration of optuna",
}
_START = 10  # configurations, at most, before the first that scores choose; as optuna's default


class Tuning(BaseModel):
    """Effort that ``recipe: tuned`` spends on each method, model and bit-width.

    Attributes:
        studies: Number of independent studies. They are the unit of every interval and test, so
            that fewer than three tell nothing apart. Default: 3.
        trials: Number of configurations that each study tries on validation images. Default: 7.
        seeds: Number of seeds on which the best of a study is trained and measured on the test
            split. Default: 3.
        search: How configurations are chosen: ``quasirandom`` (default), points that cover the
            ranges evenly, scrambled by study; ``random``; or ``optuna``, which starts with
            quasirandom points and chooses each further one by the scores of those before.
        scheduler: Which configurations are trained to the end: ``none`` (default), all; or
            ``asha``, those that are the best after a ninth and after a third of the epochs.
        validation: Number of validation images, which no trial of a study is trained on. Default:
            5000.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies: int = Field(default=3, ge=1, le=1000)
    trials: int = Field(default=7, ge=1, le=1000)
    seeds: int = Field(default=3, ge=1, le=999)
    search: Literal["quasirandom", "random", "optuna"] = "quasirandom"
    scheduler: Literal["none", "asha"] = "none"
    validation: int = Field(default=5000, ge=1)

    @property
    def known_points(self) -> int:
        """Number of configurations of a study that do not depend on scores."""
        if self.search != "optuna":
            return self.trials
        return min(_START, math.ceil(self.trials / 2))

    @property
    def effort(self) -> str:
        """Description of a study, in two sentences."""
        tried = counted(self.trials, _KINDS[self.search])
        stopped = "" if self.scheduler == "none" else f"; {self.scheduler} stops the worse ones"
        return (
            f"Each study tries {tried} on {counted(self.validation, 'validation image')}{stopped}. "
            f"It trains the best one on {counted(self.seeds, 'fresh seed')} and measures it on the "
            "test split."
        )

    @property
    def most_trials(self) -> int:
        """Number of trials in which a study tries its configurations, with any recipe at most."""
        return sum(rung.configurations for rung in self.rungs(_LONG))

    def rungs(self, epochs: int) -> list[halving.Rung]:
        """Return after which epochs the configurations of a study are compared.

        Args:
            epochs: Number of epochs of their recipe.
        """
        if self.scheduler == "none":
            return [halving.Rung(epochs, self.trials)]
        return halving.rungs(self.trials, epochs)

    _no_boolean = field_validator("*", mode="before")(no_boolean)

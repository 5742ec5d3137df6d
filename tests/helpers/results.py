"""Results of trials that nobody trained."""

from __future__ import annotations

import itertools
import time

from qbench.spec.result import Result
from tests.helpers.training import trial

_SECONDS = itertools.count()  # so that no two results start at the same time


def result(status: str = "done", top1: float = 90.0, seed: int = 0) -> Result:
    return Result.model_validate(
        {
            "trial": trial(seed=seed),
            "suite": "suite",
            "status": status,
            "reason": "" if status == "done" else "it broke",
            "metrics": {"top1": top1} if status == "done" else {},
            "history": [{"epoch": e, "top1": top1 - 1, "train_loss": 1 / e} for e in (1, 2)],
            "started": time.time() + next(_SECONDS),
            "seconds": 2.0,
            "environment": {"torch": "2"},
        }
    )

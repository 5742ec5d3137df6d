"""Results of trials that nobody trained."""

from __future__ import annotations

import itertools
import time

from qbench.benchmark.labels import labels_here, split_of
from qbench.spec.predictions import Predictions
from qbench.spec.result import Result
from qbench.train import fingerprint
from tests.helpers.training import trial

_SECONDS = itertools.count()  # so that no two results start at the same time


def course(top1: float, epochs: int) -> list[dict[str, float]]:
    """A history that rises by a point in each epoch and ends with an accuracy."""
    return [
        {"epoch": e, "top1": top1 - (epochs - e), "train_loss": 1 / e} for e in range(1, epochs + 1)
    ]


def classified(method: str = "dorefa", seed: int = 0, wrong: int = 36, **changes: object) -> Result:
    """A result on the digits whose parts agree: history, metrics, predictions and fingerprint."""
    what = trial(method, seed=seed, **changes)
    labels = labels_here(split_of(what))
    assert labels is not None
    predicted = [(label + 1) % 10 if i < wrong else label for i, label in enumerate(labels.values)]
    top1 = 100.0 * (labels.count - wrong) / labels.count
    history = [
        {**record, "train_loss": record["train_loss"] + seed / 7, "test_loss": 1 + seed / 7}
        for record in course(top1, what.recipe.epochs)
    ]
    own = {
        "trial": what,
        "metrics": {"top1": top1, "test_loss": 1 + seed / 7},
        "history": history,
        "code": fingerprint.code_of(what),
        "predictions": Predictions.of(predicted, 10),
    }
    return result().model_copy(update=own)


def result(status: str = "done", top1: float = 90.0, seed: int = 0) -> Result:
    return Result.model_validate(
        {
            "trial": trial(seed=seed),
            "suite": "suite",
            "status": status,
            "reason": "" if status == "done" else "it broke",
            "metrics": {"top1": top1} if status == "done" else {},
            "history": course(top1, 2),
            "started": time.time() + next(_SECONDS),
            "seconds": 2.0,
            "environment": {"torch": "2"},
        }
    )

"""A small trial, and its training."""

from __future__ import annotations

from qbench.quant.options import build_method, method_options
from qbench.spec.recipe import Recipe
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.train.trial import Training

RECIPE = Recipe(epochs=2, batch_size=128, optimizer="sgd", lr=0.05)


def trial(method: str = "quantization_networks", **changes: object) -> Trial:
    options = method_options(build_method(method, {}))
    values: dict[str, object] = {
        "method": method,
        "options": options,
        "model": "convnet_tiny",
        "dataset": "digits",
        "task": "classification",
        "bits": "2/2",
        "recipe": RECIPE,
        "seed": 0,
    }
    return Trial.model_validate({**values, **changes})


def train(
    what: Trial, weights: bytes | None = None, teacher: bytes | None = None
) -> tuple[Result, bytes | None]:
    training = Training(what, weights, teacher=teacher)
    for _ in training.epochs():
        pass
    return training.result, training.weights

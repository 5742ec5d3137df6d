"""A tuned suite whose trials take a tenth of a second."""

from __future__ import annotations

from qbench.benchmark.benchmark import Benchmark
from qbench.spec.result import Result
from qbench.suite.grid import PlannedTrial
from qbench.train import fingerprint
from tests.helpers.results import course, result

SUITE = """\
name: tuned
dataset: digits
models: [convnet_tiny]
bits: [2/2]
methods: [fp32, dorefa]
seeds: [0, 1]
recipe: {name: tuned, epochs: 1, steps: 2, batch_size: 32}
full_precision: {epochs: 1, steps: 2}
tuning: {studies: 2, trials: 3, seeds: 2, validation: 50}
"""


def record(benchmark: Benchmark, each: PlannedTrial, top1: float | None) -> None:
    """Record a trial that nobody trained; None: it failed."""
    update: dict[str, object] = {"trial": each.trial, "code": fingerprint.code_of(each.trial)}
    if top1 is None:
        made = Result(trial=each.trial, status="failed", reason="it broke", started=0.0)
    else:
        update["history"] = course(top1, each.trial.epochs)
        made = result(top1=top1)
    benchmark.store.record(made.model_copy(update={**update, "suite": "tuned"}), None)

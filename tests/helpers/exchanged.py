"""A suite, and a store filled with its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from qbench.benchmark.benchmark import Benchmark
from qbench.train import fingerprint
from tests.helpers.frames import trials
from tests.helpers.results import course, result

SUITE = """\
name: small
dataset: digits
models: [convnet_tiny]
bits: [2/32]
methods: [ste, dorefa]
seeds: [0, 1]
"""


def filled(
    suite: Path, results: Path, top1: dict[str, float], slope: dict[str, float] | None = None
) -> Benchmark:
    """A results folder in which a suite is done: a method's accuracy, and a little by seed.

    A method with a slope gains so much from seed to seed. What the suite cannot run has no result.
    """
    benchmark = Benchmark.open(suite, results)
    for planned in benchmark.planned:
        if planned.unsupported:
            continue
        method, seed = planned.trial.method, planned.trial.seed
        value = top1[method] + 0.1 * seed**2 + (slope or {}).get(method, 0.0) * seed
        code = fingerprint.code_of(planned.trial)
        history = course(value, planned.trial.recipe.epochs)
        own = {"trial": planned.trial, "suite": "small", "code": code, "history": history}
        benchmark.store.record(result(top1=value).model_copy(update=own), None)
    benchmark.refresh()
    return benchmark


BEFORE = {"fp32": 99.0, "ste": 90.0, "dorefa": 80.0}


def results(label: str, *top1: float, **more: Any) -> pd.DataFrame:
    return trials(label, *top1).assign(options="{}", **{"training": "{}", **more})

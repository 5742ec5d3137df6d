"""Seeds beyond those of the suite, for neighbouring rows that are not told apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qbench.benchmark import exported
from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.exchange import export
from qbench.benchmark.further_seeds import (
    next_trials,
    resolve,
    seeds_of,
    verdicts,
    with_further_seeds,
)
from qbench.suite.suite import Suite
from qbench.train import fingerprint
from tests.helpers.exchanged import SUITE
from tests.helpers.results import result

MEANS = {"fp32": 99.0, "ste": 90.0, "dorefa": 89.95, "pact": 50.0}
SPREAD = {"fp32": 0.1, "ste": 0.5, "dorefa": 0.5, "pact": 0.5}


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """Three methods, of which nothing is trained: two are equal, one is far behind."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(SUITE.replace("[ste, dorefa]", "[ste, dorefa, pact]"), encoding="utf-8")
    return with_further_seeds(Benchmark.open(path, tmp_path / "results"))


def train(part: Benchmark, failing: str = "") -> bool:
    """Record what training would give: equal methods differ by noise."""
    for planned in part.to_do():
        method, seed = planned.trial.method, planned.trial.seed
        noise = np.random.default_rng([seed, *method.encode()]).normal(0, SPREAD[method])
        status = "failed" if method == failing else "done"
        made = result(status, top1=MEANS[method] + noise)
        code = fingerprint.code_of(planned.trial)
        own = {"trial": planned.trial, "suite": part.suite.name, "code": code}
        part.store.record(made.model_copy(update=own), None)
    part.refresh()
    return True


def seeds_done(wide: Benchmark) -> Counter[str]:
    return Counter(p.trial.method for p in wide.planned if wide.status(p) == "done")


@pytest.mark.parametrize(
    ("own", "further"),
    [([0, 1], [*range(15)]), ([7, 3], [7, 3, 0, 1, 2, 4, 5, 6, *range(8, 15)])],
)
def test_seeds_are_the_suites_own_and_then_unused_numbers(
    own: list[int], further: list[int]
) -> None:
    content = {
        "name": "s", "dataset": "digits", "models": ["convnet_tiny"], "bits": ["1/1"],
        "methods": [{"method": "ste"}], "seeds": own,
    }  # fmt: skip
    assert seeds_of(Suite.model_validate(content)) == further


def test_every_row_first_gets_the_seeds_of_the_first_look(wide: Benchmark) -> None:
    counts = Counter(planned.trial.method for planned in next_trials(wide, verdicts(wide, 0.1)))
    assert counts == {"fp32": 5, "ste": 5, "dorefa": 5, "pact": 5}


def test_only_rows_that_are_not_told_apart_get_more(wide: Benchmark) -> None:
    parts: list[int] = []

    def interrupted(part: Benchmark) -> bool:
        parts.append(len(part.to_do()))
        if len(parts) == 2:
            part.planned = part.planned[:1]
        train(part)
        return len(parts) < 2

    found = resolve(wide, 0.01, interrupted)
    assert [(pair.verdict, pair.seeds) for pair in found] == [("open", 5), ("told", 5)]
    assert parts == [20, 15]  # three rows and full precision, then two rows and full precision

    found = resolve(wide, 0.01, train)  # the same command goes on
    assert [(pair.verdict, pair.seeds) for pair in found] == [("open", 15), ("told", 5)]
    done = seeds_done(wide)
    assert (done["ste"], done["dorefa"], done["pact"], done["fp32"]) == (15, 15, 5, 15)
    assert not next_trials(wide, found)

    suite = wide.suite.model_copy(update={"seeds": [0, 1]})
    file, count, _ = export(replace(wide, suite=suite), wide.results / "elsewhere")
    assert count == sum(done.values())
    assert len(exported.keys_in(file)) == count


def test_a_row_that_fails_gets_no_further_seeds(wide: Benchmark) -> None:
    resolve(wide, 0.01, lambda part: train(part, failing="dorefa"))
    assert seeds_done(wide)["dorefa"] == 0
    assert not next_trials(wide, verdicts(wide, 0.01))

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.estimate import Estimator
from tests.helpers.suites import GOOD


@pytest.mark.usefixtures("foreign_models")
def test_a_model_that_cannot_be_timed_leaves_the_others_estimated(
    tmp_path: Path, elsewhere: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(GOOD, encoding="utf-8")
    assignments = ["models=[convnet_tiny, fails_in_training]", "methods=[ste]", "seeds=[0]"]
    benchmark = Benchmark.open(suite, elsewhere, assignments)
    trials = [planned.trial for planned in benchmark.to_do()]
    estimator = Estimator(benchmark)
    seconds = {trial.model: estimator.seconds(trial) for trial in trials}
    assert seconds["convnet_tiny"] > 0
    assert seconds["fails_in_training"] != seconds["fails_in_training"]  # NaN
    assert estimator.total_seconds(trials) > 0
    assert estimator.disk_bytes(trials) > 0
    assert estimator.problems == ["the time of fails_in_training: AttributeError: no such thing"]

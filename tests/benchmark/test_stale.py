"""Numbers that are not to be trusted any more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from qbench import registry
from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.stale import set_aside
from qbench.train import fingerprint
from tests.helpers.exchanged import BEFORE, SUITE, filled


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """A suite that is done: full precision, and two methods that start from it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return filled(path, tmp_path / "results", BEFORE)


def stale(benchmark: Benchmark) -> dict[str, str]:
    """Of each method that has stale trials, why."""
    methods = {planned.trial.key: planned.trial.method for planned in benchmark.planned}
    return {methods[key]: reason for key, reason in benchmark.stale.items()}


def missing(benchmark: Benchmark) -> list[str]:
    """The methods of trials that are to be trained."""
    found = [planned for planned in benchmark.planned if benchmark.status(planned) == "missing"]
    return [planned.trial.method for planned in found]


def change(monkeypatch: pytest.MonkeyPatch, benchmark: Benchmark, method: str) -> None:
    """Have a method's code be another than it was."""
    benchmark.refresh()
    before = fingerprint._syntax
    changed = registry.method_class(method).__module__
    monkeypatch.setattr(
        fingerprint, "_syntax", lambda module: "new" if module == changed else before(module)
    )


def test_a_method_that_changed_makes_its_own_trials_stale(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stale(benchmark) == {}
    change(monkeypatch, benchmark, "ste")
    assert stale(benchmark) == {"ste": "ste's code has changed since it was trained"}
    assert Counter(benchmark.stale.values()) == {"ste's code has changed since it was trained": 2}
    assert set_aside(benchmark, ["stale"]) == 2
    assert missing(benchmark) == ["ste", "ste"]


def test_what_starts_from_a_stale_network_is_stale_too(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, benchmark, "fp32")
    own = "fp32's code has changed since it was trained"
    theirs = f"so is what it starts from: {own}"
    assert stale(benchmark) == {"fp32": own, "ste": theirs, "dorefa": theirs}


def test_with_a_full_precision_network_goes_what_starts_from_it(benchmark: Benchmark) -> None:
    assert set_aside(benchmark, ["dorefa"]) == 2
    assert set_aside(benchmark, ["fp32"]) == 4
    assert len(missing(benchmark)) == 6


@pytest.mark.parametrize("method", ["ste", "fp32"])
def test_a_raised_revision_makes_results_stale(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(registry.method_class(method), "revision", 3)
    benchmark.refresh()
    reason = f"{method} is at revision 3, and was at 1 in training"
    assert stale(benchmark)[method] == reason
    assert len(stale(benchmark)) == (3 if method == "fp32" else 1)


def test_a_raised_revision_of_what_methods_share_makes_all_results_stale(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "NUMERICS", 2)
    benchmark.refresh()
    reason = "the arithmetic that all methods share is at revision 2, and was at 1 in training"
    assert set(stale(benchmark)) == {"fp32", "ste", "dorefa"}
    assert reason in stale(benchmark)["ste"]

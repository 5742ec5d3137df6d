"""Numbers that are not to be trusted any more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from qbench import registry
from qbench.benchmark.benchmark import Benchmark
from qbench.benchmark.stale import set_aside
from qbench.spec.trial import Trial
from qbench.train import fingerprint
from tests.helpers import tuned
from tests.helpers.exchanged import BEFORE, SUITE, filled
from tests.helpers.results import result


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


def test_a_trial_that_is_set_aside_does_not_end_at_once_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "tuned.yaml"
    path.write_text(tuned.SUITE, encoding="utf-8")
    changes = ("recipe.initialization=scratch", "tuning.scheduler=asha", "recipe.epochs=9")
    benchmark = Benchmark.open(path, tmp_path / "results", changes)
    first, second = [p for p in benchmark.to_do() if p.trial.method == "dorefa"][:2]
    for each in (first, second):
        benchmark.spool.keep_checkpoint(each.trial.whole.key, b"after an epoch")
    tuned.record(benchmark, first, 90.0)
    benchmark.refresh()
    assert set_aside(benchmark, ["dorefa"]) == 1
    assert benchmark.spool.checkpoint(first.trial.whole.key) is None
    assert benchmark.spool.checkpoint(second.trial.whole.key)  # it has not ended


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


CHANGING = SUITE.replace("[2/32]", "[1/1]").replace("[ste, dorefa]", "[ste, xnor]")
CHANGED = "it started from weights of the unchanged network, and xnor changes it"


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """A suite that is done, in which a method changes its network."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(CHANGING, encoding="utf-8")
    return filled(path, tmp_path / "results", {"fp32": 99.0, "ste": 90.0, "xnor": 80.0})


def test_a_result_that_started_from_the_changed_network_is_current(changing: Benchmark) -> None:
    assert stale(changing) == {}
    for planned in changing.planned:
        source = changing.runs[planned.trial.key].tags.get("qbench.source")
        assert source == planned.trial.source


def test_a_result_without_a_recorded_start_is_stale_if_its_method_changes_the_network(
    changing: Benchmark,
) -> None:
    """Version 0.1.0 recorded no start: it was the unchanged network."""
    for run in changing.runs.values():
        for tag in ("qbench.source", "qbench.digest"):
            run.tags.pop(tag, None)
    assert stale(changing) == {"xnor": CHANGED}
    assert list(changing.stale.values()) == [CHANGED] * 2


def test_an_imported_result_that_started_from_the_unchanged_network_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of version 0.1.0 does not say what changed the network."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "small.yaml"
    path.write_text(CHANGING, encoding="utf-8")
    benchmark = Benchmark.open(path, tmp_path / "results")
    for planned in benchmark.planned:
        old = planned.trial.model_dump()
        if planned.trial.method != "fp32":
            old.pop("prepared", None)
        code = fingerprint.code_of(planned.trial)
        own = {"trial": Trial.model_validate(old), "suite": "small", "code": code}
        benchmark.store.record(result().model_copy(update=own), None)
    benchmark.refresh()
    assert stale(benchmark) == {"xnor": CHANGED}
    assert set_aside(benchmark, ["stale"]) == 2
    assert missing(benchmark) == ["xnor", "xnor"]


def test_an_edited_start_is_an_edited_result(changing: Benchmark) -> None:
    (key,) = (
        p.trial.key
        for p in changing.planned
        if p.trial.name.startswith("xnor 1/1") and not p.trial.seed
    )
    changing.runs[key].tags["qbench.source"] = "0123456789abcdef"
    assert changing.stale == {key: "what is stored of it was changed by hand"}


def test_a_change_of_the_method_makes_its_full_precision_network_stale(
    changing: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, changing, "xnor")
    reason = "xnor's code has changed since it was trained"
    own = {p.trial.name: p.trial.key for p in changing.planned}
    assert changing.stale[own["fp32 for xnor 32/32 convnet_tiny digits seed 0"]] == reason
    assert own["fp32 32/32 convnet_tiny digits seed 0"] not in changing.stale


def test_what_learns_from_a_stale_teacher_is_stale_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "taught.yaml"
    path.write_text(SUITE + "recipe: {teacher: {}, initialization: scratch}\n", encoding="utf-8")
    benchmark = filled(path, tmp_path / "results", BEFORE)
    change(monkeypatch, benchmark, "fp32")
    own = "fp32's code has changed since it was trained"
    theirs = f"so is its teacher: {own}"
    assert stale(benchmark) == {"fp32": own, "ste": theirs, "dorefa": theirs}
    assert set_aside(benchmark, ["fp32"]) == 6

from __future__ import annotations

from tests.conftest import TinyRun


def test_changing_one_option_touches_only_its_trials(tiny_run: TinyRun) -> None:
    trials = tiny_run.qbench.plan(tiny_run.suite, "--set", "methods.twn.threshold=0.5")
    missing = {(t["method"], t["bits"]) for t in trials if t["status"] == "missing"}
    assert missing == {("twn", "2/32")}


def test_plan_tells_what_is_done_and_what_cannot_be(tiny_run: TinyRun) -> None:
    trials = tiny_run.qbench.plan(tiny_run.suite)
    statuses = {(t["method"], t["bits"], t["seed"]): t["status"] for t in trials}
    assert statuses["ste", "2/2", 1] == "done"
    assert statuses["twn", "1/32", 0] == "unsupported"
    assert {"key", "method", "model", "dataset", "bits", "seed", "status"} <= trials[0].keys()
    shown = tiny_run.qbench("plan", tiny_run.suite, "--set", "seeds=[0, 1, 2]")
    assert "8 trials to train, about" in shown
    assert "its weights are ternary" in shown

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import QbenchHere, TinyRun


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
    shown = tiny_run.qbench.fresh("plan", tiny_run.suite, "--set", "seeds=[0, 1, 2]")
    assert "8 trials to train, about" in shown
    assert "its weights have 2 bits" in shown


def test_a_plan_of_one_seed_says_what_one_seed_cannot(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    plan = ("plan", small_suite, "--results", elsewhere)
    told = "One seed: no difference is tested, and no published number gets a verdict."
    assert told in qbench_here(*plan, "--set", "seeds=[0]")
    assert told not in qbench_here(*plan)


def test_a_plan_says_what_networks_take_that_given_weights_do_not_fit(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere, tmp_path: Path
) -> None:
    (tmp_path / "w.pt").write_bytes(b"anything")
    changes = ("methods=[xnor, hwgq, ste]", "bits=[1/1, 2/2]", "seeds=[0]")
    given = f"weights.convnet_tiny={tmp_path / 'w.pt'}"
    sets = (word for change in changes for word in ("--set", change))
    plan = ("plan", small_suite, "--results", elsewhere, *sets)
    told = "is of convnet_tiny as it is. Methods change it: 2 networks more to train"
    assert told in qbench_here(*plan, "--set", given)
    assert told not in qbench_here(*plan)


def test_a_plan_of_missing_data_exits_with_2(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QBENCH_DATA", raising=False)
    plan = ("plan", small_suite, "--results", elsewhere, "--set", "models=[resnet20]")
    told = qbench_here(*plan, "--set", "dataset=cifar10", code=2)
    assert "Missing: cifar10: where is it?" in told
    assert "trials to train, about" in told


def test_a_plan_with_nothing_to_train_says_whether_it_is_done_or_refused(
    small_suite: Path, small_results: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    plan = ("plan", small_suite, "--results", small_results)
    assert "All 6 trials are done; a run would train nothing." in qbench_here(*plan)
    mistaken = ("--set", 'layers=["!13"]')
    refused = qbench_here("plan", small_suite, "--results", elsewhere, *mistaken)
    assert "No trial of this suite can run; a run would train nothing." in refused
    one = ("--set", "methods=[fp32]", "--set", "seeds=[0]")
    assert "The only trial is done; a run would train nothing." in qbench_here(*plan, *one)


def test_exclusions_alone_are_told_what_to_write(
    small_suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    plan = ("plan", small_suite, "--results", elsewhere)
    told = qbench_here(*plan, "--set", 'layers=["!13"]')
    assert "layers=['!13'] only leaves layers out; write ['*', '!13']" in told


def test_the_options_of_a_method_of_a_file_can_be_set(
    small_suite: Path, elsewhere: Path, tmp_path: Path, qbench_here: QbenchHere
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from qbench_methods.ste import STE\n\n\nclass Own(STE):\n    power: float = 0.5\n"
    )
    plan = ("plan", small_suite, "--results", elsewhere, "--json", "--set", "methods.own.power=0.7")
    trials = json.loads(qbench_here(*plan, "--methods", file))["trials"]
    assert {t["options"].get("power") for t in trials if t["method"] == "own"} == {0.7}
    told = qbench_here(*plan, code=2)
    assert "'own' is not in 'methods'" in told
    assert "`--methods FILE.py` adds the methods of a file" in told

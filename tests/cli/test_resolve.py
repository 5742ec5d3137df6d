"""`qbench run --resolve` and `--budget`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import MakeQbench, QbenchHere
from tests.helpers.exchanged import BEFORE, SUITE, filled


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "five.yaml"
    path.write_text(SUITE.replace("[0, 1]", "[0, 1, 2, 3, 4]"), encoding="utf-8")
    return path


def test_it_prints_and_writes_which_neighbours_are_told_apart(
    suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    filled(suite, elsewhere, BEFORE, slope={"ste": 0.5})
    told = qbench_here("run", suite, "--results", elsewhere, "--resolve", 1)
    assert "convnet_tiny: neighbouring rows" in told
    assert "Of 1 pairs of neighbours 1 are told apart, 0 are tied within 1 points" in told
    (file,) = elsewhere.rglob("neighbours.csv")
    (row,) = pd.read_csv(file).to_dict("records")
    assert (row["better"], row["worse"], row["verdict"], row["seeds"]) == (
        "STE", "DoReFa-Net", "told", 5,
    )  # fmt: skip


def test_a_budget_that_is_spent_before_ray_has_started_is_told(
    suite: Path, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    told = qbench_in(tmp_path / "results")("run", suite, "--budget", "0.1s", code=1)
    assert "Stopped: the budget of 0.1s is spent: 0 of 15 trials done" in told
    assert "Go on with: qbench run" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--budget", "2 hours"), "'2 hours' is no time; write for example"),
     (("--resolve", "0"), "--resolve")],
)  # fmt: skip
def test_a_bad_budget_or_difference_is_refused(
    words: tuple[str, ...], message: str, suite: Path, elsewhere: Path, qbench_here: QbenchHere
) -> None:
    assert message in qbench_here("run", suite, "--results", elsewhere, *words, code=2)


@pytest.mark.slow
def test_a_spent_budget_stops_as_ctrl_c_does_and_the_same_command_goes_on(
    suite: Path, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    qbench = qbench_in(tmp_path / "results")
    words = ("run", suite, "--set", "recipe.epochs=2", "--set", "full_precision.epochs=2")
    told = qbench(*words, "--budget", "14s", code=1)
    assert "Stopped: the budget of 14s is spent" in told
    assert "Go on with: qbench run" in told
    told = qbench(*words)
    assert "done already" in told

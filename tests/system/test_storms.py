"""Commands and workers are killed again and again, and the tables come out the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.conftest import TINY, MakeQbench, Qbench
from tests.helpers.commands import tables
from tests.helpers.storms import Storm, Survived, run_through, runs_of

pytestmark = pytest.mark.slow

# 80 trials: enough that a command which lives some seconds leaves work for the next ones.
SUITE = TINY.replace("seeds: [0, 1]", f"seeds: {list(range(10))}").replace("epochs: 2", "epochs: 8")
STARTING_SECONDS = 10.0  # of a command, before its first trial trains
Calm = tuple[Path, Qbench, Survived]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, qbench_in: MakeQbench) -> Calm:
    """The suite, run undisturbed."""
    folder = tmp_path_factory.mktemp("calm")
    suite, qbench = folder / "storm.yaml", qbench_in(folder / "results")
    suite.write_text(SUITE, encoding="utf-8")
    return suite, qbench, run_through(qbench, Storm(), "run", suite)


@pytest.mark.parametrize(
    "storm",
    [Storm(drivers=20), Storm(workers=10), Storm(drivers=8, workers=8)],
    ids=["drivers", "workers", "both"],
)
def test_a_storm_changes_no_table(
    storm: Storm, calm: Calm, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    suite, undisturbed, took = calm
    if storm.drivers:
        longest = STARTING_SECONDS + 2 * took.seconds / storm.drivers
        storm = dataclasses.replace(storm, longest=longest)
    qbench = qbench_in(tmp_path / "results")
    survived = run_through(qbench, storm, "run", suite)
    print(f"undisturbed {took}\nsurvived {survived}")
    assert survived.drivers == storm.drivers
    assert survived.workers or not storm.workers
    assert tables(qbench.results / "tiny") == tables(undisturbed.results / "tiny")
    runs = runs_of(qbench.results)
    assert set(runs) == set(runs_of(undisturbed.results))
    for states in runs.values():
        assert states.count("FINISHED") == 1
        assert "RUNNING" not in states

"""Commands and workers are killed again and again, and the tables come out the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeQbench, TinyRun
from tests.storms import Storm, run_through, runs_of
from tests.test_cli import tables


@pytest.mark.slow
@pytest.mark.parametrize(
    "storm",
    [Storm(drivers=20, longest=20), Storm(workers=10), Storm(drivers=8, workers=8, longest=30)],
    ids=["drivers", "workers", "both"],
)
def test_a_storm_changes_no_table(
    storm: Storm, tiny_run: TinyRun, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    qbench = qbench_in(tmp_path / "results")
    survived = run_through(qbench, storm, "run", tiny_run.suite)
    assert survived.drivers == storm.drivers
    assert survived.workers or not storm.workers
    assert tables(qbench.results / "tiny") == tables(tiny_run.folder)
    runs = runs_of(qbench.results)
    assert set(runs) == set(runs_of(tiny_run.qbench.results))
    for states in runs.values():
        assert states.count("FINISHED") == 1
        assert "RUNNING" not in states

from __future__ import annotations

import time
from pathlib import Path

import pytest

from qbench.schedule import recorder
from tests.helpers.grids import Grid
from tests.helpers.training import trial


def test_what_the_store_refuses_is_delivered_when_it_is_back(tmp_path: Path) -> None:
    grid = Grid(tmp_path, [trial("ste", seed=seed) for seed in range(4)])
    grid.refusing = "database is locked"
    grid.finish()
    grid.finish()
    while grid.summary.unrecorded != "database is locked":
        time.sleep(0.01)
    grid.refusing = ""
    grid.finish()
    grid.close()
    assert sorted(grid.recorded) == sorted(o.trial.key for o in grid.heard.results)
    assert grid.summary.unrecorded == ""


def test_what_is_never_accepted_is_told_and_waits_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PATIENCE_SECONDS", 0.1)
    grid = Grid(tmp_path, [trial("ste", seed=seed) for seed in range(2)])
    grid.refusing = "no space left on device"
    grid.finish()
    grid.finish()
    grid.close()
    assert grid.summary.unrecorded == "no space left on device"
    assert len(list(grid.spool.waiting())) == 2

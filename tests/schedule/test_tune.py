from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import ray

from qbench.errors import QbenchError
from qbench.schedule import tune
from qbench.spec.trial import Trial
from qbench.store.spool import Spool
from qbench.suite.suite import Resources
from tests.helpers.grids import Heard, done
from tests.helpers.training import trial


def test_a_grid_goes_on_after_tune_has_fallen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [trial("ste", seed=seed) for seed in (0, 1)]
    falls, names = [True, True, False], itertools.count()

    def fallible(backlog: Any, *arguments: Any) -> None:
        while (config := backlog.suggest(name := f"{next(names)}")) != "FINISHED":
            backlog.started(name)
            what = Trial.model_validate_json(config["trial"])
            if falls.pop(0):
                raise ray.exceptions.OutOfMemoryError("gone")
            spool.put(done(what), None)
            backlog.on_trial_complete(name, {"done": True})
            falls.append(False)

    spool, heard = Spool(tmp_path), Heard()
    monkeypatch.setattr(tune, "_train", fallible)
    monkeypatch.setattr(tune, "connect", Mock())
    resources = Resources()
    summary = tune.run("suite", trials, spool, Mock(), Mock(), heard, resources)
    assert [result.status for result in heard.results] == ["done", "done"]
    assert summary.ended == 2
    assert (summary.stopped, summary.interrupted) == ("", False)
    falls[:] = [True] * 9
    again = [trial("ste", seed=seed) for seed in range(5, 15)]
    summary = tune.run("suite", again, spool, Mock(), Mock(), heard, resources)
    assert summary.stopped == "the machine ran out of memory"
    assert {result.status for result in heard.results[2:]} == {"failed"}


def test_nothing_is_trained_if_it_could_not_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, disconnect = Mock(), Mock()
    monkeypatch.setattr(tune, "_train", train)
    monkeypatch.setattr(tune, "connect", Mock())
    monkeypatch.setattr(tune, "disconnect", disconnect)
    check = Mock(side_effect=QbenchError("read-only"))
    with pytest.raises(QbenchError, match="read-only"):
        tune.run("suite", [trial("ste")], Spool(tmp_path), check, Mock(), Heard(), Resources())
    train.assert_not_called()
    assert disconnect.called

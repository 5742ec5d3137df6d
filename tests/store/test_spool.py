from __future__ import annotations

from pathlib import Path

import pytest

from qbench.spec.result import QuantizerCurve
from qbench.store.spool import Spool
from tests.helpers.results import result


def test_a_waiting_result_is_returned_as_it_was_put(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    late, early = result(seed=1), result(seed=0).model_copy(update={"started": 1.0})
    spool.put(late, b"weights")
    spool.put(early, None)
    assert list(spool.waiting()) == [early, late]
    assert (spool.folder(late.trial.key) / "weights.pt").read_bytes() == b"weights"
    spool.discard(early.trial.key)
    assert list(spool.waiting()) == [late]


def test_a_half_written_result_is_ignored(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(result(), None)
    (spool.folder(result().trial.key) / "outcome.json").write_text('{"trial": {')
    assert list(spool.waiting()) == []


def test_a_result_replaces_an_older_one_and_its_weights(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.put(result("failed"), b"weights")
    done = result()
    spool.put(done, None)
    assert spool.get(done.trial.key) == done
    assert not (spool.folder(done.trial.key) / "weights.pt").exists()


def test_a_checkpoint_lasts_until_its_trial_is_done(tmp_path: Path) -> None:
    spool, done = Spool(tmp_path), result()
    key = done.trial.key
    assert spool.checkpoint(key) is None
    spool.keep_checkpoint(key, b"first")
    spool.keep_checkpoint(key, b"second")
    spool.put(result("failed"), None)  # it continues from the checkpoint when it is tried again
    assert spool.checkpoint(key) == b"second"
    spool.put(done, None)
    assert spool.checkpoint(key) is None


def test_a_longer_trial_goes_on_from_the_checkpoint_of_a_stopped_one(tmp_path: Path) -> None:
    spool, whole = Spool(tmp_path), result().trial.changed(validation=50)
    stopped = whole.changed(stop_after=1)
    spool.keep_checkpoint(whole.key, b"after one epoch")
    spool.put(result().model_copy(update={"trial": stopped}), None)
    assert spool.checkpoint(whole.key) == b"after one epoch"
    spool.put(result().model_copy(update={"trial": whole}), None)
    assert spool.checkpoint(whole.key) is None


def test_the_progress_of_a_trial_is_forgotten_when_it_ends(tmp_path: Path) -> None:
    spool, failed = Spool(tmp_path), result("failed")
    assert spool.progress(failed.trial.key) == 0
    spool.keep_progress(failed.trial.key, 7)
    assert spool.progress(failed.trial.key) == 7
    spool.put(failed, None)
    assert spool.progress(failed.trial.key) == 0


def test_weights_are_copied_for_the_trials_that_start_from_them(tmp_path: Path) -> None:
    spool, file = Spool(tmp_path / "spool"), tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    spool.keep_weights("key", file)
    assert spool.weights("key") == b"weights"
    assert file.exists()


def test_one_command_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.lock(wait=False) as first, spool.lock(wait=False) as second:
        assert (first, second) == (True, False)
    with spool.lock(wait=False) as again:
        assert again


@pytest.mark.parametrize("method", [Spool.checkpoint, Spool.progress, Spool.get])
def test_reading_an_empty_spool_creates_nothing(tmp_path: Path, method: object) -> None:
    root = tmp_path / "spool"
    assert callable(method)
    assert not method(Spool(root), "key")
    assert list(Spool(root).waiting()) == []
    assert not root.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_result_that_is_not_finite_is_returned_as_it_was_put(
    tmp_path: Path, value: float
) -> None:
    spool, put = Spool(tmp_path), result()
    put.metrics["test_loss"] = value
    put.history[0]["test_loss"] = value
    curve = {"layer": "3", "x": [0.0], "soft": {1: [value]}, "hard": [0.0]}
    put.curve = QuantizerCurve.model_validate(curve)
    spool.put(put, None)
    assert repr(spool.get(put.trial.key)) == repr(put)

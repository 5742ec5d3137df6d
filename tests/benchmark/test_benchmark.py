from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbench.benchmark import exchange, finished, leaderboard
from qbench.benchmark.benchmark import Benchmark
from qbench.registry import method_class
from tests.helpers.exchanged import BEFORE, SUITE, filled
from tests.helpers.permissions import only_readable


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.mark.parametrize("opened", [Benchmark.open, Benchmark.rehearse])
def test_results_do_not_depend_on_the_working_directory(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: object
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert callable(opened)
    benchmark = opened(suite, Path("results"))
    for path in (benchmark.results, benchmark.spool.root, benchmark.folder):
        assert path.is_relative_to(tmp_path / "results")
    assert str(tmp_path / "results") in benchmark.store.address


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A results folder in which ``small.yaml`` is done, and that this user may only read."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = Path(tempfile.mkdtemp())
    suite = folder / "small.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    leaderboard.write(filled(suite, folder, BEFORE))  # which imports what writing takes
    shutil.rmtree(folder / "small")
    with only_readable(folder):
        yield folder
    shutil.rmtree(folder)


def test_results_that_may_only_be_read_can_be_looked_at(shared: Path) -> None:
    benchmark = Benchmark.open(shared / "small.yaml", shared)
    assert {benchmark.status(planned) for planned in benchmark.planned} == {"done"}
    assert not benchmark.to_do()
    assert len(finished.load(shared, shared)) == len(benchmark.planned)
    target = Path(tempfile.mkdtemp())
    _, count, left_out = exchange.export(benchmark, target)
    assert (count, left_out) == (len(benchmark.planned), [])
    written = leaderboard.write(benchmark).files
    assert written
    assert all(not path.is_relative_to(shared) for path in written)


def test_a_result_counts_where_the_library_of_its_method_is_not_installed(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    results = tmp_path / "results"
    before = filled(suite, results, BEFORE)
    needed = "needs a library: pip install it"
    monkeypatch.setattr(method_class("dorefa"), "supports", lambda *_: needed)

    elsewhere = Benchmark.open(suite, tmp_path / "elsewhere")
    reasons = {elsewhere.reason(each) for each in elsewhere.planned}
    assert reasons == {"", needed}

    here = Benchmark.open(suite, results)
    assert {here.status(each) for each in here.planned} == {"done"}
    assert here.trials()["top1"].tolist() == before.trials()["top1"].tolist()
    assert exchange.export(here, tmp_path)[1] == len(before.planned)

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.benchmark.benchmark import Benchmark
from tests.helpers.exchanged import SUITE


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
    assert str(tmp_path / "results") in benchmark.store.uri

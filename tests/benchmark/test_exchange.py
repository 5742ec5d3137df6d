from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pytest

from qbench.benchmark import exchange
from qbench.benchmark.benchmark import Benchmark
from qbench.cli import main as cli
from qbench.errors import QbenchError
from qbench.report.columns import TRIAL_COLUMNS
from qbench.store.mlflow import Store
from qbench.store.tags import was_imported
from tests.helpers.exchanged import BEFORE, SUITE, filled
from tests.helpers.results import result


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "small.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a store that has nothing: making one takes seconds, a copy does not."""
    folder = tmp_path_factory.mktemp("empty")
    Store(folder, local=True).finished()
    return folder


@pytest.fixture
def there(empty: Path, tmp_path: Path) -> Path:
    """A results folder of somebody else."""
    return Path(shutil.copytree(empty, tmp_path / "there"))


@pytest.fixture(scope="module")
def before(suite: Path, empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which the suite is done."""
    folder = shutil.copytree(empty, tmp_path_factory.mktemp("results") / "before")
    return filled(suite, Path(folder), BEFORE).results


@pytest.fixture(scope="module")
def exported(suite: Path, before: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as files."""
    folder = tmp_path_factory.mktemp("exported")
    exchange.export(Benchmark.open(suite, before), folder)
    return folder


def test_what_is_exported_is_what_was_recorded(suite: Path, before: Path, tmp_path: Path) -> None:
    benchmark = Benchmark.open(suite, before)
    files, left_out = exchange.export(benchmark, tmp_path / "out")
    assert not left_out
    assert sorted(p.stem for p in files) == sorted(benchmark.runs)
    content = json.loads(files[0].read_text())
    assert content["key"] == files[0].stem
    assert not content.keys() & {"weights", "curve", "examples", "traceback"}
    assert content["metrics"] == {"top1": 99.0}
    assert content["history"][0]["epoch"] == 1
    assert content["environment"] == {"torch": "2"}
    first = files[0].read_bytes()
    exchange.export(benchmark, tmp_path / "out")
    assert files[0].read_bytes() == first


def test_every_column_of_trials_is_described(suite: Path, before: Path) -> None:
    columns = list(Benchmark.open(suite, before).trials())
    assert columns == [name for name in TRIAL_COLUMNS if name in columns]


def test_results_combine_by_putting_files_together(
    suite: Path, before: Path, exported: Path, there: Path
) -> None:
    store = Store(there)
    found = list(exchange.read([exported]))
    assert len(exchange.merge(found, store).added) == 6
    again = exchange.merge(found, store)
    assert (len(again.added), len(again.duplicates), again.conflicts) == (0, 6, [])
    theirs = Benchmark.open(suite, there)
    assert [theirs.status(planned) for planned in theirs.planned] == ["done"] * 6
    pd.testing.assert_frame_equal(theirs.trials(), Benchmark.open(suite, before).trials())


def test_a_conflict_is_told_and_nothing_is_overwritten(there: Path) -> None:
    store = Store(there)
    ours, theirs = result(top1=90.0), result(top1=80.0)
    store.record(ours, None)
    merged = exchange.merge([(Path("theirs.json"), theirs)], store)
    (conflict,) = merged.conflicts
    assert (conflict.place, conflict.text) == (Path("theirs.json"), "top1 90, not 80")
    (run,) = store.finished()
    assert store.metrics(run) == {"top1": 90.0}


def test_files_among_themselves_can_conflict(there: Path) -> None:
    found = [(Path(f"{i}.json"), result(top1=top1)) for i, top1 in enumerate((90.0, 90.0, 80.0))]
    merged = exchange.merge(found, Store(there))
    assert len(merged.added) == 1
    assert merged.duplicates == [Path("1.json")]
    assert [conflict.place for conflict in merged.conflicts] == [Path("2.json")]


def test_full_precision_from_elsewhere_is_trained_where_its_weights_are_wanted(
    suite: Path, exported: Path, there: Path
) -> None:
    found = exchange.read([exported])
    full = [each for each in found if each[1].trial.method == "fp32"]
    exchange.merge(full, Store(there))
    benchmark = Benchmark.open(suite, there)
    assert len(benchmark.to_do()) == 6
    assert all(was_imported(run) for run in benchmark.runs.values())
    for planned in benchmark.planned[:2]:  # once it has been
        weights = benchmark.spool.weights_path(planned.trial.key)
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"weights")
    assert len(benchmark.to_do()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("format"), "format is None, not 'qbench-result-1'"),
        (lambda c: c["trial"].update(seed=7), "its key is "),
        (lambda c: c.pop("status"), "status: field required"),
        (lambda c: c["trial"]["recipe"].update(lr="fast"), "trial.recipe.lr: "),
    ],
)
def test_a_file_that_is_none_is_told(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    content = json.loads(exchange.as_text(result()))
    change(content)
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(QbenchError, match=r"x.json: ") as told:
        list(exchange.read([tmp_path / "x.json"]))
    assert message in str(told.value)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(QbenchError, match=r"x.json: not JSON"):
        list(exchange.read([tmp_path]))
    with pytest.raises(QbenchError, match=r"y.json: No such file"):
        list(exchange.read([tmp_path / "y.json"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(QbenchError, match=r"has no .json files"):
        list(exchange.read([tmp_path / "empty"]))


class Run(Protocol):
    def __call__(self, *words: object, code: int = 0) -> str: ...


# Through the command line --------------------------------------------------------------------


@pytest.fixture
def qbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["qbench", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert ended.value.code == code, captured
        return captured.out + captured.err

    return run


def test_results_travel_by_commands(
    suite: Path, before: Path, there: Path, tmp_path: Path, qbench: Run
) -> None:
    assert "Wrote 6 trials" in qbench("export", suite, tmp_path / "out", "--results", before)
    assert "6 trials added, 0 there" in qbench("import", tmp_path / "out", "--results", there)
    assert "3 results: 3 same" in qbench("compare", tmp_path / "out", there)
    qbench("leaderboard", suite, "--results", there)
    csv = there / "small" / "trials.csv"
    assert "3 results: 3 same" in qbench("compare", csv, suite, "--results", before)


def test_commands_tell_what_differs(
    suite: Path, before: Path, exported: Path, there: Path, qbench: Run
) -> None:
    filled(suite, there, {**BEFORE, "ste": 85.0})
    told = qbench("import", exported, "--results", there, code=1)
    assert "0 trials added, 4 there already" in told
    assert "is there with top1 85, not 90" in told
    told = qbench("compare", before, there, code=1)
    assert "STE" in told
    assert "DoReFa" not in told
    assert "2 with one key and two numbers" in told
    found = json.loads(qbench("compare", before, there, "--json", code=1))
    verdicts = {each["label"]: each["verdict"] for each in found}
    assert verdicts == {"Full precision": "same", "STE": "not tested", "DoReFa-Net": "same"}


def test_what_was_edited_does_not_travel(
    suite: Path, before: Path, there: Path, tmp_path: Path, qbench: Run
) -> None:
    shutil.copytree(before, there, dirs_exist_ok=True)
    edit = "UPDATE latest_metrics SET value = 99.9 WHERE key = 'final_top1' AND value = 90.0"
    with closing(sqlite3.connect(there / "mlflow.db")) as database, database:
        assert database.execute(edit).rowcount == 1
    told = qbench("export", suite, tmp_path / "out", "--results", there)
    assert "Wrote 5 trials" in told
    assert "Left out: ste 2/32 convnet_tiny digits seed 0: what is stored of it" in told
    for side in (there, suite):  # `there` is where the suite's trials are looked up
        told = qbench("compare", before, side, "--results", there, code=1)
        assert "1 stale in B: what is stored of it was changed by hand" in told


def test_mistakes_are_told(tmp_path: Path, there: Path, suite: Path, qbench: Run) -> None:
    told = qbench("compare", suite.with_name("smal.yaml"), suite, code=2)
    assert "no such file or folder; did you mean 'small.yaml'?" in told
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    told = qbench("compare", tmp_path / "x.csv", suite, code=2)
    assert "x.csv: has no column 'key'; give a trials.csv" in told
    (tmp_path / "x.txt").write_text("")
    assert "compare suites (.yaml)" in qbench("compare", tmp_path / "x.txt", suite, code=2)
    told = qbench("compare", suite, suite, "--results", there, code=2)
    assert "small.yaml: nothing in it is finished" in told
    assert "No such file" in qbench("import", tmp_path / "no.json", code=2)

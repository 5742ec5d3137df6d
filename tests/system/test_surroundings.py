"""What a run stands on goes wrong: the clock, the database, shared memory."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from qbench.data.synthetic import imagenet_like
from tests.conftest import MakeQbench, Qbench, TinyRun
from tests.helpers.commands import read_until, start, tables
from tests.helpers.storms import runs_of

pytestmark = pytest.mark.slow

# Every process of Python imports it first.
CLOCK = """\
import time

_now = time.time
time.time = lambda: _now() + 86_400 * (-1) ** int(_now() // 2)
"""

LOADED = """\
name: loaded
dataset: imagenet
data: {{root: '{data}'}}
models: [resnet18]
bits: [1/32]
methods: [fp32]
seeds: [0]
full_precision: {{epochs: 1, steps: 2, batch_size: 16}}
resources: {{cpus: 2}}
"""


def test_a_clock_that_jumps_by_days_changes_no_table(
    tmp_path: Path, tiny_run: TinyRun, qbench_in: MakeQbench
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK, encoding="utf-8")
    qbench = qbench_in(tmp_path / "results")
    qbench.environment["PYTHONPATH"] = str(tmp_path)
    qbench.fresh("run", tiny_run.suite)
    assert tables(qbench.results / "tiny") == tables(tiny_run.folder)
    trials = pd.read_csv(qbench.results / "tiny/trials.csv")
    assert trials["seconds"].dropna().between(0, 300).all()
    assert "nothing to train" in qbench.fresh("run", tiny_run.suite)


def test_a_database_that_somebody_locks_loses_nothing(
    tmp_path: Path, tiny_run: TinyRun, qbench_in: MakeQbench
) -> None:
    qbench = qbench_in(tmp_path / "results")
    process = start(qbench, "run", tiny_run.suite)
    read_until(process, "[ 4/16]")
    with closing(sqlite3.connect(qbench.results / "mlflow.db", timeout=60)) as database:
        database.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in qbench("plan", tiny_run.suite, code=2)
        read_until(process, "[10/16]")  # training goes on
        database.rollback()
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "Not recorded" not in output
    assert tables(qbench.results / "tiny") == tables(tiny_run.folder)
    assert all(states == ["FINISHED"] for states in runs_of(qbench.results).values())


def with_shared_memory(size: str, command: list[str]) -> list[str]:
    """A command for which /dev/shm has a size, and nothing else changes."""
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", *command]


class Cramped(Qbench):
    """The command line on a machine with 1 MB of shared memory."""

    def command(self, *arguments: str | Path) -> list[str]:
        return with_shared_memory("1m", super().command(*arguments))


@pytest.fixture
def cramped(tmp_path: Path, qbench_in: MakeQbench) -> Cramped:
    there = shutil.which("unshare")
    if there is None or subprocess.run(with_shared_memory("1m", ["true"]), check=False).returncode:
        pytest.skip("this user may mount nothing")
    return Cramped(tmp_path / "results", qbench_in(tmp_path / "results").environment)


def test_without_shared_memory_what_needs_none_is_trained(
    cramped: Cramped, tiny_run: TinyRun
) -> None:
    cramped.fresh("run", tiny_run.suite)
    assert tables(cramped.results / "tiny") == tables(tiny_run.folder)


def test_without_shared_memory_what_needs_some_fails_and_says_so(
    cramped: Cramped, tmp_path: Path, qbench_in: MakeQbench
) -> None:
    imagenet_like.write(tmp_path / "data", classes=10, per_class=10, size=64)
    (tmp_path / "loaded.yaml").write_text(LOADED.format(data=tmp_path / "data"), encoding="utf-8")
    output = cramped.fresh("run", tmp_path / "loaded.yaml", code=1)
    assert "shared memory" in output
    assert "1 failed" in output
    output = qbench_in(cramped.results)("run", tmp_path / "loaded.yaml")
    assert "1 trial to train" in output

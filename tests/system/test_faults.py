"""Methods that do wrong and a disk that is full cost only the trials that they hit."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import MakeQbench, TinyRun
from tests.helpers.commands import tables
from tests.helpers.plugins import HOOKS, WRONG

SUITE = """\
name: wrong
dataset: digits
models: [convnet_tiny]
bits: [1/32]
methods: [binary_connect]
seeds: [0]
recipe: {name: aligned, epochs: 3, steps: 2, initialization: scratch}
resources: {time_limit: 60 s, memory: 1.5}
"""


@pytest.mark.slow
def test_whatever_methods_do_each_fails_alone(tmp_path: Path, qbench_in: MakeQbench) -> None:
    (tmp_path / "wrong.yaml").write_text(SUITE, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    qbench = qbench_in(tmp_path / "results")
    arguments = ("run", tmp_path / "wrong.yaml", "--methods", tmp_path / "wrong.py")
    output = qbench(*arguments, code=1, timeout=900)
    trials = pd.read_csv(qbench.results / "wrong/trials.csv").set_index("method")
    assert len(output) < 40_000  # what methods print does not reach the terminal
    alive = {"binary_connect", "base", "prints", "forks"}
    assert set(trials.index[trials["status"] == "done"]) == alive
    reasons = trials["reason"]
    for hook in HOOKS:
        assert reasons[f"in_{hook}"] == f"RuntimeError: wrong in {hook}"
    assert reasons["hangs"] == "it took longer than its time limit of 60 s"
    assert "GiB of memory, and may take 1.5" in reasons["leaks"]
    assert reasons["nan_later"] == "the training loss is nan in epoch 3"
    assert reasons["interrupts"] == "the method raised KeyboardInterrupt"
    for killed in ("crashes", "kills_itself"):
        assert reasons[killed].startswith("its worker died")
        assert reasons[killed].endswith("tried 3 times")
        assert f"{killed}: its worker died" in output
    table = (qbench.results / "wrong/leaderboard.md").read_text(encoding="utf-8")
    assert all(reason in table for reason in reasons.dropna())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.9 MB, room for a database and a few trials."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1900k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mounting, check=False).returncode:
        pytest.skip("this user may mount nothing")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_is_told_and_costs_nothing_that_was_finished(
    small_disk: Path, tiny_run: TinyRun, qbench_in: MakeQbench
) -> None:
    qbench = qbench_in(small_disk / "results")
    output = qbench.fresh("run", tiny_run.suite, code=2)
    assert "No space left on device; tried 3 times" in output
    assert output.endswith("qbench: No space left on device\n")
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    output = qbench.fresh("run", tiny_run.suite)
    assert "16 trials to train, 0 of 16" not in output
    assert tables(small_disk / "results/tiny") == tables(tiny_run.folder)

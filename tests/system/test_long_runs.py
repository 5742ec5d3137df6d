"""What a run of days relies on: killed trials go on, and several processes train one trial."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Qbench
from tests.helpers.plugins import BAD

MakeQbench = Callable[[Path], Qbench]
SLOW_METHOD = '''
import time
from qbench.functional import sign, straight_through
from qbench.method import Binary, Method
import torch

class SlowSign(Method):
    """Binary weights, and epochs that last."""

    weights = Binary()

    def weight_quantizer(self, layer, weight):
        return Sign()

    def on_epoch_start(self, epoch, epochs):
        time.sleep(12)

class Sign(torch.nn.Module):
    def forward(self, w):
        return straight_through(w, w.abs().mean() * sign(w))
'''
SUITE = """\
name: long
dataset: digits
models: [convnet_tiny]
bits: [1/32]
methods: []
seeds: [0]
recipe: {name: aligned, epochs: 6, initialization: scratch}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "long.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_killed_trial_goes_on_in_the_epoch_in_which_it_was(
    tmp_path: Path, suite: Path, qbench_in: MakeQbench
) -> None:
    method = tmp_path / "slow_sign.py"
    method.write_text(SLOW_METHOD, encoding="utf-8")
    arguments = ("run", suite, "--methods", method)

    undisturbed = qbench_in(tmp_path / "undisturbed")
    undisturbed(*arguments)

    qbench = qbench_in(tmp_path / "killed")
    process = subprocess.Popen(
        qbench.command(*arguments),
        env=qbench.environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    checkpoints = qbench.results / ".state" / "checkpoints"
    until = time.monotonic() + 200
    while not list(checkpoints.glob("*.pt")) and time.monotonic() < until:
        time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(checkpoints.glob("*.pt"))
    start = time.monotonic()
    qbench(*arguments)
    assert time.monotonic() - start < 5 * 12 + 40  # not all six epochs again
    assert not list(checkpoints.glob("*.pt"))
    for name in ("leaderboard.md", "leaderboard.csv", "training_curves.svg"):
        disturbed = (qbench.results / "long" / name).read_bytes()
        assert disturbed == (undisturbed.results / "long" / name).read_bytes()


@pytest.mark.slow
def test_processes_train_a_trial_together_through_the_command_line(
    tmp_path: Path, suite: Path, qbench_in: MakeQbench
) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(BAD, encoding="utf-8")
    changes: list[str | Path] = ["--methods", bad]
    changes += ["--set", "methods=[quantization_networks, raises, dies]"]
    qbench = qbench_in(tmp_path / "results")
    qbench.fresh("run", suite, *changes, "--set", "resources={processes: 2, cpus: 2}", code=1)
    frame = pd.read_csv(qbench.results / "long" / "trials.csv")
    trials = {str(row["method"]): row for row in frame.to_dict("records")}
    trained = trials["quantization_networks"]
    assert trained["status"] == "done"
    assert trained["top1"] > 60
    assert trials["raises"]["reason"] == "RuntimeError: no such luck"
    assert str(trials["dies"]["reason"]).startswith("its worker died")
    record = json.loads(qbench("show", str(trained["key"]), "--json"))
    assert record["trial"]["processes"] == 2
    alone = {trial["key"] for trial in qbench.plan(suite, *changes)}
    assert not alone & set(frame["key"])
    told = qbench.fresh(
        "run", suite, *changes, "--set", "resources={processes: 9, cpus: 90}", code=2
    )
    assert "10 CPUs and 0 GPUs for each of 9 processes, and the largest node has" in told

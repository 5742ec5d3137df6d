"""Python files of methods, models and datasets on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeQbench, Qbench

METHOD = """
from qbench.functional import round_ste
from qbench.method import Integers, Method
from torch import nn

class Halves(nn.Module):
    def forward(self, w):
        return round_ste(w * 2).clamp(-1, 1) / 2

class Own(Method):
    title = "Own"
    weights = Integers(bits=(2,), symmetric=True, scales=0)
    def weight_quantizer(self, layer, weight):
        return Halves()
"""
MODEL = """
from torch import nn

def small_mlp(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64 * in_channels, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(),
        nn.Linear(16, num_classes),
    )
"""
DATASET = """
from qbench.data.digits import Digits

class OddOrEven(Digits):
    title = "Odd or even"
    num_classes = 2

    def train(self):
        return [(x, y % 2) for x, y in super().train()]

    def test(self):
        return [(x, y % 2) for x, y in super().test()]
"""
SUITE = """
name: own
dataset: odd_or_even
models: [small_mlp]
bits: [2/32]
methods: [own]
seeds: [0]
recipe: {name: aligned, epochs: 1}
full_precision: {epochs: 1}
"""


@pytest.fixture
def qbench(qbench_in: MakeQbench, tmp_path: Path) -> Qbench:
    return qbench_in(tmp_path / "results")


@pytest.fixture
def words(tmp_path: Path) -> list[str | Path]:
    """The suite, and an option for each file that it needs."""
    (tmp_path / "own.yaml").write_text(SUITE, encoding="utf-8")
    found: list[str | Path] = [tmp_path / "own.yaml"]
    for kind, text in (("methods", METHOD), ("models", MODEL), ("datasets", DATASET)):
        file = tmp_path / f"my_{kind}.py"
        file.write_text(text, encoding="utf-8")
        found += [f"--{kind}", file]
    return found


def test_files_of_each_kind_reach_the_workers(qbench: Qbench, words: list[str | Path]) -> None:
    qbench("run", *words)
    table = (qbench.results / "own" / "leaderboard.md").read_text(encoding="utf-8")
    assert "Own" in table
    assert {trial["status"] for trial in qbench.plan(*words)} == {"done"}


def test_files_are_listed(qbench: Qbench, words: list[str | Path]) -> None:
    assert "small_mlp" in qbench.fresh("list", "models", *words[3:5])
    assert "odd_or_even" in qbench("list", "datasets", *words[5:])


def test_without_its_file_a_name_is_unknown(qbench: Qbench, words: list[str | Path]) -> None:
    output = qbench("plan", *words[:3], code=2)
    assert "no dataset is named 'odd_or_even'" in output
    assert "`--datasets FILE.py` adds the datasets of a file" in output
    assert "no model is named 'small_mlp'" in output
    assert "`--models FILE.py` adds the models of a file" in output

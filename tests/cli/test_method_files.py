"""Mistakes in method files and in options of methods, as the command line reports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeQbench, Qbench

METHOD = """\
from typing import Annotated

from qbench.method import Field, Method, Recipe


class Bounded(Method):
    paper_recipe = Recipe(optimizer="sgd", lr=0.1, epochs=9, batch_size=8)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
"""
SUITE = """\
name: bounded
dataset: digits
models: [convnet_tiny]
bits: [2/32]
methods:
  - bounded: {}
seeds: [0]
recipe: {name: aligned, epochs: 1}
"""


@pytest.fixture
def qbench(qbench_in: MakeQbench, tmp_path: Path) -> Qbench:
    return qbench_in(tmp_path / "results")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bounded.py"
    path.write_text(METHOD, encoding="utf-8")
    return path


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "bounded.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


def line(output: str) -> str:
    """The only line of an output, without what the terminal adds to it."""
    (found,) = output.strip().splitlines()
    return found


def test_a_misspelt_key_of_a_paper_recipe_ends_in_one_line(
    qbench: Qbench, file: Path, suite: Path
) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("epochs=9", "epoch=9"), encoding="utf-8")
    place = 1 + text[: text.index("paper_recipe")].count("\n")
    commands: list[list[str | Path]] = [["check", file], ["plan", suite, "--methods", file]]
    for command in commands:
        found = line(qbench(*command, code=2))
        assert f"{file}:{place}: Recipe: epoch: " in found
        assert "did you mean 'epochs'" in found


def test_an_option_out_of_bounds_in_a_suite_ends_in_one_line(
    qbench: Qbench, file: Path, suite: Path
) -> None:
    text = SUITE.replace("{}", "{momentum: 7}")
    suite.write_text(text, encoding="utf-8")
    place = 1 + text[: text.index("momentum")].count("\n")
    found = line(qbench("plan", suite, "--methods", file, code=2))
    assert f"{suite}:{place}: " in found
    assert "momentum" in found
    assert "less than 1" in found


def test_an_option_out_of_bounds_given_by_set_ends_in_one_line(
    qbench: Qbench, file: Path, suite: Path
) -> None:
    change = ["--set", "methods.bounded.momentum=7"]
    commands: list[list[str | Path]] = [
        ["plan", suite, "--methods", file, *change],
        ["check", file, "--set", "momentum=7"],
    ]
    for command in commands:
        found = line(qbench(*command, code=2))
        assert "momentum" in found
        assert "less than 1" in found


def test_a_bound_that_is_kept_is_accepted(qbench: Qbench, file: Path, suite: Path) -> None:
    trials = qbench.plan(suite, "--methods", file, "--set", "methods.bounded.momentum=0.5")
    assert {trial["method"] for trial in trials} == {"fp32", "bounded"}

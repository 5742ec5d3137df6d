"""Writing a method of one's own: `qbench new-method`, and what the documentation shows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qbench.lab.check import check
from qbench.plugins import Plugin, load_plugin
from tests.conftest import Qbench
from tests.helpers.plugins import RUNNING

ROOT = Path(__file__).parents[2]


@pytest.fixture
def qbench(qbench_in: Callable[[Path], Qbench], tmp_path: Path) -> Qbench:
    return qbench_in(tmp_path / "results")


def test_a_new_method_keeps_the_contract_passes_its_test_and_is_in_the_table(
    qbench: Qbench, tmp_path: Path, tiny_suite: Path
) -> None:
    output = qbench.fresh("new-method", "half_wave", "--in", tmp_path)
    file = tmp_path / "half_wave.py"
    assert f"qbench check {file}" in output
    assert "half_wave keeps the contract" in qbench("check", file, "--quick")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tmp_path / "test_half_wave.py", "-k", "paper"],
        capture_output=True,
        text=True,
    )
    assert "1 passed" in done.stdout
    narrow = ["--set", "methods=[half_wave]", "--set", "bits=[2/32]", "--set", "seeds=[0]"]
    qbench("run", tiny_suite, "--methods", file, *narrow)
    assert "Half wave" in (qbench.results / "tiny" / "leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_new_methods_own_test_passes(qbench: Qbench, tmp_path: Path) -> None:
    qbench("new-method", "half_wave", "--in", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tmp_path / "test_half_wave.py"],
        capture_output=True,
        text=True,
    )
    assert "26 passed" in done.stdout, done.stdout


def test_a_file_that_is_there_is_left_as_it_is(qbench: Qbench, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("mine", encoding="utf-8")
    output = qbench("new-method", "mine", "--in", tmp_path, code=2)
    assert "test_mine.py is there already" in output
    assert (tmp_path / "test_mine.py").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "mine.py").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HalfWave", "write half_wave"),
        ("half-wave", "write half_wave"),
        ("../up", "write up"),
        ("dorefa", "there is a method 'dorefa' already"),
        ("none", "a word of Python's own"),
        ("true", "a word of Python's own"),
        ("lambda", "a word of Python's own"),
        ("random", "a module of Python's standard library"),
        ("torch", "an installed package, which the file would hide; give the method another name"),
        ("qbench", "an installed package"),
        ("on", "a word of YAML"),
        ("null", "a word of YAML"),
        ("label", "a key of a row in a suite"),
        ("conftest", "a file of settings to pytest"),
        ("value_error", "its class would hide Python's own ValueError"),
        ("layer", "its class would hide the Layer that the file uses"),
        ("weight_quantizer", "its class would hide the WeightQuantizer that the file uses"),
        ("a" * 65, "is no name: a letter, then at most 63"),
    ],
)
def test_a_name_that_no_method_can_have_is_refused(
    qbench: Qbench, tmp_path: Path, name: str, words: str
) -> None:
    assert words in qbench("new-method", name, "--in", tmp_path / "new", code=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/your-first-method.md"])
def test_the_method_that_the_documentation_shows_keeps_the_contract(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (source,) = [block for block in blocks if "(Method)" in block]
    (name,) = load_plugin(Plugin(page, source))
    report = check(name, networks=["mixed"], thorough=False)
    assert report.widths
    assert not report.findings


def test_a_plugin_with_learned_scales_of_groups_and_a_running_range_keeps_the_contract() -> None:
    (name,) = load_plugin(Plugin("running.py", RUNNING))
    report = check(name, networks=["mixed"], thorough=False)
    assert report.widths
    assert not report.findings

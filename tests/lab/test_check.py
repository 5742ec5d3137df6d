"""The contract that every method keeps, and that `qbench check` finds every way to break it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qbench.lab.check import (
    ALL_NETWORKS,
    WIDTHS,
    MethodCheck,
    check,
    parametrize_with_checks,
)
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from tests.conftest import Qbench
from tests.helpers.methods import FEW, NAMES
from tests.helpers.plugins import GOOD
from tests.helpers.wrong_methods import HEAD, WRONG

# Other forms of a method that keep the contract too.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("quantization_networks", {"compat": "official"}),
    ("quantization_networks", {"share": "network"}),
    ("binary_connect", {"stochastic": True}),
    ("bnn", {"stochastic": True}),
    ("bwn", {"gradient": "exact", "centre": False}),
    ("xnor", {"gradient": "paper", "centre": False, "scale_map": True}),
    ("twn", {"scope": "filter"}),
    ("ttq", {"initial": "mean"}),
    ("dorefa", {"gradient_bits": 4}),
    ("lq_nets", {"debias": True}),
    ("hwgq", {"levels": "lloyd", "backward": "log_tailed", "plain_norm": True}),
    ("jacob", {"scope": "filter", "delay": 1}),
    ("admm", {"extragradient": False}),
    ("pact", {"weights": "sawb"}),
    ("lsq", {"weight_range": "symmetric"}),
    ("apot", {"additive": False, "normalization_gradient": False}),
    ("bireal", {"gradient": "paper"}),
    ("friesen_domingos", {"loss": "saturated"}),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@parametrize_with_checks(NAMES, options=FEW)
def test_every_method_keeps_the_contract(check: MethodCheck) -> None:
    check()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_every_variant_keeps_the_contract(name: str, options: dict[str, Any]) -> None:
    assert not check(name, options, networks=["convolutional"], thorough=False).findings


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_method_keeps_the_contract_on_every_network_compiled_and_in_two_processes(
    name: str,
) -> None:
    assert not check(name, FEW.get(name), networks=ALL_NETWORKS).findings


@pytest.mark.parametrize("name", NAMES)
def test_what_is_checked_covers_every_width_that_a_method_accepts(name: str) -> None:
    method = build_method(name, {})
    accepted = [b for b in WIDTHS if method.supports(BitWidths.parse(b), "classification") is None]
    report = check(name, networks=[], thorough=False)
    for side in (0, 1):
        assert {b.split("/")[side] for b in report.widths} == {b.split("/")[side] for b in accepted}


def test_a_report_names_the_placements_that_were_checked() -> None:
    report = check("friesen_domingos", networks=["linear"], thorough=False)
    assert report.placements == ["after_activation", "layer_inputs", "after_activation_and_add"]


# As tests of pytest ------------------------------------------------------------------------------

OUTSIDERS = """
from pathlib import Path
from qbench.lab.check import parametrize_with_checks
from qbench.plugins import Plugin, load_plugin

NAMES = load_plugin(Plugin.read(Path(__file__).with_name("broken.py")))

@parametrize_with_checks(NAMES, expected_failed_checks=lambda method: {KNOWN})
def test_contract(check):
    check()
"""


def outsiders_tests(folder: Path, known: dict[str, str]) -> tuple[int, str]:
    """Run the tests of a method without gradient, and return the exit code and the output."""
    (folder / "broken.py").write_text(HEAD + WRONG["no_gradient"][2], encoding="utf-8")
    path = folder / "test_broken.py"
    path.write_text(OUTSIDERS.replace("{KNOWN}", repr(known)), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-v", "-rx", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_each_check_of_an_outsiders_method_is_a_test_of_its_own(tmp_path: Path) -> None:
    code, output = outsiders_tests(tmp_path, {})
    assert code == 1
    assert "2 failed, 23 passed" in output
    assert "test_contract[broken-is_deterministic] PASSED" in output
    assert "test_contract[broken-has_gradients_everywhere] FAILED" in output
    assert "mixed 1/32: the latent weight of '0' gets no gradient" in output


def test_a_check_that_is_known_to_fail_is_an_expected_failure(tmp_path: Path) -> None:
    checks = ("has_gradients_everywhere", "trains_under_autocast")
    code, output = outsiders_tests(tmp_path, dict.fromkeys(checks, "it has no surrogate"))
    assert code == 0
    assert "23 passed, 2 xfailed" in output
    assert "it has no surrogate" in output


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def qbench(qbench_in: Callable[[Path], Qbench], tmp_path: Path) -> Qbench:
    return qbench_in(tmp_path)


def test_the_command_tells_that_a_good_plugin_is_good(qbench: Qbench, tmp_path: Path) -> None:
    path = tmp_path / "median_sign.py"
    path.write_text(GOOD, encoding="utf-8")
    output = qbench("check", path)
    assert "median_sign keeps the contract" in output
    assert "1/32" in output


def test_the_command_says_what_is_broken_and_where(qbench: Qbench, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(HEAD + WRONG["raises"][2], encoding="utf-8")
    done = subprocess.run(
        qbench.command("check", path, "--quick", "--json"),
        env=qbench.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (report,) = json.loads(done.stdout)
    (finding,) = report["findings"]
    assert finding["check"] == "attaches"
    assert "(broken.py:25)" in finding["message"]
    assert "1 // 0" in finding["traceback"]


def test_the_command_checks_an_option(qbench: Qbench) -> None:
    output = qbench("check", "dorefa", "--quick", "--set", "gradient_bits=4")
    assert "dorefa keeps the contract" in output
    output = qbench("check", "dorefa", "--quick", "--set", "gradient_bit=4", code=2)
    assert "did you mean 'gradient_bits'" in output


def test_the_command_names_the_nearest_method(qbench: Qbench) -> None:
    assert "did you mean 'dorefa'" in qbench("check", "dorfa", code=2)

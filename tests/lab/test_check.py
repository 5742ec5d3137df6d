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
from qbench.plugins import Plugin, load_plugin
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from tests.conftest import Qbench
from tests.helpers.methods import FEW, NAMES
from tests.helpers.plugins import GOOD

# Other forms of a method that keep the contract too.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("quantization_networks", {"compat": "official"}),
    ("quantization_networks", {"share": "network"}),
    ("binary_connect", {"stochastic": True}),
    ("bnn", {"stochastic": True}),
    ("bwn", {"gradient": "lua"}),
    ("xnor", {"scale_map": True, "centre": True}),
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
    ("bireal", {"gradient": "code"}),
    ("friesen_domingos", {"loss": "saturated"}),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@parametrize_with_checks(NAMES, options=FEW)
def test_every_method_keeps_the_contract(check: MethodCheck) -> None:
    check()


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
    (folder / "broken.py").write_text(HEAD + BROKEN["no_gradient"][2], encoding="utf-8")
    path = folder / "test_broken.py"
    path.write_text(OUTSIDERS.replace("{KNOWN}", repr(known)), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-v", "-rx", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_each_check_of_an_outsiders_method_is_a_test_of_its_own(tmp_path: Path) -> None:
    code, output = outsiders_tests(tmp_path, {})
    assert code == 1
    assert "2 failed, 14 passed" in output
    assert "test_contract[broken-is_deterministic] PASSED" in output
    assert "test_contract[broken-has_gradients_everywhere] FAILED" in output
    assert "mixed 1/32: the latent weight of '0' gets no gradient" in output


def test_a_check_that_is_known_to_fail_is_an_expected_failure(tmp_path: Path) -> None:
    checks = ("has_gradients_everywhere", "trains_under_autocast")
    code, output = outsiders_tests(tmp_path, dict.fromkeys(checks, "it has no surrogate"))
    assert code == 0
    assert "14 passed, 2 xfailed" in output
    assert "it has no surrogate" in output


# Every way to break it --------------------------------------------------------------------------

HEAD = """
import torch
from torch import nn
from qbench.functional import sign, straight_through
from qbench.method import Binary, Integers, Learned, Method, Named, Quantizer, Ternary

def binary(w):
    return w.detach().abs().mean() * sign(w)

class Broken(Method):
    weights = Binary()

    def weight_quantizer(self, layer, weight):
        return Weight()
"""

BROKEN = {
    "no_quantizer": (
        "attaches",
        "returned None",
        """
class Broken(Broken):
    def weight_quantizer(self, layer, weight):
        return None
""",
    ),
    "dtype": (
        "keeps_shape_and_dtype",
        "must keep shape and dtype",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, w.abs().mean() * torch.where(w >= 0, 1.0, -1.0))
""",
    ),
    "levels": (
        "has_the_levels_it_promises",
        "3 values after hardening, where 1 bits of the declared levels allow 2",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, (2 * w).round().clamp(-1, 1))
""",
    ),
    "scope": (
        "has_the_levels_it_promises",
        "is it quantized per channel?",
        """
class Weight(nn.Module):
    def forward(self, w):
        scale = w.detach().abs().mean(tuple(range(1, w.dim())), keepdim=True)
        return straight_through(w, scale * sign(w))
""",
    ),
    "named_levels": (
        "has_the_levels_it_promises",
        "does not have the levels that 3(±4) names",
        """
class Broken(Broken):
    weights = Named()

    def supports(self, bits, task):
        return None if str(bits) == "3(±4)/32" else "3(±4)/32 only"

class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, (3 * w).round().clamp(-3, 3))
""",
    ),
    "soft_in_evaluation": (
        "has_the_levels_it_promises",
        "quantize fully where `self.training` is False",
        """
class Weight(nn.Module):
    def forward(self, w):
        return w.tanh()
""",
    ),
    "impure": (
        "hardens_to_what_it_evaluates",
        "hardening changed the values",
        """
class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("reads", torch.zeros(()))

    def forward(self, w):
        self.reads += 1
        return straight_through(w, (1 + self.reads) * binary(w))
""",
    ),
    "no_gradient": (
        "has_gradients_everywhere",
        "gets no gradient",
        """
class Weight(nn.Module):
    def forward(self, w):
        return binary(w) + 0 * w
""",
    ),
    "infinite_gradient": (
        "has_gradients_everywhere",
        "is not finite",
        """
class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w * float("inf"), binary(w))
""",
    ),
    "input_without_gradient": (
        "has_gradients_everywhere",
        "passes no gradient",
        """
class Broken(Broken):
    activations = Integers(bits=(1,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input()

class Input(nn.Module):
    def forward(self, x):
        return (x > 0.5).to(x) + 0 * x

class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, binary(w))
""",
    ),
    "frozen": (
        "trains",
        "training does not move the latent weight",
        """
class Broken(Broken):
    def on_epoch_start(self, epoch, epochs):
        if epoch == 1:
            self.first = [layer.latent_weight.detach().clone() for layer in self.layers]

    def after_optimizer_step(self):
        for layer, first in zip(self.layers, self.first):
            layer.latent_weight.copy_(first)

class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, binary(w))
""",
    ),
    "unseeded": (
        "is_deterministic",
        "two runs with one seed differ",
        """
import random

class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("size", torch.tensor(1 + random.SystemRandom().random()))

    def forward(self, w):
        return straight_through(w, self.size.to(w) * sign(w))
""",
    ),
    "hidden_state": (
        "survives_a_checkpoint",
        "belongs in parameters, buffers or get_extra_state",
        """
class Weight(Quantizer):
    def __init__(self):
        super().__init__()
        self.size = 1.0

    def forward(self, w):
        return straight_through(w, self.size * sign(w))

    def observe(self, x):
        self.size *= 1.1
""",
    ),
    "pickles_in_state": (
        "survives_a_checkpoint",
        "more than tensors and plain values",
        """
import datetime

class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, binary(w))

    def get_extra_state(self):
        return datetime.timezone.utc

    def set_extra_state(self, state):
        pass
""",
    ),
    "lambda": (
        "copies",
        "cannot be pickled",
        """
class Broken(Broken):
    def prepare(self, model, bits):
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.slope = lambda x: x
        return model

class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, binary(w))
""",
    ),
    "updates_when_read": (
        "updates_once_a_step",
        "is another each time it is read",
        """
class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("size", torch.ones(()))

    def forward(self, w):
        if self.training:
            with torch.no_grad():
                self.size.mul_(0.9).add_(0.1 * w.abs().mean())
        return straight_through(w, self.size.to(w) * sign(w))
""",
    ),
    "learns_in_evaluation": (
        "evaluates_without_a_trace",
        "evaluat",
        """
class Broken(Broken):
    activations = Integers(bits=(1,), signed=False, required=True)

    def activation_quantizer(self, layer, sample):
        return Input()

class Input(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("top", torch.ones(()))

    def forward(self, x):
        with torch.no_grad():
            self.top.mul_(0.5).add_(0.5 * x.abs().max())
        top = self.top.to(x)
        return straight_through(x, top * (x > top / 2).to(x))

class Weight(nn.Module):
    def forward(self, w):
        return straight_through(w, binary(w))
""",
    ),
    "autocast": (
        "evaluates_under_autocast",
        "autocast changes the quantized values",
        """
class Weight(nn.Module):
    def forward(self, w):
        rows = w.detach().flatten(1)
        size = (rows.t() @ rows).diagonal().mean().to(w.dtype)
        return straight_through(w, size * sign(w))
""",
    ),
    "parameters": (
        "gives_its_parameters_once",
        "leaves out",
        """
class Broken(Broken):
    def parameter_groups(self, parameters, lr):
        return []

class Weight(nn.Module):
    def __init__(self):
        super().__init__()
        self.size = nn.Parameter(torch.ones(()))

    def forward(self, w):
        return straight_through(w, self.size.detach().to(w) * sign(w)) + 0 * self.size.to(w)
""",
    ),
    "raises": (
        "attaches",
        "raised ZeroDivisionError: integer division or modulo by zero (broken_raises.py:19)",
        """

class Weight(nn.Module):
    def forward(self, w):
        return w / (1 // 0)
""",
    ),
    "supports_raises": (
        "supports",
        "supports() raised KeyError",
        """
class Broken(Broken):
    def supports(self, bits, task):
        raise KeyError(str(bits))
""",
    ),
    "supports_nothing": (
        "supports",
        "can do nothing: no",
        """
class Broken(Broken):
    def supports(self, bits, task):
        return "no"
""",
    ),
    "supports_lines": (
        "supports",
        "return one line",
        """
class Broken(Broken):
    def supports(self, bits, task):
        return ""
""",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_found_and_explained(case: str, tmp_path: Path) -> None:
    expected, words, source = BROKEN[case]
    path = tmp_path / f"broken_{case}.py"
    load_plugin(Plugin(str(path), HEAD + source))
    report = check("broken", networks=["mixed"], thorough=False)
    assert words in {f.check: f.message for f in report.findings}.get(expected, ""), report.findings


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
    path.write_text(HEAD + BROKEN["raises"][2], encoding="utf-8")
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
    assert "(broken.py:19)" in finding["message"]
    assert "1 // 0" in finding["traceback"]


def test_the_command_checks_an_option(qbench: Qbench) -> None:
    output = qbench("check", "dorefa", "--quick", "--set", "gradient_bits=4")
    assert "dorefa keeps the contract" in output
    output = qbench("check", "dorefa", "--quick", "--set", "gradient_bit=4", code=2)
    assert "did you mean 'gradient_bits'" in output


def test_the_command_names_the_nearest_method(qbench: Qbench) -> None:
    assert "did you mean 'dorefa'" in qbench("check", "dorfa", code=2)

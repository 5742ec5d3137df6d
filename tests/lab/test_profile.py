"""`qbench profile`, as a user runs it; how long anything takes is asserted nowhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from qbench import registry
from qbench.errors import QbenchError
from qbench.lab.profile import Profile, ProfileSettings, measure
from tests.conftest import Qbench

SMALL = ["--model", "convnet_tiny", "--image-size", "8", "--batch-size", "4", "--steps", "2"]

BREAKS = """
from qbench.method import Method, Uniform


class Breaks(Method):
    weights = Uniform()
    activations = Uniform()

    def after_optimizer_step(self):
        raise RuntimeError("not today")
"""


@pytest.fixture
def qbench(qbench_in: Callable[[Path], Qbench], tmp_path: Path) -> Qbench:
    return qbench_in(tmp_path)


def test_a_profile_is_a_table_with_the_machine_below(qbench: Qbench) -> None:
    text = qbench("profile", "quantization_networks", "--bits", "3(±4)/2", *SMALL)
    header, plain, quantized, machine = text.strip().splitlines()[-4:]
    assert "step, ms" in header
    assert "peak memory, MiB" in header
    assert plain.startswith("full precision")
    assert quantized.startswith("Quantization Networks 3(±4)/2")
    assert "convnet_tiny, 4 × 3 × 8 × 8, 2 steps each; placement after_activation; " in machine
    assert "threads" in machine


def test_a_profile_of_a_plugin_with_an_option_as_json(qbench: Qbench, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from qbench.method import Method, Uniform\nclass Mine(Method):\n"
        "    weights = Uniform()\n    activations = Uniform()\n    rate: float = 1.0\n"
    )
    arguments: list[str | Path] = ["mine", "--methods", file, "--set", "rate=2.5", "--json", *SMALL]
    found = json.loads(qbench("profile", *arguments))
    assert found["options"] == {"rate": 2.5}
    assert found["placement"] == "layer_inputs"
    for variant in ("full_precision", "quantized"):
        assert found[variant]["step_seconds"] > 0
        assert found[variant]["peak_bytes"] > 2**20
    assert found["time_ratio"] > 0
    assert found["memory_ratio"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stee"], "did you mean 'ste'"),
        (["ste", "--set", "scope"], "write it as key=value"),
    ],
)
def test_a_mistake_ends_in_a_message(qbench: Qbench, arguments: list[str], message: str) -> None:
    assert message in qbench("profile", *arguments, *SMALL, code=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ProfileSettings("ste", {}, "resnet1", "2/2"), "did you mean 'resnet18'"),
        (ProfileSettings("ste", {"scop": "layer"}, "convnet_tiny", "2/2"), "did you mean 'scope'"),
        (ProfileSettings("ste", {}, "convnet_tiny", "2"), "no bit-width pair"),
        (ProfileSettings("twn", {}, "convnet_tiny", "2/2"), "twn cannot do 2/2"),
    ],
)
def test_what_is_wrong_is_named(settings: ProfileSettings, message: str) -> None:
    with pytest.raises(QbenchError, match=message):
        measure(replace(settings, image_size=8, batch_size=2), 1)


def test_a_method_that_fails_in_training_is_told_without_a_traceback(
    qbench: Qbench, tmp_path: Path
) -> None:
    file = tmp_path / "breaks.py"
    file.write_text(BREAKS)
    found = qbench("profile", "breaks", "--methods", file, "--bits", "2/32", *SMALL, code=2)
    assert "breaks on convnet_tiny: a training step failed: RuntimeError: not today" in found


def test_the_ratio_is_of_neighbouring_steps() -> None:
    profile = Profile([1.0, 2.0, 4.0], [1.5, 2.2, 8.0], 100, 150)
    assert profile.ratios == pytest.approx([1.5, 1.1, 2.0])
    assert profile.ratio == 1.5
    assert profile.quartiles == pytest.approx((1.3, 1.75))
    assert Profile([1.0], [1.5], 1, 1).quartiles == (1.5, 1.5)


def test_peak_memory_is_that_of_the_step_and_not_of_who_asks() -> None:
    ballast = torch.ones(2**28)  # 1 GiB
    settings = ProfileSettings("ste", {}, "convnet_tiny", "2/2", batch_size=2, image_size=8)
    found = measure(settings, 1)
    assert found.bytes < ballast.nbytes
    large = measure(replace(settings, batch_size=64, image_size=64), 1)
    assert large.bytes > found.bytes + 2**26


def test_what_is_being_done_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qbench")
    settings = ProfileSettings("ste", {}, "convnet_tiny", "2/2", batch_size=2, image_size=8)
    found = measure(settings, 2)
    heard = [record.getMessage() for record in caplog.records]
    assert len(found.seconds) == len(found.quantized_seconds) == 2
    assert "step 2 of 2" in heard
    assert heard[-1] == "memory with the method"


def test_the_network_that_a_method_declares_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = [], registry.build_model

    def recording(name: str, classes: int, channels: int) -> nn.Module:
        built.append(name)
        return build(name, classes, channels)

    monkeypatch.setattr(registry, "build_model", recording)
    measure(ProfileSettings("hwgq", {}, "resnet_tiny", "1/2", batch_size=2, image_size=8), 1)
    assert set(built) == {"hwgq_resnet8"}, "at full precision too"

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
from qbench.cli.method_reports import show_profiles
from qbench.errors import QbenchError
from qbench.lab.profile import (
    Profile,
    ProfileSettings,
    as_json,
    every_method,
    measure,
    measure_all,
)
from qbench.method import BitWidths, Method
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
    text = qbench.fresh("profile", "quantization_networks", "--bits", "3(±4)/2", *SMALL)
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
        assert found[variant]["peak_bytes"] > 2**19
    assert found["time_ratio"] > 0
    assert found["memory_ratio"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stee"], "did you mean 'ste'"),
        (["ste", "--set", "scope"], "write it as key=value"),
        ([], "name one method, or give --all"),
        (["ste", "--all"], "name one method, or give --all"),
        (["--all", "--set", "scope=layer"], "--set and --bits belong to one method"),
        (["--all", "--bits", "2/2"], "--set and --bits belong to one method"),
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
    processor = [3.0, 3.0, 3.0], [3.3, 6.0, 3.6]
    profile = Profile([1.0, 2.0, 4.0], [1.5, 2.2, 8.0], *processor, 100, 150)
    assert profile.ratios == pytest.approx([1.5, 1.1, 2.0])
    assert profile.ratio == 1.5
    assert profile.quartiles == pytest.approx((1.3, 1.75))
    assert profile.cpu_ratio == pytest.approx(1.2)
    assert profile.memory_ratio == 1.5
    assert Profile([1.0], [1.5], [1.0], [1.5], 1, 1).quartiles == (1.5, 1.5)


def test_peak_memory_is_that_of_the_tensors_of_a_step() -> None:
    ballast = torch.ones(2**25)  # 128 MiB
    settings = ProfileSettings("ste", {}, "convnet_tiny", "2/2", batch_size=2, image_size=8)
    found = measure(settings, 1)
    assert found.bytes < 2**25 < ballast.nbytes
    parameters = sum(p.numel() for p in registry.build_model("convnet_tiny", 1000, 3).parameters())
    assert found.bytes > 3 * 4 * parameters, "weights, gradients and momentum"
    assert measure(settings, 1).bytes == found.bytes
    activations = 4 * 64 * 64 * 64 * 16  # of one layer
    large = measure(replace(settings, batch_size=64, image_size=64), 1)
    assert large.bytes > found.bytes + activations
    assert large.quantized_bytes > found.quantized_bytes + activations


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


def test_a_network_that_a_method_changes_is_timed_as_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = []
    prepare = registry.method_class("bireal").prepare

    def recording(self: Method, model: nn.Module, bits: BitWidths) -> nn.Module:
        prepared.append(model)
        return prepare(self, model, bits)

    monkeypatch.setattr(registry.method_class("bireal"), "prepare", recording)
    measure(ProfileSettings("bireal", {}, "resnet_tiny", "1/1", batch_size=2, image_size=8), 1)
    assert len(prepared) == 4, "timed and weighed, each with the method and at full precision"


def test_every_method_that_trains_has_a_row_and_an_error_does_not_end_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    methods = every_method()
    assert {"lsq", "bireal", "quantization_networks"} <= dict(methods).keys()
    assert not {"fp32", "ptq_mse"} & dict(methods).keys()
    assert dict(methods)["hwgq"] == "1/2"
    settings = ProfileSettings("", {}, "convnet_tiny", "", batch_size=2, image_size=8)
    chosen = [("twn", "2/2"), ("twn", "2/32"), ("lsq", "2/2")]
    measured = show_profiles(settings, measure_all(chosen, settings, 1))
    header, refused, *rows, median, machine = capsys.readouterr().out.splitlines()
    assert "CPU ratio" in header
    assert "twn cannot do 2/2" in refused
    assert [row.split()[:2] for row in rows] == [["twn", "2/32"], ["lsq", "2/2"]]
    assert [each.method for each, _ in measured] == ["twn", "lsq"]
    assert median.startswith("median")
    assert machine.startswith("convnet_tiny, 2 × 3 × 8 × 8, 1 step each; ")
    told = [as_json(*each) for each in measure_all(chosen[:2], settings, 1)]
    assert "twn cannot do 2/2" in told[0]["error"]
    assert told[1]["quantized"]["cpu_seconds"] > 0

"""The compiled loops: without a compiler, and with one that fails."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from qbench.quant.kernels import build
from qbench.quant.staircase import kernels
from tests.helpers.stairs import (
    NEEDS_C,
    STAIRS,
    assert_equation_7,
    inputs,
    run,
)


@pytest.fixture
def fresh_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Build the loops anew, in an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.load.cache_clear()
    yield tmp_path
    build.load.cache_clear()


def assert_it_works() -> None:
    given = STAIRS["6 steps"].arguments(50)
    x, g = inputs(STAIRS["6 steps"], 50, 5_001)
    assert_equation_7(x, given, run(x, given, g), g, table=True)


SCRIPT = """
import sys
import torch
from qbench.quant.staircase import kernels
from qbench.quant.staircase.staircase import staircase
loaded = kernels.load() is not None
x = torch.load(sys.argv[1])
leaves = [x, torch.tensor(0.37), torch.tensor(1.7)]
for leaf in leaves:
    leaf.requires_grad_()
given = torch.load(sys.argv[2])
y = staircase(*leaves, given["biases"], given["scales"], given["offset"], given["temperature"])
y.sum().backward()
torch.save((loaded, y.detach(), [leaf.grad for leaf in leaves]), sys.argv[3])
"""


def started(folder: Path, name: str, **environment: str) -> subprocess.Popen[str]:
    """A fresh process that computes a staircase."""
    stair = STAIRS["6 steps"]
    given = stair.arguments(50)
    if not (folder / "x").exists():
        torch.save(inputs(stair, 50, 5_001)[0], folder / "x")
        torch.save(given, folder / "given")
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, folder / "x", folder / "given", folder / name],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str], folder: Path, name: str) -> tuple[bool, str]:
    """Whether it had the loops in C, and what it printed; its numbers are right."""
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    loaded, y, (to_x, to_alpha, to_beta) = torch.load(folder / name)
    stair = STAIRS["6 steps"]
    x, _ = inputs(stair, 50, 5_001)
    computed = {"value": y, "x": to_x, "alpha": to_alpha, "beta": to_beta}
    assert_equation_7(x, stair.arguments(50), computed, torch.ones_like(x), table=True)
    return loaded, printed


def test_a_machine_without_a_compiler_computes_the_same(tmp_path: Path) -> None:
    process = started(tmp_path, "y", CC="/nonexistent", XDG_CACHE_HOME=str(tmp_path / "cache"))
    loaded, printed = finished(process, tmp_path, "y")
    assert not loaded
    assert "Error" not in printed


@NEEDS_C
def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    # A compiler that begins when the other one has as well.
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    compiler = tmp_path / "compiler"
    real = shutil.which(os.environ.get("CC", "cc"))
    compiler.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && exec {real} --version\n'
        f": > {waiting}/$$\n"
        f"for i in $(seq 300); do [ $(ls {waiting} | wc -l) -ge 2 ] && break; sleep 0.1; done\n"
        f'exec {real} "$@"\n',
        encoding="utf-8",
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    environment = {"CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    processes = {name: started(tmp_path, name, **environment) for name in ("first", "second")}
    for name, process in processes.items():
        loaded, printed = finished(process, tmp_path, name)
        assert loaded, printed
        assert "Error" not in printed
    assert len(list(waiting.iterdir())) == 2
    assert [path.suffix for path in (tmp_path / "cache" / "qbench").iterdir()] == [".so"]


@pytest.mark.parametrize(
    "compiler",
    ["exit 1", '[ "$1" = --version ] || { echo no such flag >&2; exit 1; }', "exit 0"],
    ids=["fails at once", "fails to compile", "writes nothing"],
)
def test_a_compiler_that_fails_is_a_warning_and_torch_takes_its_place(
    compiler: str,
    fresh_load: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = fresh_load / "compiler"
    script.write_text(f"#!/bin/sh\n{compiler}\n", encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    with caplog.at_level(logging.WARNING, logger="qbench.quant.kernels.build"):
        assert kernels.load() is None
        assert_it_works()
    assert len(caplog.records) == 1
    assert "torch takes their place" in caplog.text


@NEEDS_C
@pytest.mark.parametrize("folder", ["/dev/null", "/proc/nonexistent"])
def test_a_cache_folder_that_cannot_be_written_is_done_without(
    folder: str, fresh_load: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    monkeypatch.setattr("tempfile.tempdir", str(fresh_load))
    assert kernels.load() is not None
    assert_it_works()
    assert not caplog.records
    assert list(fresh_load.glob("*/*.so"))


def test_a_user_without_a_home_folder_is_served_too(
    fresh_load: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in containers, where HOME is not set and the user has no entry in the system's list.
    def nowhere() -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr("tempfile.tempdir", str(fresh_load))
    assert_it_works()


@NEEDS_C
def test_a_broken_library_in_the_cache_is_a_warning(
    fresh_load: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert kernels.load() is not None
    (library,) = fresh_load.glob("qbench/*.so")
    broken = fresh_load / "other" / "qbench" / library.name
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"half a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(broken.parent.parent))
    build.load.cache_clear()
    with caplog.at_level(logging.WARNING, logger="qbench.quant.kernels.build"):
        assert_it_works()
    assert len(caplog.records) == 1

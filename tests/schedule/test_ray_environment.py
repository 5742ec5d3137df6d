from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.schedule import ray_environment


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


def test_a_machine_alone_is_reached_from_nowhere_else(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    ray_environment.prepare(None)
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("has_token", [True, False])
def test_a_cluster_is_shown_its_token_if_there_is_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, has_token: bool
) -> None:
    if has_token:
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("token")
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    ray_environment.prepare("host:6379")
    assert environment.get("RAY_AUTH_MODE") == ("token" if has_token else None)
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in environment


@pytest.fixture
def short(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a short one is created."""
    monkeypatch.setattr(ray_environment, "_SHORT", home)
    monkeypatch.setattr(tempfile, "tempdir", None)
    return home / f"ray-{os.getuid()}"


def temporary(
    monkeypatch: pytest.MonkeyPatch, length: int, name: str = "TMPDIR", address: str | None = None
) -> tuple[str, dict[str, str]]:
    """Prepare with a temporary folder whose path has a length."""
    folder = "/" + "t" * (length - 1)
    environment = {name: folder}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    ray_environment.prepare(address)
    return folder, environment


def test_a_short_temporary_folder_is_kept(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, environment = temporary(monkeypatch, 38)
    assert environment["TMPDIR"] == folder
    assert "RAY_TMPDIR" not in environment
    assert not short.exists()


@pytest.mark.parametrize(("length", "replaced"), [(41, False), (60, False), (90, True)])
def test_a_temporary_folder_that_is_too_long_for_sockets_is_replaced(
    short: Path, monkeypatch: pytest.MonkeyPatch, length: int, replaced: bool
) -> None:
    folder, environment = temporary(monkeypatch, length)
    assert environment["RAY_TMPDIR"] == str(short)
    assert short.is_dir()
    assert environment["TMPDIR"] == (str(short) if replaced else folder)


def test_a_long_folder_of_ray_is_replaced(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary(monkeypatch, 60, "RAY_TMPDIR")[1]["RAY_TMPDIR"] == str(short)


def test_a_cluster_that_runs_has_its_own_folder(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "RAY_TMPDIR" not in temporary(monkeypatch, 60, address="host:6379")[1]


def test_a_temporary_folder_that_cannot_be_replaced_is_named(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short.touch()
    with pytest.raises(QbenchError, match=r"TMPDIR=/t+ has 60 characters.*Set RAY_TMPDIR to a sh"):
        temporary(monkeypatch, 60)


def test_a_process_starts_again_with_the_allocator_of_trials_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"MALLOC_MMAP_MAX_": "65536"}
    started: list[list[str]] = []
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "qbench", "profile", "lsq"])
    monkeypatch.setattr(os, "execv", lambda path, words: started.append([path, *words]))
    ray_environment.restart_with_allocator()
    assert environment["MALLOC_MMAP_MAX_"] == "0"
    ray_environment.restart_with_allocator()
    assert started == [[sys.executable, sys.executable, "-m", "qbench", "profile", "lsq"]]

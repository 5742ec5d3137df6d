from __future__ import annotations

import os
from pathlib import Path

import pytest

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

"""What commands write, and commands that run beside a test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd

from tests.conftest import Qbench

TABLES = ("leaderboard.md", "tables.tex", "leaderboard.csv")


def tables(folder: Path) -> dict[str, str]:
    """What tables say of accuracy: all but how long training took."""
    results = pd.read_csv(folder / "leaderboard.csv").drop(columns="train_ratio")
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in TABLES[:2]}
    return {**texts, "leaderboard.csv": results.to_csv()}


def start(qbench: Qbench, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        qbench.command(*arguments),
        env=qbench.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read a command's output up to a line that has a text."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))

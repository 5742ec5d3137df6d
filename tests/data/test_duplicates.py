"""Images that would be trained on and tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.data.duplicates import check_apart
from qbench.errors import QbenchError


def written(folder: Path, **contents: bytes) -> list[Path]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_files_of_the_same_bytes_are_named(tmp_path: Path) -> None:
    train = written(tmp_path, a=b"one", b=b"two", c=b"three")
    test = written(tmp_path, d=b"six", e=b"two")
    with pytest.raises(QbenchError, match=f"{tmp_path}/e: is the same image as {tmp_path}/b"):
        check_apart(train, test)


def test_other_files_and_files_that_are_missing_are_apart(tmp_path: Path) -> None:
    train = written(tmp_path, a=b"one", b=b"two")
    check_apart([*train, tmp_path / "gone"], [*written(tmp_path, c=b"six"), tmp_path / "gone"])

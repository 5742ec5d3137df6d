from __future__ import annotations

from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.files import expanded, lock, resolved, write_atomic


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/results") == tmp_path / "results"
    assert expanded(Path("~")) == tmp_path
    assert expanded("results/~") == Path("results/~")


def test_the_home_folder_of_nobody_is_named() -> None:
    with pytest.raises(QbenchError, match="'~nobody_of_this_name' is the home folder of no user"):
        expanded("~nobody_of_this_name/results")


def test_a_resolved_path_does_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = resolved("results")
    monkeypatch.chdir("/")
    assert path == resolved(path) == tmp_path / "results"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with write_atomic(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_file_is_created(tmp_path: Path) -> None:
    with write_atomic(tmp_path / "file") as scratch:
        scratch.write_bytes(b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_block_that_fails_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with write_atomic(path) as scratch:
            scratch.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with write_atomic(path) as first, write_atomic(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last to be finished


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with lock(tmp_path / "lock", wait=False) as mine:
        assert mine
        with lock(tmp_path / "lock", wait=False) as other:
            assert not other
    with lock(tmp_path / "lock", wait=True) as again:
        assert again


def test_a_lock_is_released_if_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock(tmp_path / "lock", wait=False):
        raise RuntimeError
    with lock(tmp_path / "lock", wait=False) as held:
        assert held


def test_a_lock_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), lock(tmp_path / "file" / "lock", wait=False):
        pass

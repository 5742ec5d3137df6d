"""A tree of generated files, which is written once into a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qbench.errors import QbenchError
from qbench.files import write_atomic

MARK = "MADE_BY_QBENCH.txt"
Track = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True)
class Tree:
    """Files to write, and the command that identifies the folder that holds them.

    Attributes:
        made_by: Command that writes the tree, with every argument that affects its bytes.
        files: Function that returns the content of a file, by path relative to the folder.
    """

    made_by: str
    files: Mapping[str, Callable[[], bytes]]

    def write(self, folder: Path, track: Track = iter) -> int:
        """Write the files that do not exist yet.

        Each file is replaced as a whole, so that an existing file is complete; it is kept.

        Args:
            folder: Folder to write to. It is created if necessary.
            track: Wraps the paths while they are written, to show progress.

        Returns:
            Number of files written.

        Raises:
            QbenchError: The folder holds something else or is not writable.
        """
        try:
            self._claim(folder)
            missing = [path for path in self.files if not (folder / path).exists()]
            for path in track(missing):
                _write(folder / path, self.files[path]())
        except OSError as error:
            raise QbenchError(
                f"{error.filename or folder}: cannot write there: {error.strerror or error}"
            ) from error
        return len(missing)

    def _claim(self, folder: Path) -> None:
        mark = folder / MARK
        text = (
            "Drawn images, for rehearsals: in the shape of a data set, and nothing of it.\n"
            f"Made by: {self.made_by}\n"
        )
        if mark.exists():
            found = mark.read_text(encoding="utf-8", errors="replace")
            if found != text:
                raise QbenchError(
                    f"{folder} holds another tree, by `{found.partition('Made by: ')[2].strip()}`; "
                    f"this is `{self.made_by}`: remove that folder, or name another"
                )
        elif folder.exists() and any(folder.iterdir()):
            raise QbenchError(
                f"{folder} is not empty, and not from this command; it is left as it is: name a "
                "folder that is empty or not there yet"
            )
        else:
            _write(mark, text.encode())


def require(option: str, value: int, least: int, most: int, why: str) -> None:
    """Check that the value of a command's option is within bounds.

    Args:
        option: Option as typed, such as ``--size``.
        value: Value to check.
        least: Smallest valid value.
        most: Largest valid value.
        why: Reason for the bounds, for the message.

    Raises:
        QbenchError: The value is out of bounds. The message states them and the reason.
    """
    if not least <= value <= most:
        raise QbenchError(f"{option} {value}: can be {least} to {most}; {why}")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as scratch:  # an existing file is complete
        scratch.write_bytes(content)

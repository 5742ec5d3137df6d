"""The spool keeps results on disk until the store has recorded them.

A worker writes the result of a trial here before it reports it. No result is lost if the driver is
killed or the tracking server is unavailable: the next run records the results that wait. The
weights of full-precision trials stay here for the trials that start from them.

    spool/<key>/outcome.json, weights.pt     waiting to be recorded
    weights/<key>.pt                         full-precision weights
    checkpoints/<key>.pt                     checkpoint from which an interrupted trial continues,
                                             and from which a longer one goes on after a stopped one
    progress/<key>                           last epoch of a trial on several processes
    lock                                     held by the command that records
    store                                    held by the command that creates the database
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from qbench.files import lock, write_atomic
from qbench.spec.result import Result


@dataclass(frozen=True)
class Spool:
    """Folder of the results that wait to be recorded, and of weights and checkpoints.

    Attributes:
        root: Absolute path of the folder, which is created on the first write. Workers use it from
            other working directories.
    """

    root: Path

    @contextmanager
    def lock(self, wait: bool) -> Iterator[bool]:
        """Context manager that locks the spool for recording.

        The lock ends with the process at the latest.

        Args:
            wait: If True, block until the lock is free.

        Yields:
            Whether the lock is held.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with lock(self.root / "lock", wait) as held:
            yield held

    def put(self, result: Result, weights: bytes | None) -> None:
        """Write a result and its hardened weights atomically.

        Args:
            result: Result of a trial.
            weights: Content of ``weights.pt``, or None if there are no weights.
        """
        final = self.folder(result.trial.key)
        scratch = self.root / "spool" / f".{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        try:
            (scratch / "outcome.json").write_text(result.model_dump_json(), encoding="utf-8")
            if weights is not None:
                (scratch / "weights.pt").write_bytes(weights)
            shutil.rmtree(final, ignore_errors=True)
            scratch.replace(final)
            # A failed trial continues from it when it is tried again, and a longer trial goes on
            # from that of a stopped one.
            if result.status == "done" and not result.trial.stop_after:
                self.discard_checkpoint(result.trial.key)
            self._progress_path(result.trial.key).unlink(missing_ok=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def folder(self, key: str) -> Path:
        """Return the folder in which the result of a trial waits."""
        return self.root / "spool" / key

    def get(self, key: str) -> Result | None:
        """Return the result that waits under a key, or None if it is absent or unreadable."""
        try:
            text = (self.folder(key) / "outcome.json").read_text(encoding="utf-8")
            return Result.model_validate_json(text)
        except (OSError, ValidationError):
            return None

    def waiting(self) -> Iterator[Result]:
        """Iterate over the waiting results, oldest first."""
        folder = self.root / "spool"
        keys = [p.name for p in folder.iterdir() if p.name[0] != "."] if folder.is_dir() else []
        found = [result for result in map(self.get, keys) if result is not None]
        yield from sorted(found, key=lambda result: result.started)

    def discard(self, key: str) -> None:
        """Delete a result that has been recorded."""
        shutil.rmtree(self.folder(key), ignore_errors=True)

    def weights_path(self, key: str) -> Path:
        """Return the path of the weights that other trials start from."""
        return self.root / "weights" / f"{key}.pt"

    def weights(self, key: str) -> bytes:
        """Return the weights that other trials start from."""
        return self.weights_path(key).read_bytes()

    def checkpoint_path(self, key: str) -> Path:
        """Return the path of the last checkpoint of a trial."""
        return self.root / "checkpoints" / f"{key}.pt"

    def checkpoint(self, key: str) -> bytes | None:
        """Return the last checkpoint of a trial, or None if there is none."""
        try:
            return self.checkpoint_path(key).read_bytes()
        except FileNotFoundError:
            return None

    def keep_checkpoint(self, key: str, data: bytes) -> None:
        """Write a checkpoint of a trial, which replaces the last one."""
        with self._replacing(self.checkpoint_path(key)) as scratch:
            scratch.write_bytes(data)

    def discard_checkpoint(self, key: str) -> None:
        """Delete the checkpoint of a trial, if there is one."""
        self.checkpoint_path(key).unlink(missing_ok=True)

    def progress(self, key: str) -> int:
        """Return the last epoch that a trial on several processes reported, or 0 if none."""
        try:
            return int(self._progress_path(key).read_text())
        except FileNotFoundError:
            return 0

    def keep_progress(self, key: str, epoch: int) -> None:
        """Write the last epoch of a trial."""
        with self._replacing(self._progress_path(key)) as scratch:
            scratch.write_text(str(epoch))

    def _progress_path(self, key: str) -> Path:
        return self.root / "progress" / key

    def keep_weights(self, key: str, source: Path) -> None:
        """Copy a file of weights into the spool for the trials that start from them."""
        with self._replacing(self.weights_path(key)) as scratch:
            shutil.copyfile(source, scratch)

    @contextmanager
    def _replacing(self, target: Path) -> Iterator[Path]:
        """Context manager that yields a scratch file and then replaces the target by it."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_atomic(target) as scratch:
            yield scratch

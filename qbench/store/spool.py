"""Finished trials on disk, from the worker that ended them to the store that records them.

A worker writes a trial's result here before it reports it, so that a driver that is killed, or a
tracking server that is away, loses nothing: the next run records what it finds. The weights of
full-precision trials stay, for the trials that start from them.

    spool/<key>/outcome.json, weights.pt     waiting to be recorded
    weights/<key>.pt                         full-precision weights
    checkpoints/<key>.pt                     what an interrupted trial goes on from
    progress/<key>                           the last epoch of a trial on several processes
    lock                                     held by the command that records
    store                                    held by the one that makes the database
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
    """The folder that holds what workers finished.

    Attributes:
        root: the folder; made when something is written.
    """

    root: Path

    @contextmanager
    def lock(self, wait: bool) -> Iterator[bool]:
        """Hold the right to record what is in the spool; it ends with the process at the latest.

        Args:
            wait: until another process lets go.

        Yields:
            Whether it is held.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with lock(self.root / "lock", wait) as held:
            yield held

    def put(self, result: Result, weights: bytes | None) -> None:
        """Write a result and its hardened weights: all of it or nothing."""
        final = self.folder(result.trial.key)
        scratch = self.root / "spool" / f".{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        try:
            (scratch / "outcome.json").write_text(result.model_dump_json(), encoding="utf-8")
            if weights is not None:
                (scratch / "weights.pt").write_bytes(weights)
            shutil.rmtree(final, ignore_errors=True)
            scratch.replace(final)
            if result.status == "done":  # else a run that tries again goes on from it
                self.checkpoint_path(result.trial.key).unlink(missing_ok=True)
            self._progress_path(result.trial.key).unlink(missing_ok=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def folder(self, key: str) -> Path:
        """Where the result of a trial waits."""
        return self.root / "spool" / key

    def get(self, key: str) -> Result | None:
        """The result that waits under a key, or None."""
        try:
            text = (self.folder(key) / "outcome.json").read_text(encoding="utf-8")
            return Result.model_validate_json(text)
        except (OSError, ValidationError):
            return None

    def waiting(self) -> Iterator[Result]:
        """Every result that waits, oldest first."""
        folder = self.root / "spool"
        keys = [p.name for p in folder.iterdir() if p.name[0] != "."] if folder.is_dir() else []
        found = [result for result in map(self.get, keys) if result is not None]
        yield from sorted(found, key=lambda result: result.started)

    def discard(self, key: str) -> None:
        """Forget a result: it has been recorded."""
        shutil.rmtree(self.folder(key), ignore_errors=True)

    def weights_path(self, key: str) -> Path:
        """Where the weights that trials start from are kept."""
        return self.root / "weights" / f"{key}.pt"

    def checkpoint_path(self, key: str) -> Path:
        """Where the last checkpoint of a trial is kept."""
        return self.root / "checkpoints" / f"{key}.pt"

    def checkpoint(self, key: str) -> bytes | None:
        """The last checkpoint of a trial, or None."""
        try:
            return self.checkpoint_path(key).read_bytes()
        except FileNotFoundError:
            return None

    def keep_checkpoint(self, key: str, data: bytes) -> None:
        """Keep a checkpoint of a trial in place of its last."""
        with self._replacing(self.checkpoint_path(key)) as scratch:
            scratch.write_bytes(data)

    def progress(self, key: str) -> int:
        """The last epoch that a trial on several processes has told; 0 before the first."""
        try:
            return int(self._progress_path(key).read_text())
        except FileNotFoundError:
            return 0

    def keep_progress(self, key: str, epoch: int) -> None:
        """Keep the last epoch of a trial."""
        with self._replacing(self._progress_path(key)) as scratch:
            scratch.write_text(str(epoch))

    def _progress_path(self, key: str) -> Path:
        return self.root / "progress" / key

    def keep_weights(self, key: str, source: Path) -> None:
        """Keep weights, a file, for the trials that start from them."""
        with self._replacing(self.weights_path(key)) as scratch:
            shutil.copyfile(source, scratch)

    @contextmanager
    def _replacing(self, target: Path) -> Iterator[Path]:
        """A file to write to, which then takes the place of another as a whole."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_atomic(target) as scratch:
            yield scratch

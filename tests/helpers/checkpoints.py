"""Checkpoints kept in memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Kept:
    """Checkpoints in memory."""

    data: bytes | None = None

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data

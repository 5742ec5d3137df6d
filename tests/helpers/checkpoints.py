"""Checkpoints kept in memory, and a file that would run code."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Kept:
    """Checkpoints in memory."""

    data: bytes | None = None

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data


def poison(folder: Path) -> bytes:
    """Return a file of weights that creates ``owned`` in a folder if its code is run."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "owned",)

    buffer = io.BytesIO()
    torch.save({"3.weight": Evil()}, buffer)
    return buffer.getvalue()

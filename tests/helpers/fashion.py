"""Small files in the format of Fashion-MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qbench.data.fashion_mnist import FILES, Bytes, write_idx


def images(count: int, seed: int = 0) -> Bytes:
    """Draw noise images, uint8, (N, 28, 28)."""
    return np.random.RandomState(seed).randint(256, size=(count, 28, 28)).astype(np.uint8)


def write(folder: Path, train: int = 40, test: int = 20) -> Path:
    """Write four files with images of ten classes in turn, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (names, count) in enumerate(zip(FILES, (train, test), strict=True)):
        write_idx(folder / names[0], images(count, seed))
        write_idx(folder / names[1], (np.arange(count) % 10).astype(np.uint8))
    return folder

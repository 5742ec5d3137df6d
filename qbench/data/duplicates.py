"""Find images that train and test alike."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from qbench.errors import QbenchError


def check_apart(train: Iterable[Path], test: Iterable[Path]) -> None:
    """Check that no training image is a test image, by the bytes of their files.

    Files are compared only if they have the same size. Files that do not exist are left out.

    Args:
        train: Files of training images.
        test: Files of test images.

    Raises:
        QbenchError: Two files are the same. The message names them.
    """
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for file in train:
        if file.is_file():
            by_size[file.stat().st_size].append(file)
    for file in test:
        for other in by_size.get(file.stat().st_size, []) if file.is_file() else []:
            if filecmp.cmp(file, other, shallow=False):
                raise QbenchError(
                    f"{file}: is the same image as {other}, and would be trained on and tested; "
                    "remove one of them"
                )

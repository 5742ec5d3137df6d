"""Names of weights that are not trained here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from qbench.errors import QbenchError
from qbench.spec.weights import identify


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    first.write_bytes(b"weights")
    second.write_bytes(first.read_bytes())
    digest = hashlib.sha256(first.read_bytes()).hexdigest()[:16]
    assert identify("m", str(first)) == identify("m", str(second))
    assert identify("m", str(first)) == f"sha256:{digest}"


@pytest.mark.parametrize(
    ("model", "choice", "message"),
    [
        ("resnet50", "torchvision:IMAGENET1K_V3", "no weights 'IMAGENET1K_V3'; did you mean 'IMAG"),
        ("convnet_tiny", "torchvision", "torchvision has no weights for convnet_tiny; name a file"),
    ],
)
def test_weights_that_torchvision_has_not_are_refused(
    model: str, choice: str, message: str
) -> None:
    with pytest.raises(QbenchError, match=message):
        identify(model, choice)

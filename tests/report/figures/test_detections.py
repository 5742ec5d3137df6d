from __future__ import annotations

from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import torch

from qbench.report.figures import detections as detection_figure
from qbench.spec.result import ImageDetections
from tests.helpers.boxes import FAR, A, B, objects


def drawn(folder: Path, images: int = 3) -> list[Path]:
    """Two networks on images of noise."""
    pixels = torch.rand(images, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    targets = [objects(A, B, FAR, difficult=(2,))] * images
    found_by = {
        "Full precision": [
            ImageDetections(boxes=[A, B, FAR], scores=[0.99, 0.9, 0.1], labels=[1, 1, 1])
        ],
        "STE 2/32": [ImageDetections(boxes=[A], scores=[0.6], labels=[2])],
    }
    found_by = {name: each * images for name, each in found_by.items()}
    return detection_figure.detections(pixels, targets, found_by, ("$cat$", "dog"), folder)


def test_the_figure_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    paths = drawn(tmp_path)
    first = [path.read_bytes() for path in paths]
    with plt.style.context("dark_background"):
        assert [path.read_bytes() for path in drawn(tmp_path)] == first
    assert [path.name for path in paths] == ["detections.png", "detections.svg"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert b"<dc:date>" not in first[1]
    assert plt.get_fignums() == []


def test_certain_detections_are_named_and_others_are_not(tmp_path: Path) -> None:
    text = drawn(tmp_path, 1)[1].read_text(encoding="utf-8")
    for shown in ("Full precision", "STE 2/32", "$cat$ 0.99", "$cat$ 0.90", "dog 0.60"):
        assert f"<!-- {shown} -->" in text
    assert "<!-- difficult object -->" in text
    assert "0.10" not in text


def test_a_network_without_detections_has_no_row(tmp_path: Path) -> None:
    found = {"Imported": [], "STE": [ImageDetections(boxes=[A], scores=[0.6], labels=[1])]}
    pixels = torch.zeros(1, 3, 64, 64)
    paths = detection_figure.detections(pixels, [objects(A)], found, ("cat",), tmp_path)
    text = paths[1].read_text(encoding="utf-8")
    assert "<!-- STE -->" in text
    assert "Imported" not in text


def test_at_most_four_images_stand_side_by_side(tmp_path: Path) -> None:
    widths = [matplotlib.image.imread(drawn(tmp_path, n)[0]).shape[1] for n in (1, 4, 6)]
    assert widths[0] < widths[1] == widths[2]


def test_without_images_or_networks_nothing_is_drawn(tmp_path: Path) -> None:
    assert drawn(tmp_path, 0) == []
    assert (
        detection_figure.detections(torch.zeros(1, 3, 8, 8), [objects(A)], {}, ("cat",), tmp_path)
        == []
    )
    assert list(tmp_path.iterdir()) == []


def test_the_ground_is_transparent_since_a_photograph_cannot_be_inverted(tmp_path: Path) -> None:
    pixels = matplotlib.image.imread(drawn(tmp_path)[0])
    assert pixels.shape[2] == 4
    assert pixels[0, 0, 3] == 0

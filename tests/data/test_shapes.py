from __future__ import annotations

from pathlib import Path

from qbench.data.shapes import Shapes
from tests.helpers.voc_tree import Add, add_image, object_xml, picture


def test_a_flip_takes_boxes_with_it(tmp_path: Path, add: Add) -> None:
    add_image(tmp_path, 2007, "trainval", "left", [object_xml("bird", (1, 1, 10, 20))], picture())
    train = Shapes(root=str(tmp_path), image_size=20, years=[2007])
    names = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
    names.write_text("left\n")
    split = train.train()
    seen = {tuple(split[0][1]["boxes"][0].tolist()) for _ in range(20)}
    assert seen == {(0, 0, 5, 20), (15, 0, 20, 20)}

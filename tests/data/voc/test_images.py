"""Images of a list of Pascal VOC, and their boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image

from qbench.data import UnreadableError
from qbench.data.voc.voc import VOC
from qbench.errors import QbenchError
from qbench.train.loading import evaluation_loader
from tests.helpers.images import CPU
from tests.helpers.voc_tree import Add, object_xml, voc


def test_boxes_are_counted_from_zero_and_stretched_with_their_image(
    tmp_path: Path, add: Add
) -> None:
    add("test", object_xml("tvmonitor", (11, 6, 30, 15)), object_xml("person", (1, 1, 40, 20)))
    image, target = voc(tmp_path).test()[1]
    assert image.shape == (3, 20, 20)
    assert image.dtype == torch.uint8
    # x 10…30 of 40 is 5…15 of 20; y 5…15 stays; and an object may be the whole image.
    assert target["boxes"].tolist() == [[5, 5, 15, 15], [0, 0, 20, 20]]
    assert target["labels"].tolist() == [20, 15]
    assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
    assert target["difficult"].tolist() == [False, False]
    assert {type(value) for value in (image, *target.values())} == {torch.Tensor}


def test_difficult_objects_are_tested_and_not_trained_on(tmp_path: Path, add: Add) -> None:
    hard, easy = object_xml("bus", (1, 1, 40, 20), 1), object_xml("car", (3, 3, 38, 18))
    add("trainval", hard, easy)
    add("trainval", hard)
    add("test", hard, easy)
    dataset = voc(tmp_path, years=[2007])
    assert dataset.test()[1][1]["difficult"].tolist() == [True, False]
    train = dataset.train()
    assert len(train) == 2
    labels = {int(label) for _ in range(9) for label in train[1][1]["labels"]}
    assert labels == {7}


def test_images_without_objects_are_tested_and_not_trained_on(tmp_path: Path, add: Add) -> None:
    add("trainval")
    add("test")
    dataset = voc(tmp_path, years=[2007])
    assert (len(dataset.train()), len(dataset.test())) == (1, 2)
    target = dataset.test()[1][1]
    assert target["boxes"].shape == (0, 4)
    assert (len(target["labels"]), len(target["difficult"])) == (0, 0)


def test_boxes_are_clipped_to_their_image_and_left_out_without_area(
    tmp_path: Path, add: Add
) -> None:
    add(
        "test",
        object_xml("cow", (31, 11, 60, 99)),  # over the right and the lower edge
        object_xml("cow", (5, 5, 4, 9)),  # no column of pixels
        object_xml("cow", (45, 1, 60, 9)),  # outside
        object_xml("cow", (40, 20, 40, 20)),  # one pixel, the last
        object_xml("cow", (0.6, 0.4, 20.5, 10.2)),  # a few of VOC2012's are no whole numbers
    )
    boxes = voc(tmp_path).test()[1][1]["boxes"]
    expected = torch.tensor([[15, 10, 20, 20], [19.5, 19, 20, 20], [0, 0, 10.25, 10.2]])
    torch.testing.assert_close(boxes, expected)


def test_an_image_that_cannot_be_read_is_left_out_of_its_batch_and_named(
    tmp_path: Path, add: Add
) -> None:
    for name in ("gone", "broken"):
        add("test", object_xml("dog", (1, 1, 9, 9)), name=name)
    images = tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages"
    (images / "gone.jpg").unlink()
    (images / "broken.jpg").write_bytes(b"no image")
    dataset = voc(tmp_path)
    with pytest.raises(UnreadableError, match=r"gone\.jpg"):
        dataset.test()[1]
    loader = evaluation_loader(dataset, dataset.test(), VOC.aligned_recipe, 0, CPU)
    [(inputs, targets)] = list(loader)
    assert (len(inputs), len(targets)) == (1, 1)
    assert [Path(text.split(" (")[0]).name for text in loader.unreadable()] == [
        "gone.jpg",
        "broken.jpg",
    ]


def test_a_list_without_images_is_refused_by_its_name(tmp_path: Path, add: Add) -> None:
    names = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "trainval.txt"
    names.write_text("\n")
    with pytest.raises(QbenchError, match=f"{names}: it lists no image"):
        voc(tmp_path).sizes()
    with pytest.raises(QbenchError, match=f"{names}: it lists no image"):
        voc(tmp_path).train()
    names.write_text("trainval9\n")
    (tmp_path / "VOCdevkit/VOC2007/Annotations/trainval9.xml").write_text("<annotation/>")
    with pytest.raises(QbenchError, match=f"{names}: of the 1 images .* none has an object"):
        voc(tmp_path).train()


# What images and lists say of themselves ---------------------------------------------------------


def turn(file: Path, orientation: int) -> Path:
    """Give an image an EXIF orientation; returns its file."""
    image = file.parents[1] / "JPEGImages" / f"{file.stem}.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.open(image).save(image, exif=exif)
    return image


def resize(file: Path, width: int, height: int) -> None:
    """Change the size in an annotation of 40 × 20 pixels."""
    size = f"<width>{width}</width><height>{height}</height>"
    file.write_text(
        file.read_text().replace("<width>40</width><height>20</height>", size if width else "")
    )


def test_an_image_is_turned_upright_where_its_boxes_are(tmp_path: Path, add: Add) -> None:
    stored, upright = (add("test", object_xml("dog", (1, 1, 10, 10))) for _ in range(2))
    for file in (stored, upright):
        turn(file, 6)
    resize(upright, 20, 40)
    images = voc(tmp_path).test()
    assert images[1][1]["boxes"].tolist() == [[0, 0, 5, 10]]  # of 40 × 20 pixels
    assert images[2][1]["boxes"].tolist() == [[0, 0, 10, 5]]  # of 20 × 40 pixels
    turned = images[1][0].rot90(-1, (1, 2)).float()
    assert (images[2][0].float() - turned).abs().mean() < 3


@pytest.mark.parametrize(("orientation", "width"), [(3, 40), (2, 40), (4, 0), (6, 0)])
def test_an_image_is_named_where_its_boxes_may_be_turned_or_not(
    tmp_path: Path, add: Add, orientation: int, width: int
) -> None:
    file = add("test", object_xml("dog", (1, 1, 10, 10)))
    image = turn(file, orientation)
    resize(file, width, 20)
    with pytest.raises(QbenchError, match=f"{image}: its EXIF orientation turns it, and nothing"):
        voc(tmp_path).test()
    file.write_text("<annotation/>")
    assert len(voc(tmp_path).test()) == 2


@pytest.mark.parametrize("size", [(20, 40), (80, 40), (41, 20)])
def test_an_image_of_another_size_than_its_annotation_is_named(
    tmp_path: Path, add: Add, size: tuple[int, int]
) -> None:
    resize(add("test", object_xml("dog", (1, 1, 10, 10)), name="a"), *size)
    reason = rf"a\.jpg: has 40 × 20 pixels, and its annotation is of {size[0]} × {size[1]}"
    with pytest.raises(QbenchError, match=reason):
        voc(tmp_path).test()


@pytest.mark.parametrize(
    ("split", "line", "reason"),
    [
        ("test", "test1", r"test\.txt:2: test1 is in line 1 already"),
        ("trainval", "trainval0", r"trainval\.txt:2: trainval0 is in line 1 already"),
        ("test", "trainval0", r"test\.txt: trainval0 is a training image too, in .*trainval\.txt"),
        ("test", "test1 -1", r"test\.txt:2: expected the name of an image, found 'test1 -1'"),
    ],
)
def test_a_list_that_has_an_image_twice_is_named(
    tmp_path: Path, add: Add, split: str, line: str, reason: str
) -> None:
    with (tmp_path / f"VOCdevkit/VOC2007/ImageSets/Main/{split}.txt").open("a") as names:
        names.write(f"{line}\n")
    for read in (voc(tmp_path).test, voc(tmp_path).identity):
        with pytest.raises(QbenchError, match=reason):
            read()

"""Pascal VOC from trees written by hand, and drawn ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qbench import registry
from qbench.data import UnreadableError
from qbench.data.shapes import Shapes
from qbench.data.synthetic import voc_like
from qbench.data.voc.voc import VOC
from qbench.errors import QbenchError
from qbench.train.loading import evaluation_loader, training_loader
from tests.helpers.voc_tree import add_image, object_xml

CPU = torch.device("cpu")
Add = Callable[..., Path]


def picture(width: int = 40, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Add an image of 40×20 pixels to a split of a tree, which has one of each already."""

    def to_split(split: str, *objects: str, name: str = "", year: int = 2007) -> Path:
        name = name or f"{split}{len(list(tmp_path.rglob('*.xml')))}"
        return add_image(tmp_path, year, split, name, objects, picture())

    for year, split in ((2007, "trainval"), (2007, "test"), (2012, "trainval")):
        to_split(split, object_xml("dog", (1, 1, 20, 10)), year=year)
    return to_split


def voc(root: Path, **options: Any) -> VOC:
    return VOC(root=str(root), **{"image_size": 20, **options})


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


def test_both_years_train_and_one_tests(tmp_path: Path, add: Add) -> None:
    add("trainval", object_xml("cat", (1, 1, 9, 9)), year=2012)
    dataset = voc(tmp_path)
    assert (len(dataset.train()), len(dataset.test())) == (3, 1)
    assert len(voc(tmp_path, years=(2012,)).train()) == 2
    assert dataset.sizes() == (3, 1)
    assert dataset.num_classes == 21


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


def test_parts_of_objects_are_no_objects(tmp_path: Path, add: Add) -> None:
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part></object>"
    add("test", object_xml("person", (1, 1, 9, 9)).replace("</object>", part))
    assert voc(tmp_path).test()[1][1]["labels"].tolist() == [15]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (object_xml("dgo", (1, 1, 9, 9)), "no class is named 'dgo'; did you mean 'dog'"),
        (object_xml("dog", (9, 1, 3, 9)), "the box of a dog ends before it begins"),
        (object_xml("dog", (1, 1, float("nan"), 9)), "the box of a dog ends before it begins"),
        ("<object><name>dog</name></object>", "should have four numbers"),
        ("<object>", "this annotation is no XML"),
    ],
)
def test_an_annotation_that_is_none_is_refused_by_its_name(
    tmp_path: Path, add: Add, written: str, reason: str
) -> None:
    file = add("test", written)
    with pytest.raises(QbenchError, match=reason) as error:
        voc(tmp_path).test()
    assert str(error.value).startswith(f"{file}: ")


def test_an_annotation_that_is_not_there_is_named(tmp_path: Path, add: Add) -> None:
    file = add("trainval")
    file.unlink()
    with pytest.raises(QbenchError, match=f"{file}: cannot read this annotation: No such file"):
        voc(tmp_path).train()


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
    loader = evaluation_loader(dataset, VOC.aligned_recipe, 0, CPU)
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


# Where the data are ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "voc", "voc/VOCdevkit"])
def test_a_root_may_be_the_folder_or_hold_it(tmp_path: Path, place: str) -> None:
    voc_like.write(tmp_path / "voc", train=4, test=2)
    dataset = VOC(root=str(tmp_path / place))
    assert dataset.missing() == ""
    assert len(dataset.test()) == 2


def test_the_default_root_is_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QBENCH_DATA", raising=False)
    assert "Set QBENCH_DATA to the folder that holds voc/VOCdevkit" in VOC().missing()
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path))
    for name, dataset in (("voc", VOC), ("shapes", Shapes)):
        reason = dataset().missing()
        assert f"expected a folder {tmp_path}/{name}/VOCdevkit or {tmp_path}/VOCdevkit" in reason
        assert "found nothing" in reason
        assert "`qbench data voc-like FOLDER` draws a small tree" in reason
    voc_like.write(tmp_path / "shapes", train=4, test=2)
    assert Shapes().missing() == ""


@pytest.mark.parametrize("part", ["ImageSets/Main/trainval.txt", "Annotations", "JPEGImages"])
def test_what_is_missing_of_a_tree_is_named(tmp_path: Path, add: Add, part: str) -> None:
    path = tmp_path / "VOCdevkit" / "VOC2012" / part
    path.rename(path.with_name("elsewhere"))
    dataset = voc(tmp_path)
    assert f"expected {path}; found" in dataset.missing()
    assert "elsewhere" in dataset.missing()
    with pytest.raises(QbenchError, match=f"expected {path}"):
        dataset.train()
    assert dataset.sizes() == (16_551, 4_952)
    assert voc(tmp_path, years=[2007]).missing() == ""


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    dataset: Any = registry.build_dataset("voc", {"root": str(tmp_path / "nowhere")})
    assert (dataset.num_classes, dataset.image_shape) == (21, (3, 300, 300))
    assert dataset.identity() == {}
    assert (Shapes().num_classes, Shapes().image_shape) == (6, (3, 96, 96))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"years": [2011]}, "data.years are 2007 and 2012, not .*2011"),
        ({"years": []}, "data.years are 2007 and 2012"),
        ({"image_size": 0}, "data.image_size is 1 or more, not 0"),
        ({"year": [2007]}, "no option 'year' of data; did you mean 'years'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(QbenchError, match=reason):
        registry.build_dataset("voc", options)


def test_what_differs_from_the_original_is_part_of_a_trials_key(tmp_path: Path, add: Add) -> None:
    assert voc(tmp_path, image_size=300).identity() == {"train": 2, "test": 1}
    only = voc(tmp_path, years=[2012]).identity()
    assert only == {"image_size": 20, "years": [2012], "train": 1, "test": 1}


# Training images ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of drawn shapes."""
    folder = tmp_path_factory.mktemp("drawn")
    voc_like.write(folder, train=40, test=10)
    return folder


@pytest.mark.parametrize("kind", [VOC, Shapes])
def test_training_boxes_stay_boxes_within_the_image(drawn: Path, kind: type[VOC]) -> None:
    dataset = kind(root=str(drawn), image_size=64)
    torch.manual_seed(0)
    train = dataset.train()
    items = [train[i] for i in range(len(train)) for _ in range(3)]
    boxes = torch.cat([target["boxes"] for _, target in items])
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 1
    assert 0 <= float(boxes.min()) < float(boxes.max()) <= 64
    assert all(len(t["boxes"]) == len(t["labels"]) == len(t["difficult"]) for _, t in items)
    images, targets = dataset.collate(items[:5])
    assert images.shape == (5, 3, 64, 64)
    assert len(targets) == 5
    inputs = dataset.to_input(images)
    assert inputs.is_floating_point()
    assert 0 <= inputs.min() < inputs.max() <= 1


def test_a_flip_takes_boxes_with_it(tmp_path: Path, add: Add) -> None:
    add_image(tmp_path, 2007, "trainval", "left", [object_xml("bird", (1, 1, 10, 20))], picture())
    train = Shapes(root=str(tmp_path), image_size=20, years=[2007])
    names = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
    names.write_text("left\n")
    split = train.train()
    seen = {tuple(split[0][1]["boxes"][0].tolist()) for _ in range(20)}
    assert seen == {(0, 0, 5, 20), (15, 0, 20, 20)}


@pytest.mark.parametrize("kind", [VOC, Shapes])
def test_augmentation_draws_from_torch_alone(drawn: Path, kind: type[VOC]) -> None:
    train = kind(root=str(drawn), image_size=64).train()
    python, numpy = random.getstate(), str(np.random.get_state())
    seen = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        seen.append([train[i][0] for i in range(10)])
    assert all(map(torch.equal, seen[0], seen[1]))
    assert not all(map(torch.equal, seen[0], seen[2]))
    assert random.getstate() == python
    assert str(np.random.get_state()) == numpy


def test_batches_are_the_same_whoever_loads_them(drawn: Path) -> None:
    dataset = VOC(root=str(drawn), image_size=32)
    batches = []
    for workers in (0, 2):
        order = torch.Generator().manual_seed(0)
        loader = training_loader(dataset, Shapes.aligned_recipe, 0, order, workers, CPU)
        batches.append(list(loader))
    for (here, ours), (there, theirs) in zip(*batches, strict=True):
        assert torch.equal(here, there)
        for mine, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_a_stand_in_is_drawn(tmp_path: Path) -> None:
    for kind in (VOC, Shapes):
        dataset = kind(**kind().stand_in(tmp_path))
        assert dataset.missing() == ""
        assert dataset.sizes() == (40, 10)

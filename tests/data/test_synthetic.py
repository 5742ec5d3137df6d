"""Drawn images in the shape of ImageNet and of Pascal VOC, as `qbench data` writes them."""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from torch import nn
from torchvision.datasets import ImageFolder, VOCDetection
from torchvision.transforms.functional import to_tensor

from qbench.data.synthetic import imagenet_like, voc_like
from qbench.data.synthetic.scene import Scene, compose
from qbench.errors import QbenchError
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from tests.conftest import Qbench

IMAGENET_SIZE, VOC_SIZE = 100, 80
write_imagenet = partial(imagenet_like.write, classes=10, per_class=30, size=IMAGENET_SIZE)
write_voc = partial(voc_like.write, train=90, test=30, classes=4, size=VOC_SIZE)


@dataclass
class Drawn:
    """A folder that the command line wrote, and what it printed."""

    folder: Path
    command: list[str | Path]
    output: str


@pytest.fixture(scope="module")
def qbench(qbench_in: Callable[[Path], Qbench], tmp_path_factory: pytest.TempPathFactory) -> Qbench:
    return qbench_in(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def imagenet(qbench: Qbench, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(
        qbench, "imagenet-like", tmp_path_factory.mktemp("data") / "imagenet", write_imagenet
    )


@pytest.fixture(scope="module")
def voc(qbench: Qbench, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(qbench, "voc-like", tmp_path_factory.mktemp("data") / "voc", write_voc)


def draw(qbench: Qbench, kind: str, folder: Path, write: partial[Any]) -> Drawn:
    options = write.keywords.items()
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options]
    command: list[str | Path] = ["data", kind, folder, *itertools.chain(*words)]
    return Drawn(folder, command, qbench(*command))


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_arguments_give_the_same_bytes(
    imagenet: Drawn, voc: Drawn, tmp_path: Path
) -> None:
    write_imagenet(tmp_path / "imagenet")
    write_voc(tmp_path / "voc")
    assert everything(tmp_path / "imagenet") == everything(imagenet.folder)
    assert everything(tmp_path / "voc") == everything(voc.folder)


def test_what_is_there_is_not_written_again(imagenet: Drawn, qbench: Qbench) -> None:
    before = {path: path.stat().st_mtime_ns for path in imagenet.folder.rglob("*")}
    assert "is there already, and nothing was written" in qbench(*imagenet.command)
    assert {path: path.stat().st_mtime_ns for path in imagenet.folder.rglob("*")} == before


def test_an_interrupted_tree_is_completed(tmp_path: Path) -> None:
    def interrupt(paths: Any) -> Any:
        yield from paths[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imagenet_like.write(tmp_path / "stopped", 2, 15, 40, interrupt)
    whole = imagenet_like.write(tmp_path / "whole", 2, 15, 40)
    assert imagenet_like.write(tmp_path / "stopped", 2, 15, 40).files == whole.files - 20
    assert everything(tmp_path / "stopped") == everything(tmp_path / "whole")


def test_a_folder_that_holds_something_else_is_left_as_it_is(
    qbench: Qbench, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    output = qbench("data", "voc-like", tmp_path, code=2)
    assert f"{tmp_path} is not empty" in output
    assert "name a folder that is empty or not there yet" in output
    assert everything(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(QbenchError, match=r"notes\.txt: cannot write there"):
        imagenet_like.write(tmp_path / "notes.txt")


def test_a_tree_of_other_arguments_is_left_as_it_is(voc: Drawn) -> None:
    before = everything(voc.folder)
    with pytest.raises(QbenchError, match=r"holds another tree, by .*--train 90 .*name another"):
        voc_like.write(voc.folder, train=8)
    with pytest.raises(QbenchError, match="holds another tree, by `qbench data voc-like"):
        imagenet_like.write(voc.folder)
    assert everything(voc.folder) == before


@pytest.mark.parametrize(
    ("write", "option", "value", "message"),
    [
        (imagenet_like.write, "classes", 1, "--classes 1: can be 2 to 1000"),
        (imagenet_like.write, "classes", 1001, "ImageNet has 1000"),
        (imagenet_like.write, "per_class", 3, "--per-class 3: can be 4 to 1300"),
        (imagenet_like.write, "size", 15, "--size 15: can be 16 to 1000"),
        (voc_like.write, "classes", 21, "--classes 21: can be 2 to 20"),
        (voc_like.write, "train", 3, "--train 3: can be 4 to"),
        (voc_like.write, "test", 1, "--test 1: can be 2 to"),
        (voc_like.write, "size", 31, "--size 31: can be 32 to"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_made(
    tmp_path: Path, write: Callable[..., object], option: str, value: int, message: str
) -> None:
    with pytest.raises(QbenchError, match=message):
        write(tmp_path / "new", **{option: value})
    assert not (tmp_path / "new").exists()


def test_the_smallest_trees_can_be_drawn(tmp_path: Path) -> None:
    written = imagenet_like.write(tmp_path / "imagenet", 2, 4, 16)
    assert (written.train, written.val) == (8, 2)
    assert unreadable(tmp_path / "imagenet") == [written.broken]
    assert voc_like.write(tmp_path / "voc", 4, 2, 2, 32).trainval == (2, 2)


def test_imagenets_folders_and_lists_agree(imagenet: Drawn) -> None:
    for split, count in (("train", 300), ("val", 60)):
        found = ImageFolder(str(imagenet.folder / split))
        assert found.classes[:2] == ["n01440764", "n01443537"]  # as ImageNet's
        assert len(found.classes) == 10
        assert set(Counter(found.targets).values()) == {count // 10}
        lines = [f"{Path(path).relative_to(imagenet.folder)} {y}" for path, y in found.samples]
        text = (imagenet.folder / f"{split}.txt").read_text(encoding="utf-8")
        assert text.splitlines() == lines


def unreadable(folder: Path) -> list[Path]:
    """The images that PIL cannot load."""
    found = []
    for path in sorted(folder.rglob("*.JPEG")):
        try:
            Image.open(path).load()
        except OSError:
            found.append(path)
    return found


def test_one_image_is_broken_and_the_command_names_it(imagenet: Drawn) -> None:
    (broken,) = unreadable(imagenet.folder)
    assert f"Broken on purpose, cut off in the middle: {broken}" in imagenet.output
    assert broken.is_relative_to(imagenet.folder / "train")
    assert Image.open(broken).format == "JPEG"


def test_images_have_imagenets_oddities(imagenet: Drawn) -> None:
    kinds: Counter[tuple[str | None, str]] = Counter()
    turned = []
    for path in imagenet.folder.glob("train/*/*.JPEG"):
        with Image.open(path) as image:
            kinds[image.format, image.mode] += 1
            if orientation := image.getexif().get(ExifTags.Base.Orientation):
                turned.append(orientation)
                assert ImageOps.exif_transpose(image).size == image.size[::-1]
    assert kinds["PNG", "RGB"] == 1
    assert 1 < kinds["JPEG", "L"] < 30
    assert 1 < kinds["JPEG", "CMYK"] < 30
    assert kinds["JPEG", "RGB"] > 250
    assert kinds.total() == 300
    assert turned == [6]
    assert {Image.open(path).mode for path in imagenet.folder.glob("val/*/*")} >= {"RGB", "L"}


def test_images_have_many_sizes(imagenet: Drawn) -> None:
    sizes = [Image.open(path).size for path in imagenet.folder.glob("train/*/*.JPEG")]
    shorter = np.array([min(size) for size in sizes])
    assert 20 < (shorter < 64).sum() < 150
    assert abs(np.median(shorter) - IMAGENET_SIZE) < 15
    wide = np.mean([width > height for width, height in sizes])
    assert 0.5 < wide < 0.9
    assert len(set(sizes)) > 200


def test_every_class_looks_unlike_every_other() -> None:
    assert len({imagenet_like.look(label) for label in range(1000)}) == 1000
    names = [imagenet_like.wordnet_id(label) for label in range(1000)]
    assert sorted(set(names)) == names


def test_a_small_network_learns_the_classes(imagenet: Drawn) -> None:
    broken = unreadable(imagenet.folder)
    (x, y), (test_x, test_y) = (
        thumbnails(imagenet.folder / split, broken) for split in ("train", "val")
    )
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(32, 10),
    )
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(8):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    right = net.eval()(test_x).argmax(1) == test_y
    assert right.float().mean() > 0.4  # chance: 0.1


def thumbnails(folder: Path, without: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """A split's images as 32×32 and their labels."""
    samples = [(p, y) for p, y in ImageFolder(str(folder)).samples if Path(p) not in without]
    images = [to_tensor(Image.open(p).convert("RGB").resize((32, 32))) - 0.5 for p, _ in samples]
    return torch.stack(images), torch.tensor([y for _, y in samples])


def test_the_next_command_finds_the_tree(imagenet: Drawn) -> None:
    words = shlex.split(imagenet.output.split("Next:")[1])
    assert words[:3] == ["qbench", "run", "suites/qn_pretrained.yaml"]
    changes = [word for word in words[3:] if word != "--set"]
    suite = load_suite(Path(__file__).parents[2] / words[2], changes)
    grid = expand(suite)
    assert {planned.trial.recipe.epochs for planned in grid} == {1}
    assert {planned.trial.data["train"] for planned in grid} == {300}
    assert not any(planned.unsupported for planned in grid)


@pytest.mark.parametrize(
    ("year", "split", "count"),
    [
        *(("2007", "train", 23), ("2007", "val", 22), ("2007", "trainval", 45)),
        *(("2007", "test", 30), ("2012", "train", 23), ("2012", "val", 22)),
        ("2012", "trainval", 45),
    ],
)
def test_torchvision_reads_vocs_splits(voc: Drawn, year: str, split: str, count: int) -> None:
    found = VOCDetection(str(voc.folder), year=year, image_set=split)
    assert len(found) == count
    for image, target in found:
        annotation = target["annotation"]
        assert annotation["folder"] == f"VOC{year}"
        assert annotation["segmented"] == "0"
        size = annotation["size"]
        assert (int(size["width"]), int(size["height"]), size["depth"]) == (*image.size, "3")
        assert max(image.size) == VOC_SIZE
        assert len(annotation["object"]) <= 4


def test_vocs_splits_share_no_image(voc: Drawn) -> None:
    main = voc.folder / "VOCdevkit/VOC2007/ImageSets/Main"
    train, val, trainval, test = (
        (main / f"{split}.txt").read_text(encoding="utf-8").split()
        for split in ("train", "val", "trainval", "test")
    )
    assert sorted(train + val) == trainval
    assert not set(train) & set(val)
    assert not set(trainval) & set(test)
    images = (voc.folder / "VOCdevkit/VOC2007/JPEGImages").iterdir()
    assert {path.stem for path in images} == {*trainval, *test}
    assert not (voc.folder / "VOCdevkit/VOC2012/ImageSets/Main/test.txt").exists()


def annotated(voc: Drawn) -> list[tuple[Image.Image, list[dict[str, Any]]]]:
    return [
        (image, target["annotation"]["object"])
        for year in ("2007", "2012")
        for image, target in VOCDetection(str(voc.folder), year=year, image_set="trainval")
    ]


def corners(found: dict[str, Any]) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = (int(found["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax"))
    return x0, y0, x1, y1


def test_vocs_objects_are_flagged_as_they_lie(voc: Drawn) -> None:
    flags: Counter[str] = Counter()
    for image, objects in annotated(voc):
        width, height = image.size
        flags["empty"] += not objects
        for found in objects:
            x0, y0, x1, y1 = corners(found)
            assert 1 <= x0 <= x1 <= width
            assert 1 <= y0 <= y1 <= height
            flags[found["name"]] += 1
            if found["truncated"] == "1":
                flags["truncated"] += 1
                assert x0 == 1 or y0 == 1 or x1 == width or y1 == height
            small = min(x1 - x0, y1 - y0) + 1 < VOC_SIZE / 8
            assert found["difficult"] == str(int(small))
            flags["difficult"] += small
    assert flags["empty"] == 4
    assert all(flags[name] > 20 for name in ("aeroplane", "bicycle", "bird", "boat"))
    assert all(flags[name] > 5 for name in ("truncated", "difficult"))
    assert len(flags) == 7


def test_a_box_is_the_tight_one_of_the_pixels_that_are_drawn() -> None:
    drawn = 0
    for i in range(60):
        scene = compose(f"a scene {i}", 20, 96)
        bare = replace(scene, things=()).picture()
        for thing, found in zip(scene.things, scene.objects(), strict=True):
            alone = replace(scene, things=(thing,)).picture()
            changed = np.asarray(alone) != np.asarray(bare)
            rows, columns = changed.any(2).nonzero()
            box = columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1
            assert found.box == box
            drawn += 1
        together = (np.asarray(scene.picture()) != np.asarray(bare)).any(2)
        masks = [scene.mask(thing) for thing in scene.things]
        assert np.array_equal(together, np.any(masks, axis=0) if masks else together & False)
        assert sum(masks, np.zeros(together.shape, int)).max(initial=0) <= 1
    assert drawn > 100


def test_truncated_is_what_has_pixels_outside() -> None:
    thing = compose("anything", 2, 96).things[0]
    inside = thing._replace(x=10, y=10)
    for x, y, truncated in ((10, 10, False), (0, 0, False), (-1, 10, True), (10, 70, True)):
        scene = Scene("anything", 96, 72, (inside._replace(x=x, y=y),))
        assert scene.objects()[0].truncated is truncated


def test_boxes_fit_what_the_jpegs_show(voc: Drawn) -> None:
    off = []
    for image, objects in annotated(voc):
        pixels = np.pad(np.asarray(image).astype(int), ((4, 4), (4, 4), (0, 0)))
        vivid = pixels.max(2) - pixels.min(2) > 80  # more than any background is
        for found in objects:
            x0, y0, x1, y1 = corners(found)
            if found["difficult"] == "0":
                rows, columns = vivid[y0 - 1 : y1 + 8, x0 - 1 : x1 + 8].nonzero()
                shown = columns.min(), rows.min(), columns.max(), rows.max()
                off.append(np.subtract(shown, (4, 4, x1 - x0 + 4, y1 - y0 + 4)))
    assert np.median(off, axis=0).tolist() == [0, 0, 0, 0]

"""Drawn images in the layout of ImageNet."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from qbench.data.synthetic import imagenet_like
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from tests.helpers.drawn import IMAGENET_SIZE, Drawn, unreadable


def test_imagenets_folders_and_lists_agree(imagenet: Drawn) -> None:
    for split, count in (("train", 300), ("val", 60)):
        found = ImageFolder(str(imagenet.folder / split))
        assert found.classes[:2] == ["n01440764", "n01443537"]  # as ImageNet's
        assert len(found.classes) == 10
        assert set(Counter(found.targets).values()) == {count // 10}
        lines = [f"{Path(path).relative_to(imagenet.folder)} {y}" for path, y in found.samples]
        text = (imagenet.folder / f"{split}.txt").read_text(encoding="utf-8")
        assert text.splitlines() == lines


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
    suite = load_suite(Path(__file__).parents[3] / words[2], changes)
    grid = expand(suite)
    assert {planned.trial.recipe.epochs for planned in grid} == {1}
    assert {planned.trial.data["train"] for planned in grid} == {300}
    assert not any(planned.unsupported for planned in grid)

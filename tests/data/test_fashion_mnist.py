"""Fashion-MNIST: where it is looked for, what is read, and what is refused."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from qbench import registry
from qbench.data import fashion_mnist
from qbench.data.fashion_mnist import FashionMNIST, write_idx
from qbench.errors import QbenchError
from tests.helpers import fashion

INSTALLED = fashion_mnist.DEBIAN
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither Debian's package nor the environment has the data."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.delenv("QBENCH_DATA", raising=False)


def build(root: Path | None = None, **options: Any) -> FashionMNIST:
    given = options if root is None else {"root": str(root), **options}
    dataset = registry.build_dataset("fashion_mnist", given)
    assert isinstance(dataset, FashionMNIST)
    return dataset


def test_images_and_labels_are_those_of_the_files(tmp_path: Path) -> None:
    dataset = build(fashion.write(tmp_path))
    assert dataset.sizes() == (40, 20)
    for split, seed in ((dataset.train(), 0), (dataset.test(), 1)):
        pixels, labels = split.tensors
        assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert np.array_equal(pixels.squeeze(1).numpy(), fashion.images(len(split), seed))
        assert labels.tolist() == [i % 10 for i in range(len(split))]


def test_the_files_are_found_where_torchvision_and_debian_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = fashion.write(tmp_path / "files")
    for file in sorted(plain.iterdir()):
        (tmp_path / "debian").mkdir(exist_ok=True)
        (tmp_path / "debian" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    found = build()
    assert not found.missing()
    assert torch.equal(found.train().tensors[0], build(plain).train().tensors[0])
    # What the user names has precedence, and is not replaced by what is elsewhere.
    monkeypatch.setenv("QBENCH_DATA", str(tmp_path / "data"))
    fashion.write(tmp_path / "data" / "fashion_mnist" / "FashionMNIST" / "raw", train=30)
    assert build().sizes() == (30, 20)
    assert build(plain).sizes() == (40, 20)
    assert str(tmp_path / "debian") not in build(tmp_path / "other").missing()


def test_what_is_missing_names_three_ways_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "there.txt").touch()
    dataset = build(tmp_path)
    told = dataset.missing()
    assert f"in {tmp_path}/FashionMNIST/raw and {tmp_path}; {tmp_path} holds there.txt" in told
    for way in (
        "`qbench data fashion-mnist DIR`",
        "`apt-get install dataset-fashion-mnist`",
        "torchvision's FashionMNIST to $QBENCH_DATA/fashion_mnist",
    ):
        assert way in told
    assert dataset.sizes() == (60_000, 10_000)
    with pytest.raises(QbenchError, match="Three ways"):
        dataset.train()
    assert "debian" in build().missing()


def test_four_pixels_are_averaged_to_one(tmp_path: Path) -> None:
    dataset = build(fashion.write(tmp_path), image_size=14)
    assert dataset.image_shape == (1, 14, 14)
    seen = dataset.train().tensors[0]
    assert seen.shape == (40, 1, 14, 14)
    exact = torch.nn.functional.avg_pool2d(
        torch.from_numpy(fashion.images(40)).double()[:, None], 2
    )
    assert torch.equal(seen, (exact + 0.5).floor().to(torch.uint8))


def test_a_subset_is_stratified_and_fixed(tmp_path: Path) -> None:
    dataset = build(fashion.write(tmp_path, train=200), train_images=50)
    assert dataset.sizes() == (50, 20)
    train = dataset.train()
    assert len(train) == 50
    assert train.tensors[1].bincount().tolist() == [5] * 10
    assert torch.equal(train.tensors[0], build(tmp_path, train_images=50).train().tensors[0])
    # What may be held out begins with the training images; the others follow.
    every = dataset.unaugmented()
    assert len(every) == 200
    assert torch.equal(every.tensors[0][:50], train.tensors[0])
    assert len(every.tensors[0].unique(dim=0)) == 200


def test_validation_images_are_those_that_a_subset_leaves_out(tmp_path: Path) -> None:
    dataset = build(fashion.write(tmp_path, train=200), train_images=50)
    train, validation = dataset.splits(60)
    assert isinstance(train, TensorDataset)
    assert isinstance(validation, TensorDataset)
    assert (len(train), len(validation)) == (50, 60)
    both = torch.cat([train.tensors[0], validation.tensors[0]])
    assert len(both.unique(dim=0)) == 110
    assert validation.tensors[1].bincount().tolist() == [6] * 10


def test_options_are_part_of_the_key_and_of_the_name_in_tables(tmp_path: Path) -> None:
    assert (build().label, build().identity()) == ("", {})
    assert build(train_images=60_000).identity() == {}
    small = build(image_size=14, train_images=12_000)
    assert small.label == "fashion_mnist, 14×14, 12,000 training images"
    assert small.identity() == {"image_size": 14, "train_images": 12_000}


def test_other_files_have_an_identity_of_their_own(tmp_path: Path) -> None:
    own = build(fashion.write(tmp_path)).identity()
    assert (own["train"], own["test"]) == (40, 20)
    shutil.rmtree(tmp_path)
    assert build(fashion.write(tmp_path)).identity() == own
    labels = np.arange(40).astype(np.uint8)[::-1] % 10
    write_idx(tmp_path / LABELS, labels)
    assert build(tmp_path).identity()["files"] != own["files"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"image_size": 7}, r"data\.image_size: .*28 or 14, not 7"),
        ({"train_images": 0}, "from 1 to 60000, not 0"),
        ({"train_images": 60_001}, "from 1 to 60000, not 60001"),
        ({"train_images": True}, r"data\.train_images"),
        ({"train_image": 10}, "did you mean 'train_images'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(QbenchError, match=told):
        build(**options)


def test_a_subset_of_more_images_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QbenchError, match=r"train_images is 50, and .* has 40 training images"):
        build(fashion.write(tmp_path), train_images=50).train()


def test_files_that_are_malformed_are_named(tmp_path: Path) -> None:
    file = fashion.write(tmp_path) / IMAGES
    whole = file.read_bytes()
    for content, told in (
        (whole[:-1], "is cut off"),
        (b"no idx file", "is no idx file of bytes"),
        ((tmp_path / LABELS).read_bytes(), "holds 40 values, and should hold 40×28×28"),
    ):
        file.write_bytes(content)
        with pytest.raises(QbenchError, match=f"{file}: {told}"):
            build(tmp_path).train()
    file.unlink()
    packed = tmp_path / f"{IMAGES}.gz"
    packed.write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(QbenchError, match=f"{packed}: cannot be read"):
        build(tmp_path).train()


def test_images_that_are_damaged_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fashion.write(tmp_path)
    monkeypatch.setattr(fashion_mnist, "_is_original", lambda name, _: "labels" in name)
    with pytest.raises(QbenchError, match=f"{tmp_path}/{IMAGES}: is damaged"):
        build(tmp_path).train()


def test_a_stand_in_has_the_same_format_and_options(tmp_path: Path) -> None:
    options = build(image_size=14, train_images=12_000).stand_in(tmp_path / "here")
    small = build(**options, image_size=14)
    assert small.sizes() == (100, 50)
    assert small.train()[0][0].shape == (1, 14, 14)
    whole = build(**build().stand_in(tmp_path / "here"))
    assert whole.sizes() == (200, 50)


@pytest.mark.skipif(not INSTALLED.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_debian_package_has_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", INSTALLED)
    whole = build()
    assert whole.identity() == {}
    assert whole.sizes() == (60_000, 10_000)
    for size in (28, 14):
        dataset = build(image_size=size)
        inputs = dataset.to_input(dataset.train().tensors[0])
        assert float(inputs.mean()) == pytest.approx(0, abs=2e-3)
        assert float(inputs.std()) == pytest.approx(1, abs=2e-3)

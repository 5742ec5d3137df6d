"""The validation split: disjoint from training, stratified, fixed, and never of the test split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from qbench import registry
from qbench.data import Dataset, UnreadableError
from qbench.data.digits import Digits
from qbench.data.validation import classes_of, hold_out, select, stratified, without_test
from qbench.errors import QbenchError
from tests.helpers.training import train, trial

BROKEN = 4  # place of the training image that cannot be read


def size(split: TorchDataset[Any]) -> int:
    return len(split)  # type: ignore[arg-type]


def pixels(split: TorchDataset[Any]) -> list[bytes]:
    return [split[i][0].numpy().tobytes() for i in range(size(split))]


def test_every_class_has_its_share() -> None:
    classes = np.repeat([0, 1, 2], [60, 30, 10])
    np.random.RandomState(0).shuffle(classes)
    chosen = stratified(classes, 20)
    assert len(set(chosen.tolist())) == 20
    assert Counter(classes[chosen].tolist()) == {0: 12, 1: 6, 2: 2}
    # Shares that are no whole numbers are off by less than one.
    counts = Counter(classes[stratified(classes, 7)].tolist())
    assert all(abs(counts[c] - share) < 1 for c, share in enumerate([4.2, 2.1, 0.7]))
    assert stratified(classes, 100).tolist() == list(range(100))


def test_items_of_a_class_are_chosen_at_equal_distances() -> None:
    assert stratified([0] * 12, 3).tolist() == [2, 6, 10]
    assert stratified([1, 0] * 6, 4).tolist() == [2, 3, 8, 9]


@pytest.mark.parametrize(
    ("name", "count"), [("digits", 200), ("cifar10", 20), ("imagenet", 6), ("folder", 6)]
)
def test_validation_images_are_not_trained_on(name: str, count: int, tree: Path) -> None:
    options = {"digits": {}, "cifar10": {"synthetic": 60}}.get(name, {"root": str(tree)})
    dataset = registry.build_dataset(name, options)
    whole, pool = dataset.train(), dataset.unaugmented()
    train, validation = dataset.splits(count)
    assert size(validation) == count
    assert size(train) == size(whole) - count
    labels = classes_of(pool)
    chosen = stratified(labels, count)
    taken = set(chosen.tolist())
    held = indices_of(train, len(labels), taken)
    assert held.isdisjoint(taken)
    assert held | taken == set(range(len(labels)))
    share = np.bincount(labels) * count / len(labels)
    assert (np.abs(np.bincount(labels[chosen], minlength=len(share)) - share) < 1).all()


def indices_of(train: TorchDataset[Any], items: int, taken: set[int]) -> set[int]:
    """Return which items a split has."""
    if isinstance(train, Subset):
        return set(train.indices)
    assert isinstance(train, TensorDataset)
    rest = sorted(set(range(items)) - taken)
    assert torch.equal(train.tensors[0], Digits().train().tensors[0][rest])
    return set(rest)


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_no_validation_image_trains_or_tests(name: str) -> None:
    dataset = registry.build_dataset(name, {"synthetic": 60} if name == "cifar10" else {})
    train, validation = dataset.splits(30)
    plain = train if name == "digits" else select(dataset.unaugmented(), np.array(train.indices))  # type: ignore[attr-defined]
    held = set(pixels(validation))
    assert held.isdisjoint(pixels(plain))
    assert held.isdisjoint(pixels(dataset.test()))


def test_validation_images_are_preprocessed_like_test_images(tree: Path) -> None:
    dataset = registry.build_dataset("imagenet", {"root": str(tree), "image_size": 32})
    whole, (_, validation) = dataset.unaugmented(), dataset.splits(6)
    chosen = stratified(classes_of(whole), 6)
    for i, place in enumerate(chosen):
        if place != BROKEN:
            assert torch.equal(validation[i][0], whole[place][0])
            assert torch.equal(validation[i][0], validation[i][0])


def test_objects_of_validation_images_include_difficult_ones(drawn: Path) -> None:
    dataset = registry.build_dataset("shapes", {"root": str(drawn)})
    whole, plain = dataset.train(), dataset.unaugmented()
    assert [size(split) for split in dataset.splits(10)] == [size(whole) - 10, 10]
    assert size(whole) == size(plain)
    assert any(plain[i][1]["difficult"].any() for i in range(size(plain)))
    for i in range(5):  # training flips images at random, and does nothing else
        image, seen = plain[i][0].int(), whole[i][0].int()
        apart = min(int((seen - each).abs().max()) for each in (image, image.flip(2)))
        assert apart <= 2  # flipped before or after it was stretched


class Counted(TensorDataset):
    """Images whose only pixel is their index."""

    def __init__(self, classes: list[int]) -> None:
        images = torch.arange(len(classes)).view(-1, 1, 1, 1)
        super().__init__(images, torch.tensor(classes))


def test_images_that_do_not_train_are_taken_first() -> None:
    pool = Counted([0, 1] * 20)
    train = select(pool, np.arange(8))
    kept, validation = hold_out(train, pool, 12)
    assert kept is train
    images = [int(image) for image, _ in (validation[i] for i in range(12))]
    assert min(images) >= 8
    assert Counter(i % 2 for i in images) == {0: 6, 1: 6}
    kept, validation = hold_out(select(pool, np.arange(30)), pool, 12)  # ten others are too few
    assert size(kept) == 18
    images = [int(image) for image, _ in (validation[i] for i in range(12))]
    assert max(images) < 30


def test_a_split_of_more_than_half_of_the_training_images_is_refused() -> None:
    with pytest.raises(
        QbenchError, match=r"split of 719 images.* of the 1437 .*it has 718 at most"
    ):
        Digits().splits(719)
    train, validation = Digits().splits(718)
    assert (size(train), size(validation)) == (719, 718)


class Listed(TorchDataset[Any]):
    """Items as a plugin may have them: neither tensors in memory nor a list of targets."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[Tensor, Any]:
        if i == 5:
            raise UnreadableError("5.jpg: truncated")
        boxes = {"labels": torch.tensor([i % 2 + 1] if i != 4 else [])}
        return torch.zeros(1, 2, 2), boxes if i > 1 else torch.tensor(i)


def test_classes_of_any_split_are_found() -> None:
    assert classes_of(Listed()).tolist() == [0, 1, 1, 2, -1, -1]
    assert classes_of(ConcatDataset([Counted([3, 1]), Listed()])).tolist()[:3] == [3, 1, 0]


class Plugin(Dataset):
    """A dataset of one's own that knows nothing of validation, and must not be tested on."""

    title = source = "made up"
    num_classes, image_shape = 2, (1, 8, 8)
    full_precision_recipe = aligned_recipe = Digits.aligned_recipe

    def train(self) -> TensorDataset:
        labels = torch.arange(64) % 2
        return TensorDataset(torch.randn(64, 1, 8, 8) + 3 * labels.view(-1, 1, 1, 1), labels)

    def test(self) -> TensorDataset:
        raise AssertionError("the test split was opened")


def test_a_trial_with_validation_images_never_opens_the_test_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.register("datasets", "plugin", Plugin)
    try:
        what = trial("ste", dataset="plugin", data={}, validation=16)
        result, _ = train(what)
        assert result.status == "done", result.traceback
        unseen, _ = train(trial("ste", dataset="plugin", data={}))
    finally:
        registry._of_files["datasets"].pop("plugin")
    assert "the test split was opened" in unseen.reason


def test_a_trial_with_validation_images_has_a_key_of_its_own() -> None:
    plain = trial("ste")
    assert trial("ste", validation=0).key == plain.key
    selecting = trial("ste", validation=100, full_precision=plain.recipe)
    assert selecting.key != trial("ste", full_precision=plain.recipe).key
    assert selecting.base is not None
    assert selecting.base.validation == 100


def test_a_closed_dataset_has_all_but_its_test_split() -> None:
    dataset = registry.build_dataset("digits", {})
    closed = without_test(dataset)
    train, validation = closed.splits(30)
    assert size(train) + size(validation) == size(dataset.train())
    for read in (closed.test, closed.splits, lambda: closed.first(1)):
        with pytest.raises(QbenchError, match="must not open the test split"):
            read()
    assert closed.sizes() == dataset.sizes()
    assert size(dataset.test())  # the dataset itself stays as it is

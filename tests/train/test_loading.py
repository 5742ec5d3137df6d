from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from qbench.data import UnreadableError
from qbench.train.loading import Batches, Loader, worker_count

CPU = torch.device("cpu")


class Noise(TorchDataset[Any]):
    """Items whose content is drawn at random; some cannot be read."""

    def __init__(self, count: int, broken: set[int] | None = None) -> None:
        self._count, self._broken = count, broken or set()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index in self._broken:
            raise UnreadableError(f"{index}.jpg: truncated")
        return torch.rand(3, 2, 2), torch.tensor(index)


class Plain:
    """A dataset that passes its images on as they are."""

    def collate(self, items: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = zip(*items, strict=True)
        return torch.stack(images), torch.stack(labels)

    def to_input(self, images: torch.Tensor) -> torch.Tensor:
        return images


def loader(split: Any, batches: Batches, workers: int = 0, seed: int = 0, **more: Any) -> Loader:
    dataset: Any = Plain()
    channels_last = more.get("channels_last", False)
    return Loader(dataset, split, batches, seed, workers, CPU, channels_last)


def requests(batches: Batches) -> list[list[int]]:
    return [indices for _, indices in batches]


def test_batches_cover_all_items_once_in_order() -> None:
    batches = Batches(range(10), 4)
    assert requests(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(batches) == 3
    assert [batches.size(step) for step in (1, 2, 3)] == [4, 4, 2]


def test_epochs_are_counted_from_1() -> None:
    batches = Batches(range(4), 4)
    assert [epoch for _ in range(3) for epoch, _ in batches] == [1, 2, 3]


def test_an_epoch_has_at_most_the_batches_that_were_asked_for() -> None:
    assert requests(Batches(range(10), 2, most=3)) == [[0, 1], [2, 3], [4, 5]]
    assert len(Batches(range(10), 2, most=99)) == 5


def test_processes_share_every_batch() -> None:
    shares = [requests(Batches(range(10), 4, rank=rank, world=2)) for rank in (0, 1)]
    assert shares[0] == [[0, 2], [4, 6], [8]]
    assert shares[1] == [[1, 3], [5, 7], [9]]


def test_a_last_batch_with_fewer_items_than_processes_is_left_out() -> None:
    for rank in range(3):
        assert len(Batches(range(10), 4, rank=rank, world=3)) == 2
        assert len(Batches(range(11), 4, rank=rank, world=3)) == 3


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_items_do_not_depend_on_how_many_processes_load(workers: int) -> None:
    alone = list(loader(Noise(8), Batches(range(8), 3)))
    torch.rand(5)  # whatever else draws at random must not matter
    loaded = list(loader(Noise(8), Batches(range(8), 3), workers=workers))
    assert len(loaded) == 3
    for mine, its in zip(alone, loaded, strict=True):
        assert torch.equal(mine[0], its[0])
        assert torch.equal(mine[1], its[1])


def test_an_item_is_drawn_anew_in_each_epoch_and_for_each_seed() -> None:
    same = loader(Noise(4), Batches(range(4), 4))
    (first,), (second,) = list(same), list(same)
    (other,) = loader(Noise(4), Batches(range(4), 4), seed=1)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])


def test_loading_leaves_the_generator_of_torch_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(loader(Noise(8), Batches(range(8), 3)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_items_that_cannot_be_read_are_left_out_and_named(workers: int) -> None:
    loaded = loader(Noise(6, broken={1, 4}), Batches(range(6), 3), workers=workers)
    assert [labels.tolist() for _, labels in loaded] == [[0, 2], [3, 5]]
    assert loaded.unreadable() == ["1.jpg: truncated", "4.jpg: truncated"]


def test_a_batch_of_which_nothing_can_be_read_is_an_error() -> None:
    with pytest.raises(UnreadableError, match=r"no item of a batch can be read.*2\.jpg: truncated"):
        list(loader(Noise(4, broken={2, 3}), Batches(range(4), 2)))


def test_tensors_in_memory_are_indexed_at_once() -> None:
    split = TensorDataset(torch.rand(5, 1, 2, 2), torch.arange(5))
    loaded = loader(split, Batches([3, 1, 4], 2), workers=4)
    assert [labels.tolist() for _, labels in loaded] == [[3, 1], [4]]


def test_images_have_the_memory_format_that_was_asked_for() -> None:
    for wanted in (True, False):
        ((images, _),) = loader(Noise(2), Batches(range(2), 2), channels_last=wanted)
        assert images.is_contiguous(memory_format=torch.channels_last) == wanted


def test_boxes_of_a_detector_are_moved_with_their_images() -> None:
    class Boxes(Plain):
        def collate(self, items: list[Any]) -> Any:
            images, _ = super().collate(items)
            return images, [{"boxes": torch.zeros(1, 4)} for _ in items]

    dataset: Any = Boxes()
    loaded = Loader(dataset, Noise(2), Batches(range(2), 2), 0, 0, CPU, False)
    ((_, targets),) = loaded
    assert [target["boxes"].shape for target in targets] == [(1, 4), (1, 4)]


@pytest.mark.parametrize(
    ("cpus", "device", "expected"),
    [(1, "cpu", 0), (4, "cpu", 3), (0.5, "cpu", 0), (1, "cuda", 1), (8, "cuda", 7)],
)
def test_one_cpu_trains_and_the_others_load(cpus: float, device: str, expected: int) -> None:
    assert worker_count(cpus, torch.device(device)) == expected

"""Batches of a dataset: the same ones whoever loads them, and on however many processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from qbench import distributed
from qbench.data import Dataset, UnreadableError
from qbench.spec.recipe import Recipe

EVALUATION_BATCH = 500
_PREFETCH = 4
Request = tuple[int, list[int]]


class Batches(Sampler[Request]):
    """Requests for the batches of an epoch: its number, and this process' share of each batch.

    Args:
        order: the items, in the order in which an epoch takes them.
        batch_size: items of a batch, over all processes.
        most: batches of an epoch at most; None: all.
        rank: which of the processes this is.
        world: how many processes share a batch. A last batch of fewer items is left out.
    """

    def __init__(
        self,
        order: Sampler[int] | Sequence[int],
        batch_size: int,
        most: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._batches = BatchSampler(order, batch_size, drop_last=False)
        self._items = len(order)  # type: ignore[arg-type]
        self._batch_size = batch_size
        self._rank, self._world = rank, world
        whole = len(self._batches)
        if whole and self.size(whole) < world:
            whole -= 1
        self._count = min(whole, most or whole)
        self.epoch = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        self.epoch += 1
        for step, batch in enumerate(self._batches, 1):
            if step <= self._count:
                yield self.epoch, batch[self._rank :: self._world]

    def size(self, step: int) -> int:
        """Items of a batch over all processes; the step is counted from 1."""
        return min(self._batch_size, self._items - (step - 1) * self._batch_size)


class Loader:
    """Loads batches of a split onto a device; an iteration is an epoch.

    Args:
        dataset: whose split it is.
        split: a torch dataset.
        batches: which items make a batch.
        seed: of what is drawn at random for an item.
        workers: processes that load; 0 loads in this one. Tensors in memory need none.
        device: where batches go.
        channels_last: whether images go there in channels-last memory format.

    Attributes:
        batches: as given.
        device: as given.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: TorchDataset[Any],
        batches: Batches,
        seed: int,
        workers: int,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        self.batches = batches
        self._dataset = dataset
        self.device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._fetch = _Fetch(dataset, split, seed)
        in_memory = isinstance(split, TensorDataset)
        workers = 0 if in_memory else workers
        self._loader: DataLoader[Any] = DataLoader(
            self._fetch,
            sampler=batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            prefetch_factor=_PREFETCH if workers else None,
            # What is drawn for workers must not depend on how many there are.
            generator=None if in_memory else torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for images, *rest in self._loader:
            inputs = self._dataset.to_input(images.to(self.device, non_blocking=True))
            yield (inputs.contiguous(memory_format=self._format), *_moved(rest, self.device))

    def unreadable(self) -> list[str]:
        """The items that could not be read so far, each with its file and the reason."""
        return self._fetch.unreadable()


def _moved(value: Any, device: torch.device) -> Any:
    """Labels, or a list of dictionaries of tensors, on a device."""
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    if isinstance(value, dict):
        return {name: _moved(item, device) for name, item in value.items()}
    return value.to(device, non_blocking=True)


class _Fetch(TorchDataset[Any]):
    """Fetches a batch by its request: tensors in memory at once, else item by item."""

    def __init__(self, dataset: Dataset, split: TorchDataset[Any], seed: int) -> None:
        self._dataset = dataset
        self._split = split
        self._seed = seed
        count = len(split)  # type: ignore[arg-type]
        # Shared with the processes that load, so that this one hears of what they could not read.
        self._failed = torch.zeros(count, dtype=torch.bool).share_memory_()

    def __getitem__(self, request: Request) -> Any:
        epoch, indices = request
        if isinstance(self._split, TensorDataset):
            return self._split[indices]
        with torch.random.fork_rng(devices=[]):
            items = [item for i in indices if (item := self._item(epoch, i)) is not None]
        if not items:
            raise UnreadableError(
                f"no item of a batch can be read; the first: {self._reason(indices[0])}"
            )
        return self._dataset.collate(items)

    def _item(self, epoch: int, index: int) -> Any:
        draw = np.random.SeedSequence([self._seed, epoch, index]).generate_state(1, np.uint64)
        torch.manual_seed(int(draw[0] >> np.uint64(1)))
        try:
            return self._split[index]
        except UnreadableError:
            self._failed[index] = True
            return None

    def unreadable(self) -> list[str]:
        return [self._reason(i) for i in self._failed.nonzero().flatten().tolist()]

    def _reason(self, index: int) -> str:
        try:
            self._split[index]
        except UnreadableError as error:
            return str(error)
        return f"item {index}, which can be read now"


def training_loader(
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    order: torch.Generator,
    workers: int,
    device: torch.device,
    shared: bool = True,
) -> Loader:
    """Shuffled training batches.

    Args:
        dataset: what to load.
        recipe: how large a batch is, and how many there are.
        seed: of what is drawn at random for an item.
        order: from which the order of an epoch is drawn, the same on every process.
        workers: processes that load.
        device: where batches go.
        shared: whether each process has its share of a batch, or all of it.
    """
    split = dataset.train()
    shuffled = RandomSampler(split, generator=order)  # type: ignore[arg-type]
    share = (distributed.rank(), distributed.world()) if shared else (0, 1)
    batches = Batches(shuffled, recipe.batch_size, recipe.steps, *share)
    return Loader(dataset, split, batches, seed, workers, device, recipe.channels_last)


def evaluation_loader(
    dataset: Dataset, recipe: Recipe, workers: int, device: torch.device
) -> Loader:
    """Test batches in order, every process its share; arguments as of `training_loader`."""
    split = dataset.test()
    share = range(distributed.rank(), len(split), distributed.world())  # type: ignore[arg-type]
    batches = Batches(share, EVALUATION_BATCH)
    return Loader(dataset, split, batches, 0, workers, device, recipe.channels_last)


def worker_count(cpus: float, device: torch.device) -> int:
    """Processes that load for one that trains: its CPUs but one, and for a GPU at least one."""
    return max(int(cpus) - 1, 1 if device.type == "cuda" else 0)

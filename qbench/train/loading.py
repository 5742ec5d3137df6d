"""Loading of batches. They do not depend on the number of processes that load or train."""

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
    """Sampler of the batches of an epoch: the epoch, and this process' share of each batch.

    Args:
        order: Indices of the items, in the order of an epoch.
        batch_size: Items of a batch, over all processes.
        most: Largest number of batches of an epoch. None: all.
        rank: Rank of this process.
        world: Number of processes that share a batch. A last batch of fewer items is left out.
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
        """Return the number of items of a batch over all processes; steps count from 1."""
        return min(self._batch_size, self._items - (step - 1) * self._batch_size)


class Loader:
    """Loader of the batches of a split onto a device. Each iteration over it is an epoch.

    Args:
        dataset: The dataset.
        split: Its split, a torch dataset.
        batches: The items of each batch.
        seed: Seed of what is drawn at random for an item.
        workers: Number of processes that load; 0 loads in this one. Tensors in memory need none.
        device: Device that batches are moved to.
        channels_last: Whether images have the channels-last memory format.

    Attributes:
        batches: As given.
        device: As given.
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
        """Return the items that could not be read so far, each with its file and the reason."""
        return self._fetch.unreadable()


def _moved(value: Any, device: torch.device) -> Any:
    """Move labels, or a list of dictionaries of tensors, to a device."""
    if isinstance(value, list):
        return [_moved(item, device) for item in value]
    if isinstance(value, dict):
        return {name: _moved(item, device) for name, item in value.items()}
    return value.to(device, non_blocking=True)


class _Fetch(TorchDataset[Any]):
    """Batches by request: tensors in memory at once, anything else item by item."""

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
    split: TorchDataset[Any],
    recipe: Recipe,
    seed: int,
    order: torch.Generator,
    workers: int,
    device: torch.device,
    shared: bool = True,
) -> Loader:
    """Build the loader of shuffled training batches.

    Args:
        dataset: The dataset.
        split: Its items to train on.
        recipe: Gives the batch size and the number of batches.
        seed: Seed of what is drawn at random for an item.
        order: Generator of the order of each epoch, the same on every process.
        workers: Number of processes that load.
        device: Device that batches are moved to.
        shared: Whether each process gets its share of a batch, or all of it.
    """
    shuffled = RandomSampler(split, generator=order)  # type: ignore[arg-type]
    share = (distributed.rank(), distributed.world()) if shared else (0, 1)
    batches = Batches(shuffled, recipe.batch_size, recipe.steps, *share)
    return Loader(dataset, split, batches, seed, workers, device, recipe.channels_last)


def evaluation_loader(
    dataset: Dataset,
    split: TorchDataset[Any],
    recipe: Recipe,
    workers: int,
    device: torch.device,
) -> Loader:
    """Build the loader of batches to measure on, in order, each process with its share of them.

    Args:
        dataset: The dataset.
        split: Its items to measure on.
        recipe: Gives the memory format of images.
        workers: Number of processes that load.
        device: Device that batches are moved to.
    """
    share = range(distributed.rank(), len(split), distributed.world())  # type: ignore[arg-type]
    batches = Batches(share, EVALUATION_BATCH)
    return Loader(dataset, split, batches, 0, workers, device, recipe.channels_last)


def worker_count(cpus: float, device: torch.device) -> int:
    """Return the number of loader workers of a process.

    It is the number of its CPUs less one, and at least one for a GPU.
    """
    return max(int(cpus) - 1, 1 if device.type == "cuda" else 0)

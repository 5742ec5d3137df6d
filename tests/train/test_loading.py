"""Batches of a trial, and the processes that load them."""

from __future__ import annotations

import torch

from qbench.train.loading import Batches, worker_count
from tests.helpers.images import CPU


def test_processes_share_a_batch_and_the_sizes_add_up() -> None:
    shares = [Batches(range(23), 8, rank=rank, world=2) for rank in (0, 1)]
    both = [[indices for _, indices in share] for share in shares]
    for step, (left, right) in enumerate(zip(*both, strict=True), 1):
        assert len(left) + len(right) == shares[0].size(step)
    assert sorted(i for part in both for indices in part for i in indices) == list(range(23))
    assert len(Batches(range(17), 8, rank=0, world=2)) == 2  # one item is not enough for two
    assert [indices for _, indices in Batches(range(9), 3, most=2)] == [[0, 1, 2], [3, 4, 5]]


def test_one_core_trains_and_the_others_load() -> None:
    assert [worker_count(cpus, CPU) for cpus in (0.5, 1, 2, 8)] == [0, 0, 1, 7]
    assert worker_count(1, torch.device("cuda")) == 1

"""Training of one trial on several processes: their ranks, and what they share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


def world() -> int:
    """Return the number of processes that train this trial."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def total(x: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if world() > 1:
        distributed.all_reduce(x)
    return x


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """Concatenate the tensors of all processes, which may differ in their first dimension."""
    if world() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world())]
    distributed.all_gather(counts, torch.tensor([len(x)], device=x.device))
    sizes = [int(count) for count in counts]
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def interleave(items: list[Any]) -> list[Any]:
    """Merge the items of all processes, each of which has every ``world``-th, in order.

    Args:
        items: of this process; whatever can be pickled.
    """
    if world() == 1:
        return items
    shares: list[Any] = [None] * world()
    distributed.all_gather_object(shares, items)
    every = [None] * sum(map(len, shares))
    for first, share in enumerate(shares):
        every[first :: world()] = share
    return every


class _Total(torch.autograd.Function):
    """The sum over all processes, each of which has its own loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient.clone())


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of the whole batch, on a CPU.

    torch's own does it on a GPU only. Any shape (N, C, …).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` and, in training, learn the running statistics."""
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        n = total(torch.tensor(x.numel() / x.shape[1], dtype=x.dtype))
        mean = _Total.apply(x.sum(dims)) / n
        centred = x - mean.view(shape)
        variance = _Total.apply(centred.square().sum(dims)) / n
        self._learn(mean.detach(), variance.detach() * n / (n - 1))
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y

    @torch.no_grad()
    def _learn(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # noqa: S101 - there is one with the others
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)

    def _check_input_dim(self, x: Tensor) -> None:
        """Take any shape."""


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Have batch normalisation see the whole batch, so that processes together are as one.

    Args:
        model: changed in place; its ``state_dict`` keeps its names.
        device: what it runs on.

    Returns:
        The model.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = SyncBatchNorm
    return model

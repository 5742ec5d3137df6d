"""Communication between the processes that train one trial.

Every function also works in a process that trains alone, without a process group.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, distributed, nn

from qbench import process


def world() -> int:
    """Return the number of processes that train this trial."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def total(x: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place.

    Args:
        x: Tensor, any shape and dtype, the same in every process.

    Returns:
        ``x``.
    """
    if world() > 1:
        distributed.all_reduce(x)
    return x


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """Concatenate the tensors of all processes along the first dimension.

    Args:
        x: Tensor of this process, (n, …), without gradient. n may differ between processes, the
            other dimensions and the dtype may not.

    Returns:
        Tensor (N, …), with N the sum of all n, in the order of ranks. It is ``x`` itself in a
        process that trains alone.
    """
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
    """Merge the items of all processes into their original order.

    Args:
        items: Items of this process: number ``rank``, ``rank + world``, ``rank + 2 · world``, … of
            the whole list. They must be picklable.

    Returns:
        The whole list.
    """
    if world() == 1:
        return items
    shares: list[Any] = [None] * world()
    distributed.all_gather_object(shares, items)
    every = [None] * sum(map(len, shares))
    for first, share in enumerate(shares):
        every[first :: world()] = share
    return every


def end_process() -> NoReturn:
    """Leave the process group and end this process with exit code 0.

    Call it last in a process whose group has the backend gloo. Threads of gloo sometimes abort a
    process while its interpreter shuts down, so the interpreter does not (`qbench.process.end`).
    """
    distributed.barrier()  # no process ends while another one still needs it
    distributed.destroy_process_group()
    process.end()


class _Total(torch.autograd.Function):
    """Sum over all processes whose gradient is summed as well: every process has its own loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient.clone())


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization with the statistics of the whole batch of all processes, on the CPU.

    `torch.nn.SyncBatchNorm` works on a GPU only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize a batch and, in training mode, update the running statistics.

        Args:
            x: Part of the batch that this process has, (N, C, …).

        Returns:
            The normalized part, of the same shape and dtype.
        """
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        n = total(torch.tensor(x.numel() / x.shape[1], dtype=x.dtype))
        mean = _Total.apply(x.sum(dims)) / n
        centred = x - mean.view(shape)
        variance = _Total.apply(centred.square().sum(dims)) / n
        self._update_statistics(mean.detach(), variance.detach() * n / (n - 1))
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None  # noqa: S101 - it exists where the others do
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any shape."""


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Synchronize the batch normalization of a model over all processes.

    Several processes then compute what one process with the whole batch would compute.

    Args:
        model: Model. It is changed in place; the names in its ``state_dict`` stay.
        device: Device that the model runs on.

    Returns:
        The model. On a GPU it may be a new module, if ``model`` is itself a batch normalization.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = SyncBatchNorm
    return model

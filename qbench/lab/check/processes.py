"""The check that trains a method in two processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn

from qbench.distributed import end_process
from qbench.lab.check.networks import Case
from qbench.lab.check.promise import BrokenPromiseError
from qbench.lab.check.steps import optimizer_of, state_of, take_steps, train
from qbench.plugins import Plugin, load_plugin, loaded_plugins


def agrees_in_two_processes(cases: Sequence[Case]) -> None:
    """Check that two processes with the same batches end where one process does.

    Args:
        cases: Cases to train, all in the same two processes.

    Raises:
        BrokenPromiseError: A state differs, or training raises.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of unused parameters
    with tempfile.TemporaryDirectory() as folder:
        try:
            spawn(_one_of_two, (cases, loaded_plugins(), folder), nprocs=2, join=True)
        except Exception as error:
            last = str(error).strip().splitlines()[-1]
            raise BrokenPromiseError(f"under DistributedDataParallel: {last}") from error
        for number, case in enumerate(cases):
            handle = case.attach()
            train(handle)
            alone = state_of(handle.model)
            for rank in (0, 1):
                together = torch.load(Path(folder, f"{number}-{rank}.pt"), weights_only=True)
                far = [n for n in alone if not torch.allclose(alone[n], together[n], 1e-4, 1e-6)]
                if far:
                    raise BrokenPromiseError(
                        f"at {case.bits} two processes with the same batches end with another "
                        f"{far[0]} than one: keep state in parameters and buffers"
                    )


def _one_of_two(rank: int, cases: Sequence[Case], plugins: Sequence[Plugin], folder: str) -> None:
    """Train every case in one of two processes and write its state to a file."""
    torch.set_num_threads(1)
    for plugin in plugins:
        load_plugin(plugin)
    distributed.init_process_group(
        "gloo", init_method=Path(folder, "store").as_uri(), rank=rank, world_size=2
    )
    for number, case in enumerate(cases):
        handle = case.attach()
        model = nn.parallel.DistributedDataParallel(handle.model, find_unused_parameters=True)
        take_steps(handle, optimizer_of(handle), range(2), model)
        torch.save(state_of(handle.model), Path(folder, f"{number}-{rank}.pt"))
    end_process()

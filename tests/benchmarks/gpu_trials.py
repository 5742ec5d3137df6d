"""Section of the GPU report that trains trials on digits: alone, resumed, and on two processes.

A trial that is resumed, or repeated, ends with the same bits where torch is asked for deterministic
algorithms, as here. Two processes end with the same weights; they differ from one process's by
rounding, which a threshold may turn into a level.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from qbench.quant.options import build_method, method_options
from qbench.spec.recipe import Recipe
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.train.building import ExecutionEnvironment
from qbench.train.checkpoint import load_weights
from qbench.train.trial import Training
from tests.benchmarks.gpu_report import Options, Row, told

LEAST_TOP1 = 90.0
CASES = [("fp32", "32/32"), ("lsq", "2/2"), ("quantization_networks", "3(±4)/2")]
_ENOUGH = 45.0  # seconds for two processes


@dataclass
class Kept:
    """Checkpoints in memory."""

    data: bytes | None = None

    def load(self) -> bytes | None:
        """Return the last checkpoint."""
        return self.data

    def save(self, data: bytes) -> None:
        """Keep a checkpoint in place of the last."""
        self.data = data


def trials(options: Options) -> Iterator[Row]:
    """Train to the end, resume, and train on two processes."""
    epochs = 3 if options.tiny else 12
    for method, bits in CASES:
        for changes in ({}, {"precision": "bfloat16", "channels_last": True}):
            yield from guarded(end_to_end(trial(method, bits, epochs, **changes), options))
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    torch.use_deterministic_algorithms(True, warn_only=True)
    for method, bits in CASES:
        yield from guarded(resumed(trial(method, bits, 4)))
    torch.use_deterministic_algorithms(False)
    shared = [trial(*case, 1, steps=2) if options.tiny else trial(*case, 2) for case in CASES]
    for backend in ("gloo", "nccl") if torch.cuda.is_available() else ("gloo",):
        yield from guarded(two_processes(backend, shared))


def guarded(rows: Iterator[Row]) -> Iterator[Row]:
    """Turn an exception into a row."""
    try:
        yield from rows
    except Exception as error:
        yield {"error": told(error)}


def trial(method: str, bits: str, epochs: int, **changes: Any) -> Trial:
    """Return a trial on digits."""
    recipe = Recipe(epochs=epochs, batch_size=128, optimizer="sgd", lr=0.05, **changes)
    return Trial(
        method=method,
        options=method_options(build_method(method, {})),
        model="convnet_tiny",
        dataset="digits",
        task="classification",
        bits=bits,
        recipe=recipe,
        seed=0,
    )


def train(what: Trial, kept: Kept | None = None, until: int = 0) -> tuple[Result, bytes | None]:
    """Train a trial, and stop without a word after an epoch if one is given."""
    training = Training(what, None, ExecutionEnvironment(checkpoints=kept, checkpoint_seconds=0))
    for record in training.epochs():
        if record["epoch"] == until:
            return training.result, None
    if training.result.status != "done":
        raise RuntimeError(training.result.traceback.strip().splitlines()[-1])
    return training.result, training.weights


def end_to_end(what: Trial, options: Options) -> Iterator[Row]:
    """Train a trial, and check that its accuracy is that of a trained network."""
    result, _ = train(what)
    row = described("end to end", what)
    row |= {"top1": result.metrics["top1"], "seconds": result.seconds}
    good = options.tiny or result.metrics["top1"] >= LEAST_TOP1
    audited = all(count.holds for count in result.audit)
    yield row | {"audit": audited, "verdict": "ok" if good and audited else "FAIL"}


def described(check: str, what: Trial) -> Row:
    """Return what is checked, as the beginning of a row."""
    return {"check": check, "method": f"{what.method} {what.bits} {what.recipe.precision}"}


def resumed(what: Trial) -> Iterator[Row]:
    """Compare a trial that is resumed, and one that is repeated, with an uninterrupted one."""
    result, weights = train(what)
    _, again = train(what)
    kept = Kept()
    train(what, kept, until=2)
    if kept.data is None:
        raise RuntimeError("no checkpoint was kept")
    torch.rand(5)  # what happens in between must not matter
    second, after = train(what, kept)
    row = described("resumed", what)
    row |= {"repeated": difference(weights, again), "resumed": difference(weights, after)}
    row["top1"] = second.metrics["top1"]
    good = row["resumed"] == 0 and second.metrics == result.metrics
    yield row | {"verdict": "ok" if good else "FAIL"}


def difference(left: bytes | None, right: bytes | None) -> float:
    """Return the largest difference between two sets of stored weights."""
    return apart(stored(left), stored(right))


def apart(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Return the largest difference between two sets of weights."""
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


def two_processes(backend: str, shared: list[Trial]) -> Iterator[Row]:
    """Train trials on two processes of one device.

    NCCL refuses two processes on one device; its row says whether it did.
    """
    with tempfile.TemporaryDirectory() as folder:
        running = spawn(_one_of_two, (folder, backend, shared), nprocs=2, join=False)
        try:
            wait(running)
        except Exception as error:
            if backend != "nccl":
                raise
            message = str(error).strip().splitlines()[-1][:200]
            yield {"check": "two processes, nccl", "method": f"refused: {message}"}
            return
        for number, what in enumerate(shared):
            result, weights = train(what)
            first, second = (
                torch.load(Path(folder, f"{number}-{rank}.pt"), weights_only=True)
                for rank in (0, 1)
            )
            row = described(f"two processes, {backend}", what)
            row |= {"between": apart(first["weights"], second["weights"])}
            row |= {"to one": apart(first["weights"], stored(weights))}
            row |= {"top1": first["top1"], "top1 of one": result.metrics["top1"]}
            good = row["between"] == 0 and first["top1"] == second["top1"]
            yield row | {"verdict": "ok" if good else "FAIL"}


def wait(running: Any) -> None:
    """Wait for processes, and kill them when they take too long.

    Raises:
        TimeoutError: They did not end in time.
    """
    end = time.monotonic() + _ENOUGH
    while not running.join(1):
        if time.monotonic() > end:
            for process in running.processes:
                process.kill()
            raise TimeoutError(f"two processes did not end within {_ENOUGH:.0f} s")


def stored(weights: bytes | None) -> dict[str, Tensor]:
    """Return stored weights."""
    if weights is None:
        raise RuntimeError("a trial left no weights")
    return load_weights(weights)


def _one_of_two(rank: int, folder: str, backend: str, shared: list[Trial]) -> None:
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # DDP warns of unused parameters
    store = Path(folder, "store").as_uri()
    distributed.init_process_group(backend, init_method=store, rank=rank, world_size=2)
    for number, what in enumerate(shared):
        result, weights = train(what)
        content = {"weights": stored(weights), "top1": result.metrics["top1"]}
        torch.save(content, Path(folder, f"{number}-{rank}.pt"))
    distributed.destroy_process_group()

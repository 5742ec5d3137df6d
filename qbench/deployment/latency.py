"""Measure how fast an ONNX model is, beside the same network in full precision.

Both models are run in turns, so that other work on the machine slows both alike, and the fastest
turns are compared, which no other work interrupted. The network in full precision is the same graph
without quantizers, with the weights as floats, and onnxruntime optimizes it as usual.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor

from qbench.deployment.nodes import open_session
from qbench.spec.result import PlainData

_SECONDS = 0.6  # of a comparison
_FEWEST, _MOST = 5, 400  # turns
BATCH = 64


class Speed(PlainData):
    """How fast a model is with a number of threads.

    Attributes:
        threads: Number of threads of an operator.
        latency: Median time of one image, in ms.
        throughput: Images per second, in the fastest batch of 64.
        fp32_latency: Median time of one image in full precision, in ms.
        fp32_throughput: Images per second in full precision.
        ratio: Time of one image in the fastest turn over that of full precision.
    """

    threads: int
    latency: float
    throughput: float
    fp32_latency: float
    fp32_throughput: float
    ratio: float


def measure(path: Path, full: bytes, images: Tensor, optimizations: str) -> list[Speed]:
    """Measure a model beside full precision, with one thread and with all.

    Args:
        path: The model.
        full: The same network in full precision, as ONNX.
        images: Images, (N, …), at least one.
        optimizations: One of `qbench.deployment.nodes.OPTIMIZATIONS`.

    Returns:
        The speed with one thread, and with one for each processor if there are more.
    """
    one = images[:1].contiguous().numpy()
    batch = images[:BATCH].contiguous().numpy()
    batch = np.resize(batch, (BATCH, *batch.shape[1:]))
    found = []
    for threads in dict.fromkeys((1, processors())):
        sessions = [open_session(m, optimizations, threads) for m in (str(path), full)]
        alone, full_alone = alternate([_runner(s, one) for s in sessions])
        many, full_many = map(min, alternate([_runner(s, batch) for s in sessions]))
        found.append(
            Speed(
                threads=threads,
                latency=1000 * median(alone),
                throughput=BATCH / many,
                fp32_latency=1000 * median(full_alone),
                fp32_throughput=BATCH / full_many,
                ratio=min(alone) / min(full_alone),
            )
        )
    return found


def _runner(session: Any, x: np.ndarray) -> Callable[[], Any]:
    inputs = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, inputs)


def alternate(
    runs: Sequence[Callable[[], Any]], clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Call functions in turns, and return the times of each, in seconds.

    Args:
        runs: The functions. Each is called once before.
        clock: Returns the time, in seconds.
    """
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    start = clock()
    while len(times[0]) < _FEWEST or (len(times[0]) < _MOST and clock() - start < _SECONDS):
        for run, taken in zip(runs, times, strict=True):
            before = clock()
            run()
            taken.append(clock() - before)
    return times


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor, with the integer instructions that matter here."""
    name, flags = platform.processor() or platform.machine(), ""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        lines: dict[str, str] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            lines[key.strip()] = value.strip()
        name, flags = lines.get("model name", name), lines.get("flags", "")
    known = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "amx_int8": "AMX"}
    has = [text for flag, text in known.items() if flag in flags.split()]
    return f"{name} ({', '.join(has)})" if has else name

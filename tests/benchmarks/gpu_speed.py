"""Sections of the GPU report that measure: the machine, training steps, trials at once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from qbench import registry
from qbench.lab.profile import every_method
from qbench.method import Method
from qbench.spec.bits import FULL_PRECISION
from qbench.train.provenance import environment
from tests.benchmarks.gpu_report import Options, Row, told
from tests.benchmarks.steps import Setting, step_of, timed, together, where

FIRST = ("lsq", "dorefa", "quantization_networks", "pact", "lq_nets", "apot", "dsq", "xnor", "ttq")
"""Methods whose compiled steps are measured first, in case time is short."""
_MEASURING = 3.0  # seconds reserved to measure a compiled step


def card(options: Options) -> Iterator[Row]:
    """The card, the driver and torch."""
    found, device = environment(), where()
    row: Row = {"torch": torch.__version__, "python": found["python"], "cpu": found["cpu"]}
    row |= {"cpus": found["cpu_count"], "device": found.get("gpu", "cpu")}
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=True)
        properties = torch.cuda.get_device_properties(device)
        row |= {"driver": done.stdout.strip(), "cuda": found["cuda"]}
        row["memory_gib"] = properties.total_memory / 2**30
    row |= {"c_kernels": found["c_kernels"], "qbench": found["git_commit"][:12]}
    yield row


def setting(options: Options, compiled: bool = False) -> Setting:
    """Return the network and the batch of a step."""
    if options.tiny:
        return Setting("resnet_tiny", 4, 16, "bfloat16", compiled)
    return Setting(compile=compiled)


def methods() -> list[tuple[str, str]]:
    """Return the name and the bit-widths of every method that trains and wraps no library."""
    return [pair for pair in every_method() if registry.method_class(pair[0]).library is None]


def eager(options: Options) -> Iterator[Row]:
    """Steps of every method beside full precision."""
    chosen, pairs = setting(options), 2 if options.tiny else 8
    plain = Step.build(chosen, "fp32", str(FULL_PRECISION))
    todo = methods()
    for number, (method, bits) in enumerate(todo):
        if options.left < 8:
            names = ", ".join(name for name, _ in todo[number:])
            yield {"method": f"left out for lack of time: {names}"}
            return
        try:
            reference = plain
            if rearranges(method):
                reference = Step.build(chosen, method, bits, quantize=False)
            quantized = Step.build(chosen, method, bits)
            yield compared(method, bits, chosen, reference, quantized, pairs)
        except Exception as error:
            yield {"method": method, "bits": bits, "error": told(error)}
        reference = quantized = plain
        free()


def rearranges(method: str) -> bool:
    """Return whether a method changes the network before it quantizes."""
    return registry.method_class(method).prepare is not Method.prepare


def free() -> None:
    """Give back the memory of steps that are not used any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Step:
    """A training step that has been warmed up.

    Attributes:
        run: Takes the step.
        peak: Most bytes of GPU memory that it takes, its network and batch included; None on a CPU.
    """

    run: Callable[[], None]
    peak: int | None

    @classmethod
    def build(cls, chosen: Setting, method: str, bits: str, quantize: bool = True) -> Step:
        """Build a step as `step_of` does, and measure its memory."""
        if where().type != "cuda":
            return cls(step_of(chosen, method, bits, quantize), None)
        free()
        before = torch.cuda.memory_allocated()
        step = step_of(chosen, method, bits, quantize)
        free()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return cls(step, torch.cuda.max_memory_allocated() - before)


def compared(
    method: str, bits: str, chosen: Setting, reference: Step, quantized: Step, pairs: int
) -> Row:
    """Time two steps in turn."""
    device = where()
    seconds = [(timed(reference.run, device), timed(quantized.run, device)) for _ in range(pairs)]
    ratios = [q / f for f, q in seconds]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    row: Row = {"method": method, "bits": bits, "ratio": statistics.median(ratios)}
    row |= {"quartiles": f"{low:.3f}–{high:.3f}"}
    row["images/s"] = chosen.batch_size / statistics.median(q for _, q in seconds)
    row["fp32 images/s"] = chosen.batch_size / statistics.median(f for f, _ in seconds)
    row["speed"] = row["images/s"] / row["fp32 images/s"]
    peaks = quantized.peak, reference.peak
    row |= {"peak MiB": None, "fp32 peak MiB": None, "memory ratio": None}
    if peaks[0] is not None and peaks[1] is not None:
        row |= {"peak MiB": peaks[0] / 2**20, "fp32 peak MiB": peaks[1] / 2**20}
        row["memory ratio"] = peaks[0] / peaks[1]
    return row | {"reference": "as prepared" if rearranges(method) else "plain"}


def packed(options: Options) -> Iterator[Row]:
    """Images/s of several processes that train at full precision on one device."""
    alone = 0.0
    for count in (1, 2) if options.tiny else (1, 2, 4):
        if options.left < 20:
            yield {"processes": count, "error": "left out: no time is left"}
            continue
        speed = together(setting(options), 2 if options.tiny else 20, count)
        alone = alone or speed
        yield {"processes": count, "images/s": speed, "over one": speed / alone}


@dataclass
class Compiling:
    """A process that compiles and times the steps of a method."""

    method: str
    bits: str
    process: BaseProcess
    pipe: Connection
    start: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, method: str, bits: str, tiny: bool) -> Compiling:
        """Start the process."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (method, bits, tiny, theirs)
        process = context.Process(target=_compile, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return cls(method, bits, process, ours)

    def answer(self, seconds: float) -> Any:
        """Return what the process sends within so many seconds, or an error as a row."""
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv()
        except EOFError:
            pass
        self.process.kill()
        return {"error": "its process died, or did not answer"}


def compiled(options: Options) -> Iterator[Row]:
    """Compiled steps of as many methods as time allows.

    Several processes compile at once. When all have ended, or time is short, each that is ready
    takes its steps alone.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "3")
    at_once = max(1, min(6, (os.cpu_count() or 1) // 2))
    todo = sorted(methods(), key=lambda pair: FIRST.index(pair[0]) if pair[0] in FIRST else 99)
    if options.tiny:
        todo = [(name, bits) for name, bits in todo if name in ("lsq", "xnor")]
    waiting, busy = list(todo), list[Compiling]()
    ready = list[tuple[Compiling, float]]()
    while (waiting or busy) and options.left > 5 + _MEASURING * (len(ready) + 1):
        while waiting and len(busy) < at_once:
            busy.append(Compiling.begin(*waiting.pop(0), options.tiny))
        time.sleep(0.1)
        for one in [one for one in busy if one.pipe.poll() or not one.process.is_alive()]:
            busy.remove(one)
            answer = one.answer(1)
            if answer == "ready":
                ready.append((one, time.monotonic() - one.start))
            else:
                yield {"method": one.method, "bits": one.bits, **answer}
    for one in busy:
        one.process.kill()
    for one, seconds in ready:
        one.pipe.send("go")
        yield {**one.answer(max(10.0, options.left)), "seconds to start": seconds}
        one.process.kill()
        one.process.join()
    if left := [one.method for one in busy] + [name for name, _ in waiting]:
        yield {"method": f"{len(left)} of {len(todo)} left out: {', '.join(left)}"}


def _compile(method: str, bits: str, tiny: bool, pipe: Connection) -> None:
    """Compile both steps, say so, and time them when told to."""
    try:
        chosen = setting(Options(tiny, 0), compiled=True)
        if rearranges(method):
            reference = Step.build(chosen, method, bits, quantize=False)
        else:
            reference = Step.build(chosen, "fp32", str(FULL_PRECISION))
        quantized = Step.build(chosen, method, bits)
        free()
        pipe.send("ready")
        pipe.recv()
        for step in (reference, quantized):
            step.run()
        pipe.send(compared(method, bits, chosen, reference, quantized, 2 if tiny else 8))
    except Exception as error:
        pipe.send({"method": method, "bits": bits, "error": told(error)})

"""What a method adds to a training step: time and peak memory, beside full precision."""

from __future__ import annotations

import logging
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from qbench import registry
from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.quant.staircase import kernels
from qbench.registry import Plugin, load_plugin
from qbench.spec.bits import FULL_PRECISION
from qbench.spec.policies import LayerPolicy
from qbench.spec.trial import FP32
from qbench.train.provenance import environment

CLASSES = 1000
_CALIBRATION = 4
_WARM_UP = 3
_MEMORY_STEPS = 3
_EPOCHS = 20
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What to profile.

    Attributes:
        method: its name.
        options: its options.
        model: the model's name.
        bits: widths as ``W/A``.
        layers: which layers are quantized, as in `qbench.quant.attach.attach`.
        batch_size: images in a step.
        image_size: height and width of an image, of three channels.
        threads: torch's threads.
        plugins: method files to load first.
    """

    method: str
    options: Mapping[str, Any]
    model: str
    bits: str
    layers: LayerPolicy = "skip_first_last"
    batch_size: int = 32
    image_size: int = 224
    threads: int = 1
    plugins: Sequence[Plugin] = ()

    def load_plugins(self) -> None:
        """Register the methods of `plugins`.

        Raises:
            QbenchError: a file cannot be loaded.
        """
        for plugin in self.plugins:
            load_plugin(plugin)

    def device(self) -> torch.device:
        """Where it runs: a GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Profile:
    """What was measured.

    Attributes:
        seconds: of every step at full precision.
        quantized_seconds: of every quantized step; each was run after the one at full precision.
        bytes: peak memory at full precision: of tensors on a GPU, else of the whole process.
        quantized_bytes: likewise with the method.
    """

    seconds: list[float]
    quantized_seconds: list[float]
    bytes: int
    quantized_bytes: int

    @property
    def ratios(self) -> list[float]:
        """Quantized over full precision, of each pair of steps."""
        return [q / f for q, f in zip(self.quantized_seconds, self.seconds, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of `ratios`."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these lies the middle half of `ratios`."""
        if len(self.ratios) < 2:
            return self.ratio, self.ratio
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high


def measure(job: Job, steps: int) -> Profile:
    """Train a network on random images, at full precision and quantized, in turn.

    The method is in its last epoch, when everything that it does is at work. Memory is measured in
    a fresh process for each of the two, where no GPU keeps count.

    Args:
        job: what to profile.
        steps: how many of each to time.

    Raises:
        QbenchError: a name, an option or the widths are wrong, or a step fails.
    """
    job.load_plugins()
    torch.set_num_threads(job.threads)
    _LOGGER.info("building the networks")
    plain, quantized = _step(job, quantize=False), _step(job, quantize=True)
    _LOGGER.info("warming up")
    for _ in range(_WARM_UP):
        plain()
        quantized()
    seconds, quantized_seconds = [], []
    for i in range(steps):  # in turn, so that what else the machine does hits both
        _LOGGER.info("step %d of %d", i + 1, steps)
        seconds.append(_timed(plain))
        quantized_seconds.append(_timed(quantized))
    del plain, quantized
    _LOGGER.info("memory at full precision")
    plain_bytes = _peak_memory(job, quantize=False)
    _LOGGER.info("memory with the method")
    return Profile(seconds, quantized_seconds, plain_bytes, _peak_memory(job, quantize=True))


def as_json(job: Job, profile: Profile) -> dict[str, Any]:
    """A profile for programs."""
    return {
        "method": job.method,
        "options": registry.method_options(job.method, job.options),
        "model": job.model,
        "bits": job.bits,
        "batch_size": job.batch_size,
        "image_size": job.image_size,
        "machine": machine(job),
        "full_precision": {
            "step_seconds": statistics.median(profile.seconds),
            "peak_bytes": profile.bytes,
        },
        "quantized": {
            "step_seconds": statistics.median(profile.quantized_seconds),
            "peak_bytes": profile.quantized_bytes,
        },
        "time_ratio": profile.ratio,
        "time_ratio_quartiles": profile.quartiles,
        "memory_ratio": profile.quantized_bytes / profile.bytes,
    }


def machine(job: Job) -> str:
    """What it was measured on, in a line."""
    found = environment()
    if job.device().type == "cuda":
        return f"{found['gpu']}, torch {found['torch']}"
    processor = found["cpu"] or platform.machine()
    kernel = "C kernels" if kernels.load() is not None else "no C kernels, for lack of a compiler"
    return f"{processor}, {job.threads} threads, torch {found['torch']}, {kernel}"


def _step(job: Job, quantize: bool) -> Callable[[], None]:
    """A training step of a network, to be called again and again."""
    device = job.device()
    torch.manual_seed(0)
    images = torch.randn(job.batch_size, 3, job.image_size, job.image_size, device=device)
    labels = torch.randint(CLASSES, (job.batch_size,), device=device)
    registry.check_model_name(job.model)
    model = registry.build_model(job.model, CLASSES, 3).to(device)
    if quantize:
        method, bits = registry.build_method(job.method, job.options), job.bits
    else:
        method, bits = registry.build_method(FP32, {}), str(FULL_PRECISION)
    try:
        handle = attach(
            model, method, bits=bits, layers=job.layers, calibration=[images[:_CALIBRATION]]
        )
        handle.on_epoch_start(_EPOCHS, _EPOCHS)
    except QbenchError:
        raise
    except Exception as error:
        raise QbenchError(_failure(job, "attaching", error)) from error
    handle.model.train()
    optimizer = torch.optim.SGD(
        handle.parameter_groups(lr=1e-3, weight_decay=1e-4), lr=1e-3, momentum=0.9
    )

    def step() -> None:
        handle.on_step_start(1, 1)
        loss = F.cross_entropy(handle.model(images), labels) + handle.penalty().to(device)
        optimizer.zero_grad()
        loss.backward()
        handle.before_step()
        optimizer.step()
        handle.after_step()

    def checked_step() -> None:
        try:
            step()
        except Exception as error:
            raise QbenchError(_failure(job, "a training step", error)) from error

    return checked_step


def _failure(job: Job, where: str, error: Exception) -> str:
    what = (str(error).strip() or "no message").splitlines()[0]
    return f"{job.method} on {job.model}: {where} failed: {type(error).__name__}: {what}"


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_memory(job: Job, quantize: bool) -> int:
    """Bytes that training takes at most."""
    if job.device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        _run(job, quantize)
        return torch.cuda.max_memory_allocated()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_memory, args=(job, quantize, sender), daemon=True)
    process.start()
    sender.close()
    try:
        found: int = receiver.recv()
    except EOFError:
        raise QbenchError(
            f"{job.method} on {job.model}: the process that measures memory died"
        ) from None
    finally:
        process.join()
    return found


def _report_memory(job: Job, quantize: bool, sender: Any) -> None:
    torch.set_num_threads(job.threads)
    job.load_plugins()
    _run(job, quantize)
    sender.send(_peak_resident())


def _peak_resident() -> int:
    """The most memory that this process has had, in bytes."""
    try:  # Linux's getrusage starts a process from the peak of the one that started it
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else 1024 * peak


def _run(job: Job, quantize: bool) -> None:
    step = _step(job, quantize)
    for _ in range(_MEMORY_STEPS):
        step()

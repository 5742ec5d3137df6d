"""Measure the time and the peak memory that a method adds to a training step."""

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
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from qbench import registry
from qbench.errors import QbenchError
from qbench.method import Method
from qbench.plugins import Plugin, load_plugin
from qbench.quant.attach import attach
from qbench.quant.options import build_method, method_options
from qbench.quant.staircase import kernels
from qbench.spec.bits import FULL_PRECISION, BitWidths
from qbench.spec.placement import Placement, resolve_placement
from qbench.spec.policies import LayerPolicy
from qbench.spec.trial import FP32
from qbench.spec.words import counted
from qbench.train.loop import training_step
from qbench.train.provenance import environment

_NUM_CLASSES = 1000
_CALIBRATION_IMAGES = 4
_WARM_UP_STEPS = 3
_MEMORY_STEPS = 3
_LAST_EPOCH = 20
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProfileSettings:
    """Method, network and batch to profile.

    Attributes:
        method: Name of the method.
        options: Options of the method that differ from the defaults.
        model: Name of the model.
        bits: Bit-widths as ``W/A``.
        layers: Layers that are quantized, as in `qbench.quant.attach.attach`.
        batch_size: Number of images in a step.
        image_size: Height and width of the images in pixels. They have three channels.
        threads: Number of CPU threads of torch.
        plugins: Files of methods and models to load first.
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

    @property
    def placement(self) -> Placement:
        """Where the activation quantizers of the method sit.

        Raises:
            QbenchError: The method or one of its options is invalid.
        """
        method = build_method(self.method, self.options)
        return resolve_placement(method.placement, [BitWidths.parse(self.bits)])

    def load_plugins(self) -> None:
        """Register what `plugins` define.

        Raises:
            QbenchError: A file cannot be loaded.
        """
        for plugin in self.plugins:
            load_plugin(plugin)

    def device(self) -> torch.device:
        """Return the current GPU if there is one, otherwise the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Profile:
    """Time and memory of training steps at full precision and with the method.

    Attributes:
        seconds: Duration of each step at full precision, in seconds.
        quantized_seconds: Duration of each step with the method, in seconds. Step i follows step i
            at full precision.
        bytes: Peak memory of training at full precision, in bytes: of all tensors on a GPU,
            otherwise of the whole process.
        quantized_bytes: Peak memory of training with the method, in bytes.
    """

    seconds: list[float]
    quantized_seconds: list[float]
    bytes: int
    quantized_bytes: int

    @property
    def ratios(self) -> list[float]:
        """Time with the method divided by time at full precision, for each pair of steps."""
        return [q / f for q, f in zip(self.quantized_seconds, self.seconds, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of `ratios`."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of `ratios`."""
        if len(self.ratios) < 2:
            return self.ratio, self.ratio
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high


def measure(settings: ProfileSettings, steps: int) -> Profile:
    """Time training steps on random images, alternately at full precision and with the method.

    The method is in its last epoch, in which everything that it does is active. Without a GPU, a
    fresh process measures the peak memory of each of the two.

    Args:
        settings: What to profile.
        steps: Number of steps of each kind to time, at least 1.

    Returns:
        The measurements.

    Raises:
        QbenchError: A name, an option or the bit-widths are invalid, or a step fails.
    """
    settings.load_plugins()
    torch.set_num_threads(settings.threads)
    _LOGGER.info("building the networks")
    plain, quantized = _step(settings, quantize=False), _step(settings, quantize=True)
    _LOGGER.info("warming up")
    for _ in range(_WARM_UP_STEPS):
        plain()
        quantized()
    seconds, quantized_seconds = [], []
    for i in range(steps):  # alternately, so that other load on the machine affects both
        _LOGGER.info("step %d of %d", i + 1, steps)
        seconds.append(_timed(plain))
        quantized_seconds.append(_timed(quantized))
    del plain, quantized
    _LOGGER.info("memory at full precision")
    plain_bytes = _peak_memory(settings, quantize=False)
    _LOGGER.info("memory with the method")
    return Profile(seconds, quantized_seconds, plain_bytes, _peak_memory(settings, quantize=True))


def as_json(settings: ProfileSettings, profile: Profile) -> dict[str, Any]:
    """Convert a profile into plain values for `qbench profile --json`.

    Args:
        settings: What was profiled.
        profile: Its measurements.

    Returns:
        Settings, medians in seconds and bytes, and ratios.

    Raises:
        QbenchError: The method or one of its options is invalid.
    """
    return {
        "method": settings.method,
        "options": method_options(build_method(settings.method, settings.options)),
        "model": settings.model,
        "bits": settings.bits,
        "placement": settings.placement,
        "batch_size": settings.batch_size,
        "image_size": settings.image_size,
        "machine": machine(settings),
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


def machine(settings: ProfileSettings) -> str:
    """Describe the hardware and the versions of software that a profile was measured with.

    Args:
        settings: What was profiled.

    Returns:
        One line of text.
    """
    found = environment()
    if settings.device().type == "cuda":
        return f"{found['gpu']}, torch {found['torch']}"
    processor = found["cpu"] or platform.machine()
    kernel = "C kernels" if kernels.load() is not None else "no C kernels, for lack of a compiler"
    return f"{processor}, {counted(settings.threads, 'thread')}, torch {found['torch']}, {kernel}"


def _network(settings: ProfileSettings, method: Method) -> str:
    """Return the network that is timed: the model, or the one that the method declares."""
    try:
        return method.network_for(settings.model, BitWidths.parse(settings.bits))
    except ValueError:  # of bit-widths that `attach` refuses, with the reason
        return settings.model


def _step(settings: ProfileSettings, quantize: bool) -> Callable[[], None]:
    """Build a network and return a function that trains it for one step.

    Args:
        settings: What to profile.
        quantize: Whether to attach the method; otherwise the network has full precision.

    Returns:
        A function that takes one training step each time it is called. Every step has the same
        batch. It raises QbenchError if the method fails.

    Raises:
        QbenchError: A name, an option or the bit-widths are invalid, or the method cannot be
            attached.
    """
    device = settings.device()
    torch.manual_seed(0)
    images = torch.randn(
        settings.batch_size, 3, settings.image_size, settings.image_size, device=device
    )
    labels = torch.randint(_NUM_CLASSES, (settings.batch_size,), device=device)
    registry.check_model_name(settings.model)
    method, bits = build_method(settings.method, settings.options), settings.bits
    network = _network(settings, method)
    model = registry.build_model(network, _NUM_CLASSES, 3).to(device)
    if not quantize:
        method, bits = build_method(FP32, {}), str(FULL_PRECISION)
    try:
        handle = attach(
            model,
            method,
            bits=bits,
            layers=settings.layers,
            calibration=[images[:_CALIBRATION_IMAGES]],
        )
        handle.on_epoch_start(_LAST_EPOCH, _LAST_EPOCH, steps=1)
    except QbenchError:
        raise
    except Exception as error:
        raise QbenchError(_failure(settings, "attaching", error)) from error
    handle.model.train()
    optimizer = torch.optim.SGD(
        handle.parameter_groups(lr=1e-3, weight_decay=1e-4), lr=1e-3, momentum=0.9
    )
    handle.attach_optimizer(optimizer)

    def loss() -> Tensor:
        return F.cross_entropy(handle.model(images), labels)

    def checked_step() -> None:
        try:
            training_step(handle, optimizer, loss)
        except Exception as error:
            raise QbenchError(_failure(settings, "a training step", error)) from error

    return checked_step


def _failure(settings: ProfileSettings, where: str, error: Exception) -> str:
    """Return one line that says where a method failed, and how."""
    what = (str(error).strip() or "no message").splitlines()[0]
    return f"{settings.method} on {settings.model}: {where} failed: {type(error).__name__}: {what}"


def _timed(step: Callable[[], None]) -> float:
    """Take a step and return its duration in seconds."""
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_memory(settings: ProfileSettings, quantize: bool) -> int:
    """Return the peak memory of training in bytes."""
    if settings.device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        _run(settings, quantize)
        return torch.cuda.max_memory_allocated()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_memory, args=(settings, quantize, sender), daemon=True)
    process.start()
    sender.close()
    try:
        found: int = receiver.recv()
    except EOFError:
        raise QbenchError(
            f"{settings.method} on {settings.model}: the process that measures memory died"
        ) from None
    finally:
        process.join()
    return found


def _report_memory(settings: ProfileSettings, quantize: bool, sender: Any) -> None:
    """Train in a process of its own and send its peak memory in bytes through a pipe."""
    torch.set_num_threads(settings.threads)
    settings.load_plugins()
    _run(settings, quantize)
    sender.send(_peak_resident())


def _peak_resident() -> int:
    """Return this process's peak resident memory in bytes."""
    try:  # on Linux, getrusage includes the peak of the parent process
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if platform.system() == "Darwin" else 1024 * peak


def _run(settings: ProfileSettings, quantize: bool) -> None:
    """Train for a few steps, enough to reach the peak of memory."""
    step = _step(settings, quantize)
    for _ in range(_MEMORY_STEPS):
        step()

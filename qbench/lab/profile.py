"""Measure the time and the peak memory that a method adds to a training step."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench import registry
from qbench.errors import QbenchError
from qbench.lab.primitives import advice_for
from qbench.method import Method
from qbench.quant.attach import attach, prepare
from qbench.quant.handle import Handle
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
_LAST_EPOCH = 20
_TASK = "classification"
_WIDTHS = ("2/2", "1/2", "1/1", "2/32", "1/32", "32/1")
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
    """

    method: str
    options: Mapping[str, Any]
    model: str
    bits: str
    layers: LayerPolicy = "skip_first_last"
    batch_size: int = 32
    image_size: int = 224
    threads: int = 1

    @property
    def placement(self) -> Placement:
        """Where the activation quantizers of the method sit.

        Raises:
            QbenchError: The method or one of its options is invalid.
        """
        method = build_method(self.method, self.options)
        return resolve_placement(method.placement, [BitWidths.parse(self.bits)])

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
        cpu_seconds: Time of all processors that each step at full precision takes, in seconds.
        quantized_cpu_seconds: Time of all processors that each step with the method takes.
        bytes: Peak memory of a step at full precision, in bytes of tensors.
        quantized_bytes: Peak memory of a step with the method, in bytes of tensors.
        advice: Lines that name primitives which the quantizers could use; on a CPU only.
    """

    seconds: list[float]
    quantized_seconds: list[float]
    cpu_seconds: list[float]
    quantized_cpu_seconds: list[float]
    bytes: int
    quantized_bytes: int
    advice: tuple[str, ...] = ()

    @property
    def ratios(self) -> list[float]:
        """Time with the method divided by time at full precision, for each pair of steps."""
        return [q / f for q, f in zip(self.quantized_seconds, self.seconds, strict=True)]

    @property
    def cpu_ratio(self) -> float:
        """Median of the ratios of processor time, which other load on the machine affects less."""
        pairs = zip(self.quantized_cpu_seconds, self.cpu_seconds, strict=True)
        return statistics.median(q / f for q, f in pairs)

    @property
    def memory_ratio(self) -> float:
        """Peak memory with the method divided by that at full precision."""
        return self.quantized_bytes / self.bytes

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

    The method is in its last epoch, in which everything that it does is active. A method that
    changes the network is compared with the changed network.

    Args:
        settings: What to profile.
        steps: Number of steps of each kind to time, at least 1.

    Returns:
        The measurements.

    Raises:
        QbenchError: A name, an option or the bit-widths are invalid, or a step fails.
    """
    torch.set_num_threads(settings.threads)
    _LOGGER.info("building the networks")
    attached = _attach(settings, quantize=True)
    quantized, plain = _step(attached, settings), _step(_attach(settings, quantize=False), settings)
    _LOGGER.info("warming up")
    for _ in range(_WARM_UP_STEPS):
        plain()
        quantized()
    times: list[tuple[float, float]] = []
    for i in range(steps):  # alternately, so that other load on the machine affects both
        _LOGGER.info("step %d of %d", i + 1, steps)
        times += _timed(plain), _timed(quantized)
    advice = _advice(attached[0], attached[1])
    del plain, quantized, attached
    _LOGGER.info("memory at full precision")
    plain_bytes = _peak_memory(settings, quantize=False)
    _LOGGER.info("memory with the method")
    return Profile(
        [wall for wall, _ in times[::2]],
        [wall for wall, _ in times[1::2]],
        [processor for _, processor in times[::2]],
        [processor for _, processor in times[1::2]],
        plain_bytes,
        _peak_memory(settings, quantize=True),
        advice,
    )


def _advice(handle: Handle, images: Tensor) -> tuple[str, ...]:
    """Return lines that name primitives which the quantizers could use."""
    if images.device.type != "cpu":  # formulas take the place of loops there
        return ()
    found: list[tuple[str, nn.Module, Tensor | None]] = []
    for layer in handle.layers:
        if layer.weight_quantizer is not None:
            found.append(("weights", layer.weight_quantizer, layer.latent_weight))
    for place in handle.places:
        if place.activation_quantizer is not None:
            found.append(("activations", place.activation_quantizer, None))
    return tuple(advice_for(handle.model, found, images[:_CALIBRATION_IMAGES]))


def every_method() -> list[tuple[str, str]]:
    """Return the name and bit-widths of every method that trains and can be used here.

    Returns:
        Pairs of a name and the first of the usual bit-widths that the method supports.
    """
    found = []
    for name in registry.names("methods"):
        if name != FP32 and registry.method_class(name).trains:
            method = build_method(name, {})
            widths = [w for w in _WIDTHS if not method.supports(BitWidths.parse(w), _TASK)]
            found += [(name, width) for width in widths[:1]]
    return found


def measure_all(
    methods: Sequence[tuple[str, str]], settings: ProfileSettings, steps: int
) -> Iterator[tuple[ProfileSettings, Profile | QbenchError]]:
    """Profile several methods with their default options, one after another.

    Args:
        methods: Pairs of a name and bit-widths.
        settings: Network and batch of all.
        steps: As in `measure`.

    Yields:
        The settings of each method with its profile, or with the error that it raised.
    """
    for number, (name, bits) in enumerate(methods, 1):
        _LOGGER.info("%s %s, %d of %d", name, bits, number, len(methods))
        one = replace(settings, method=name, options={}, bits=bits)
        try:
            yield one, measure(one, steps)
        except QbenchError as error:
            yield one, error


def as_json(settings: ProfileSettings, profile: Profile | QbenchError) -> dict[str, Any]:
    """Convert a profile into plain values for `qbench profile --json`.

    Args:
        settings: What was profiled.
        profile: Its measurements, or the error that ended them.

    Returns:
        Settings, medians in seconds and bytes, and ratios; the message of an error in their place.

    Raises:
        QbenchError: The method or one of its options is invalid.
    """
    if isinstance(profile, QbenchError):
        return {"method": settings.method, "bits": settings.bits, "error": str(profile)}
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
            "cpu_seconds": statistics.median(profile.cpu_seconds),
            "peak_bytes": profile.bytes,
        },
        "quantized": {
            "step_seconds": statistics.median(profile.quantized_seconds),
            "cpu_seconds": statistics.median(profile.quantized_cpu_seconds),
            "peak_bytes": profile.quantized_bytes,
        },
        "time_ratio": profile.ratio,
        "time_ratio_quartiles": profile.quartiles,
        "cpu_time_ratio": profile.cpu_ratio,
        "memory_ratio": profile.memory_ratio,
        "advice": list(profile.advice),
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


def _attach(settings: ProfileSettings, quantize: bool) -> tuple[Handle, Tensor, Tensor]:
    """Build a network with its quantizers, and a batch.

    Args:
        settings: What to profile.
        quantize: Whether to attach the method; otherwise the network has full precision.

    Returns:
        The handle in the last epoch, images and labels.

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
    try:
        if not quantize:
            model = prepare(model, method, BitWidths.parse(bits), settings.layers).to(device)
            method, bits = build_method(FP32, {}), str(FULL_PRECISION)
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
    return handle, images, labels


def _step(attached: tuple[Handle, Tensor, Tensor], settings: ProfileSettings) -> Callable[[], None]:
    """Return a function that trains a network for one step.

    Args:
        attached: What `_attach` returned.
        settings: What is profiled.

    Returns:
        A function that takes one training step each time it is called. Every step has the same
        batch. It raises QbenchError if the method fails.
    """
    handle, images, labels = attached
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


def _timed(step: Callable[[], None]) -> tuple[float, float]:
    """Take a step and return its duration and the processor time that it takes, in seconds."""
    start, processor = time.perf_counter(), time.process_time()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - processor


def _peak_memory(settings: ProfileSettings, quantize: bool) -> int:
    """Return the peak memory of a training step in bytes of tensors."""
    gc.collect()  # of the networks before
    if settings.device().type == "cuda":
        torch.cuda.empty_cache()
        step = _step(_attach(settings, quantize), settings)
        step()  # which gives the optimizer its state
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it writes to the console
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as recorded:
        step = _step(_attach(settings, quantize), settings)
        step()
        start = time.time_ns()
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in events)
    return max(size for size, event in zip(held, events, strict=True) if event.start_ns() >= start)

"""Training steps on batches of noise, as the other benchmarks time them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from qbench import registry
from qbench.quant.attach import attach, prepare
from qbench.quant.options import build_method
from qbench.spec.bits import FULL_PRECISION, BitWidths
from qbench.spec.recipe import Recipe
from qbench.tasks import classification
from tests.helpers.quantizers import start_step

CLASSES = 1000
WARM_UP = 3
_START_SECONDS = 120


@dataclass(frozen=True)
class Setting:
    """Network, batch and number format of a step.

    Attributes:
        model: Name of the network.
        batch_size: Images of a step.
        image_size: Height and width of an image, of three channels.
        precision: ``float32``, or ``bfloat16`` for autocast.
        compile: Whether the network runs through ``torch.compile``.
    """

    model: str = "resnet18"
    batch_size: int = 256
    image_size: int = 224
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return 3, self.image_size, self.image_size

    @property
    def recipe(self) -> Recipe:
        """The recipe of a trial that takes such steps."""
        return Recipe(
            epochs=1,
            batch_size=self.batch_size,
            optimizer="sgd",
            lr=1e-3,
            precision=self.precision,
            channels_last=True,
            compile=self.compile,
        )


def where() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def step_of(setting: Setting, method: str, bits: str, quantize: bool = True) -> Callable[[], None]:
    """Build and warm up a training step on one batch of noise.

    Args:
        setting: Network, batch and number format.
        method: Name of the method.
        bits: Bit-widths as ``W/A``.
        quantize: As in `training_step`.
    """
    device = where()
    images, labels = classification.random_batch(setting.batch_size, setting.shape, CLASSES, device)
    images = images.contiguous(memory_format=torch.channels_last)
    train = training_step(
        setting.model, method, bits, setting.recipe, setting.shape, device, quantize
    )
    for _ in range(WARM_UP):
        train((images, labels))
    return lambda: train((images, labels))


def training_step(
    model: str,
    method: str,
    bits: str,
    recipe: Recipe,
    shape: tuple[int, int, int],
    device: torch.device,
    quantize: bool = True,
) -> Callable[[Any], None]:
    """Build the training step that a trial takes in the last epoch of a method.

    Args:
        model: Name of the network.
        method: Name of the method.
        bits: Bit-widths as ``W/A``.
        recipe: Learning rate and number format.
        shape: Shape of an image, (channels, height, width).
        device: Device of the network and of the batches.
        quantize: If False, train the network that the method prepares at full precision.

    Returns:
        A function that trains on a batch.
    """
    net = registry.build_model(model, CLASSES, shape[0]).to(device)
    net.to(memory_format=torch.channels_last)
    chosen, widths = build_method(method, {}), BitWidths.parse(bits)
    if not quantize:
        net = prepare(net, chosen, widths, "skip_first_last").to(device)
        chosen, widths = build_method("fp32", {}), FULL_PRECISION
    samples = torch.randn(4, *shape, device=device)
    handle = attach(net, chosen, bits=widths, calibration=[samples])
    handle.on_epoch_start(20, 20, steps=1)
    handle.model.train()
    network: Any = torch.compile(handle.model) if recipe.compile else handle.model
    optimizer = torch.optim.SGD(
        handle.parameter_groups(lr=recipe.lr, weight_decay=1e-4), lr=recipe.lr, momentum=0.9
    )
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")

    def train(batch: Any) -> None:
        start_step(handle, 1, 1)
        with autocast:
            loss = classification.loss(network, batch)
        loss = loss + handle.regularization_loss().to(device)
        optimizer.zero_grad()
        loss.backward()
        handle._before_optimizer_step()
        optimizer.step()
        handle._after_optimizer_step()

    return train


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Return the seconds that a step takes."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def together(setting: Setting, steps: int, count: int) -> float:
    """Train at full precision in several processes at once.

    Args:
        setting: Network, batch and number format.
        steps: Timed steps of each process.
        count: Number of processes.

    Returns:
        Images/s of all processes together.

    Raises:
        RuntimeError: A process failed; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    barrier, speeds = context.Barrier(count), context.SimpleQueue()
    arguments = (setting, steps, barrier, speeds)
    processes = [context.Process(target=_one_of_many, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if failed := sum(process.exitcode != 0 for process in processes):
        raise RuntimeError(f"{failed} of {count} processes failed")
    return float(sum(speeds.get() for _ in processes))


def _one_of_many(setting: Setting, steps: int, barrier: Any, speeds: Any) -> None:
    """Train beside other processes, and put the images/s on a queue."""
    step, device = step_of(setting, "fp32", str(FULL_PRECISION)), where()
    barrier.wait(_START_SECONDS)
    seconds = sum(timed(step, device) for _ in range(steps))
    speeds.put(steps * setting.batch_size / seconds)

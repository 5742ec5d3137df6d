"""Images/s of a training step by method, and of several trials on one device.

    python -m tests.benchmarks.training_speed [--model resnet18] [--bits 3(±4)/2] [--at-once 1 2 4]

On batches of noise that are there already, in bfloat16 and channels-last, as the ImageNet suites
train. Steps of full precision and of a method run in turn; printed is the median of the ratios.
With ``--at-once`` the same full-precision training runs in several processes, and their images/s
are added up.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from qbench import registry
from qbench.attachment import attach
from qbench.environment import environment
from qbench.recipe import Recipe
from qbench.tasks import classification

METHODS = ["lsq", "lq_nets", "dorefa", "quantization_networks"]
CLASSES = 1000
WARM_UP = 3


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--bits", default="3(±4)/2")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--at-once", type=int, nargs="*", default=[])
    given = parser.parse_args()

    found, device = environment(), where()
    print(f"{found.get('gpu') or found['cpu']}, torch {found['torch']}")
    print(f"{given.model}, {given.batch_size} × 3 × {given.image_size}², {given.precision}\n")
    print(f"{'':24}{'images/s':>10}{'ratio':>8}")
    plain = step_of(given, "fp32", "32/32")
    for number, method in enumerate(given.methods):
        quantized = step_of(given, method, widths(method, given.bits))
        pairs = [(timed(plain, device), timed(quantized, device)) for _ in range(given.steps)]
        full = given.batch_size / statistics.median(a for a, _ in pairs)
        if number == 0:
            print(f"{'full precision':24}{full:10.1f}{1:8.2f}")
        speed = given.batch_size / statistics.median(b for _, b in pairs)
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{method + ' ' + widths(method, given.bits):24}{speed:10.1f}{ratio:8.2f}")
        del quantized
    del plain
    for count in given.at_once:
        print(f"{count} at once{'':15}{together(given, count):10.1f}")


def where() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def widths(method: str, bits: str) -> str:
    """The widths asked for, without named levels where a method learns its own."""
    weights, _, activations = bits.partition("/")
    refuses = method in ("lsq", "lq_nets", "dorefa") and "(" in weights
    return f"{weights.partition('(')[0] if refuses else weights}/{activations}"


def step_of(given: argparse.Namespace, method: str, bits: str) -> Callable[[], None]:
    """A training step on one batch of noise."""
    recipe = Recipe(
        epochs=1,
        batch_size=given.batch_size,
        optimizer="sgd",
        lr=1e-3,
        precision=given.precision,
        channels_last=True,
    )
    device, shape = where(), (3, given.image_size, given.image_size)
    images, labels = classification.random_batch(given.batch_size, shape, CLASSES, device)
    images = images.contiguous(memory_format=torch.channels_last)
    train = training_step(given.model, method, bits, recipe, shape, device)
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
) -> Callable[[Any], None]:
    """A training step, as a trial takes it, of a network in a method's last epoch."""
    net = registry.build_model(model, CLASSES, shape[0]).to(device)
    net.to(memory_format=torch.channels_last)
    samples = torch.randn(4, *shape, device=device)
    handle = attach(net, registry.build_method(method, {}), bits=bits, calibration=[samples])
    handle.on_epoch_start(20, 20)
    handle.model.train()
    optimizer = torch.optim.SGD(
        handle.parameter_groups(lr=recipe.lr, weight_decay=1e-4), lr=recipe.lr, momentum=0.9
    )
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")

    def train(batch: Any) -> None:
        handle.on_step_start(1, 1)
        with autocast:
            loss = classification.loss(handle.model, batch)
        loss = loss + handle.penalty().to(device)
        optimizer.zero_grad()
        loss.backward()
        handle.before_step()
        optimizer.step()
        handle.after_step()

    return train


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def together(given: argparse.Namespace, count: int) -> float:
    """Images/s of so many processes at once, in all."""
    context = multiprocessing.get_context("spawn")
    barrier, speeds = context.Barrier(count), context.SimpleQueue()
    arguments = (given, barrier, speeds)
    processes = [context.Process(target=one_of_many, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return float(sum(speeds.get() for _ in processes))


def one_of_many(given: argparse.Namespace, barrier: Any, speeds: Any) -> None:
    """Train beside others, and tell how fast."""
    step, device = step_of(given, "fp32", "32/32"), where()
    barrier.wait()
    seconds = sum(timed(step, device) for _ in range(given.steps))
    speeds.put(given.steps * given.batch_size / seconds)


if __name__ == "__main__":
    main()

"""Does decoding starve training? Images/s of the loader alone, of the step alone, and of both.

    python -m tests.benchmarks.input_speed [--root IMAGENET] [--model resnet18] [--cpus 2] …

Without ``--root``, on drawn images as large as ImageNet's. Both together should reach nine tenths
of the slower of the two. On a CPU training has one thread, and the loader the other CPUs.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from qbench import registry
from qbench.data.synthetic import imagenet_like
from qbench.spec.recipe import Recipe
from qbench.train.loading import training_loader, worker_count
from qbench.train.provenance import environment
from tests.benchmarks.steps import training_step


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="a folder as ImageNet's")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--method", default="quantization_networks")
    parser.add_argument("--bits", default="3(±4)/2")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--cpus", type=float, default=2)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    given = parser.parse_args()

    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        root = given.root
        if root is None:
            root = scratch
            imagenet_like.write(Path(scratch) / "imagenet", classes=4, per_class=60, size=375)
        dataset = registry.build_dataset("imagenet", {"root": root, "image_size": given.image_size})
        recipe = Recipe(
            epochs=1,
            batch_size=given.batch_size,
            optimizer="sgd",
            lr=1e-3,
            precision=given.precision,
            channels_last=True,
        )
        workers = worker_count(given.cpus, device)
        order = torch.Generator().manual_seed(0)
        loader = training_loader(dataset, dataset.train(), recipe, 0, order, workers, device)
        endless = itertools.chain.from_iterable(itertools.repeat(loader))
        train = training_step(
            given.model, given.method, given.bits, recipe, dataset.image_shape, device
        )

        batch = next(endless)
        alone = speed(itertools.islice(endless, given.batches), lambda _: None, device)
        steps = speed(itertools.repeat(batch, given.batches), train, device)
        both = speed(itertools.islice(endless, given.batches), train, device)
    found = environment()
    where = found.get("gpu") or f"{found['cpu']}, {given.cpus:g} CPUs"
    print(f"{where}, torch {found['torch']}, {workers} loading processes")
    print(f"{given.model} {given.method} {given.bits}, {given.precision}, batch {given.batch_size}")
    print(f"loader alone  {alone:8.1f} images/s")
    print(f"step alone    {steps:8.1f} images/s")
    print(f"both          {both:8.1f} images/s, {both / min(alone, steps):.2f} of the slower")


def speed(batches: Iterable[Any] | Iterator[Any], train: Any, device: torch.device) -> float:
    """Images per second; the first two batches, on which queues fill and caches warm, are free."""
    count, start = 0, 0.0
    for number, batch in enumerate(batches):
        train(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number < 2:
            start = time.perf_counter()
        else:
            count += len(batch[0])
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    main()

"""What the harness costs, against loops written by hand.

    python -m tests.benchmarks.harness_cost
    python -m tests.benchmarks.harness_cost --suite suites/digits_start.yaml

The first command compares trials in this process with a loop over the same network, batches and
quantizers, in CPU time: on digits, and on 12,000 images of 14×14 pixels. It prints the fixed
cost of a warm trial too: what a trial of one step takes beside the loop's.

With a suite, it trains the grid into an empty folder and prints the wall time against the sum of
the loops of its trials, and the seconds until the first trial starts.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qbench import registry
from qbench.benchmark.benchmark import Benchmark
from qbench.data import Dataset
from qbench.quant.attach import attach
from qbench.quant.options import build_method
from qbench.spec.trial import Trial
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from qbench.train.building import ExecutionEnvironment
from qbench.train.optimizer import build_optimizer
from qbench.train.trial import Training

BARS = {"digits": 1.10, "14×14": 1.10, "fixed": 0.15, "suite": 0.55, "first": 8.0}
METHODS = (("fp32", "32/32"), ("ste", "2/2"), ("lsq", "2/2"), ("quantization_networks", "2/2"))
TEXT = """\
name: harness
dataset: {dataset}
data: {data}
models: [convnet_tiny]
bits: [{bits}]
methods: [{method}]
seeds: [0]
recipe: {{name: aligned, initialization: scratch, {changes}}}
full_precision: {{{changes}}}
"""
EVALUATION_BATCH = 500


def by_hand(trial: Trial, data: Mapping[str, Any]) -> None:
    """Train and measure a network as a person would write it, without the harness.

    Args:
        trial: Names the network, the recipe and the quantizers. It starts from random weights.
        data: Options of its dataset.
    """
    torch.set_num_threads(1)
    torch.manual_seed(trial.seed)
    recipe = trial.recipe
    dataset = registry.build_dataset(trial.dataset, data)
    (x, y), (test_x, test_y) = (
        _tensors(dataset, part) for part in (dataset.train(), dataset.test())
    )
    model = registry.build_model(trial.architecture, dataset.num_classes, x.shape[1])
    method = build_method(trial.method, trial.options)
    calibration = x[: recipe.calibration_images].split(recipe.batch_size)
    handle = attach(
        model, method, bits=trial.bits, placement=trial.placement, calibration=calibration
    )
    optimizer = build_optimizer(handle, recipe)
    handle.attach_optimizer(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = math.ceil(len(x) / recipe.batch_size)
    for epoch in range(1, recipe.epochs + 1):
        handle.on_epoch_start(epoch, recipe.epochs, steps)
        model.train()
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * (1 + math.cos(math.pi * (epoch - 1) / recipe.epochs)) / 2
        for batch in torch.randperm(len(x)).split(recipe.batch_size)[: recipe.steps]:
            loss = (
                nn.functional.cross_entropy(model(x[batch]), y[batch])
                + handle.regularization_loss()
            )
            optimizer.zero_grad()
            loss.backward()
            if recipe.gradient_clip is not None:
                nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            optimizer.step()
        model.eval()
        _accuracy(model, test_x, test_y)
        if method.soft:  # measured with soft quantizers too, as by qbench
            for quantizer in handle.quantizers:
                quantizer.train()
            _accuracy(model, test_x, test_y)


def trial_of(method: str, bits: str, dataset: str, data: Mapping[str, Any], changes: str) -> Trial:
    """Return one trial from random weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "harness.yaml"
        path.write_text(
            TEXT.format(method=method, bits=bits, dataset=dataset, data=dict(data), changes=changes)
        )
        planned = expand(load_suite(path))
    (trial,) = (each.trial for each in planned if each.trial.method == method)
    return trial


def by_qbench(trial: Trial, data: Mapping[str, Any]) -> None:
    """Train the trial as a worker does."""
    training = Training(trial, execution=ExecutionEnvironment(data))
    for _ in training.epochs():
        pass
    if training.result.status != "done":
        raise SystemExit(training.result.traceback)


def cpu_seconds(trial: Trial, data: Mapping[str, Any], rounds: int) -> tuple[float, float]:
    """Return the CPU times of a trial and of its loop, the least of some interleaved runs."""
    times: dict[Callable[[Trial, Mapping[str, Any]], None], list[float]] = {}
    for run in (by_qbench, by_hand) * rounds:
        start = time.process_time()
        run(trial, data)
        times.setdefault(run, []).append(time.process_time() - start)
    return min(times[by_qbench]), min(times[by_hand])


def compare(name: str, dataset: str, data: Mapping[str, Any], changes: str, rounds: int) -> None:
    """Print the CPU time of trials over that of loops by hand, of each method."""
    print(f"{name}: CPU seconds of a trial, of a loop by hand, and their ratio")
    for method, bits in METHODS:
        trial = trial_of(method, bits, dataset, data, changes)
        ours, loop = cpu_seconds(trial, data, rounds)
        verdict = "holds" if ours <= BARS[name] * loop else "missed"
        print(f"  {method} {bits}: {ours:.2f} {loop:.2f} {ours / loop:.3f}, {verdict}", flush=True)


def fixed_cost(rounds: int) -> None:
    """Print what a warm trial takes beside its loop, in a trial of one step."""
    print("fixed cost of a warm trial, CPU seconds beside the loop's")
    for method, bits in METHODS:
        trial = trial_of(method, bits, "digits", {}, "epochs: 1, steps: 1")
        ours, loop = cpu_seconds(trial, {}, rounds)
        verdict = "holds" if ours - loop <= BARS["fixed"] else "missed"
        print(f"  {method} {bits}: {ours - loop:.3f}, {verdict}", flush=True)


def whole_suite(path: Path) -> None:
    """Print the wall time of a suite over the sum of its loops, and when the first trial starts."""
    with tempfile.TemporaryDirectory() as results:
        clock, start = time.time(), time.perf_counter()
        command = [sys.executable, "-m", "qbench", "run", str(path), "--results", results]
        subprocess.run(command, check=True)
        wall = time.perf_counter() - start
        benchmark = Benchmark.open(path, Path(results))
    first = min(run.start_time for run in benchmark.runs.values()) / 1000 - clock
    trials = [each.trial for each in benchmark.planned if not each.unsupported]
    start = time.perf_counter()
    for trial in trials:
        by_hand(trial, benchmark.suite.data)
    loops = time.perf_counter() - start
    print(f"{len(trials)} trials: wall {wall:.1f} s, loops {loops:.1f} s, ratio {wall / loops:.3f}")
    print(f"the first trial starts after {first:.1f} s")


@torch.no_grad()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that a network classifies right."""
    with parametrize.cached():
        guesses = [model(batch).argmax(1) for batch in images.split(EVALUATION_BATCH)]
    return float((torch.cat(guesses) == labels).float().mean())


def _tensors(dataset: Dataset, split: object) -> tuple[Tensor, Tensor]:
    """Return all images, as the network takes them, and all labels of a split."""
    images, labels = split.tensors  # type: ignore[attr-defined]
    return dataset.to_input(images), labels


def main() -> None:
    """Measure, and print what was found beside the project's bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", type=Path, help="suite to train whole")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; the quickest counts")
    arguments = parser.parse_args()
    if arguments.suite:
        whole_suite(arguments.suite)
        return
    compare("digits", "digits", {}, "epochs: 20", arguments.rounds)
    fashion = {"image_size": 14, "train_images": 12000}
    compare("14×14", "fashion_mnist", fashion, "epochs: 1", arguments.rounds)
    fixed_cost(arguments.rounds)


if __name__ == "__main__":
    main()

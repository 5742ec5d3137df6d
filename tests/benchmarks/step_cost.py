"""Cost of a training step of each method relative to full precision, with the project's targets.

    python -m tests.benchmarks.step_cost [--threads 1 2] [--rounds 8] [--methods NAME ...] [--json]

Both kinds of step run alternately in one process that has the memory allocator of trials, on
ResNet-18, batches of 16 images of 112 pixels. `qbench profile --all` prints the same table for one
number of threads. A method that changes the network is compared with the changed network. On a
machine that does other work too, the ratio of CPU time on one thread can be trusted, and the others
cannot.
"""

from __future__ import annotations

import argparse
import json
import statistics

from rich.console import Console

from qbench import registry
from qbench.cli import messages
from qbench.cli.method_reports import show_profiles
from qbench.lab.profile import Profile, ProfileSettings, as_json, every_method, measure_all
from qbench.schedule.ray_environment import restart_with_allocator
from qbench.spec.words import counted

STEP, MEDIAN, MEMORY = 1.15, 1.10, 1.30
STEPS = {"apot": 1.20}
"""Targets of ratios of time, where a method has one of its own."""


def main() -> None:
    """Measure and print a table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8, help="steps of each kind")
    parser.add_argument("--methods", nargs="+", help="names; by default every method that trains")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    methods = [pair for pair in every_method() if not given.methods or pair[0] in given.methods]
    told = []
    for threads in given.threads:
        settings = ProfileSettings(
            method="",
            options={},
            model=given.model,
            bits="",
            batch_size=given.batch_size,
            image_size=given.image_size,
            threads=threads,
        )
        with messages.status(Console(stderr=True), "", f"{counted(threads, 'thread')}: "):
            found = measure_all(methods, settings, given.rounds)
            if given.json:
                told += [as_json(*each) for each in found]
            else:
                print_misses(show_profiles(settings, found))
    if given.json:
        print(json.dumps(told, indent=2, ensure_ascii=False))


def print_misses(found: list[tuple[ProfileSettings, Profile]]) -> None:
    """Print which methods miss a target. Those that wrap a library have none."""
    found = [each for each in found if registry.method_class(each[0].method).library is None]
    steps = [(each.method, profile.ratio, profile.cpu_ratio) for each, profile in found]
    missed = {
        "ratio": [name for name, wall, _ in steps if wall > STEPS.get(name, STEP)],
        "CPU ratio": [name for name, _, cpu in steps if cpu > STEPS.get(name, STEP)],
        "memory": [each.method for each, profile in found if profile.memory_ratio > MEMORY],
    }
    medians = statistics.median(s[1] for s in steps), statistics.median(s[2] for s in steps)
    print(f"Targets: step {STEP} (apot {STEPS['apot']}), median {MEDIAN}, memory {MEMORY}")
    for what, names in missed.items():
        print(f"  {what}: {len(names)} of {len(found)} miss it: {', '.join(names) or 'none'}")
    print(f"  medians: {medians[0]:.3f} and {medians[1]:.3f} of CPU time\n")


if __name__ == "__main__":
    restart_with_allocator()
    main()

"""Images/s of a training step by method, and of several trials on one device.

    python -m tests.benchmarks.training_speed [--model resnet18] [--bits 3(±4)/2] [--at-once 1 2 4]

On batches of noise that are there already, in bfloat16 and channels-last, as the ImageNet suites
train. Steps of full precision and of a method run in turn; printed is the median of the ratios.
With ``--at-once`` the same full-precision training runs in several processes, and their images/s
are added up.
"""

from __future__ import annotations

import argparse
import statistics

from qbench.train.provenance import environment
from tests.benchmarks.steps import Setting, step_of, timed, together, where

METHODS = ["lsq", "lq_nets", "dorefa", "quantization_networks"]


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
    setting = Setting(given.model, given.batch_size, given.image_size, given.precision)
    plain = step_of(setting, "fp32", "32/32")
    for number, method in enumerate(given.methods):
        quantized = step_of(setting, method, widths(method, given.bits))
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
        print(f"{count} at once{'':15}{together(setting, given.steps, count):10.1f}")


def widths(method: str, bits: str) -> str:
    """The widths asked for, without named levels where a method learns its own."""
    weights, _, activations = bits.partition("/")
    refuses = method in ("lsq", "lq_nets", "dorefa") and "(" in weights
    return f"{weights.partition('(')[0] if refuses else weights}/{activations}"


if __name__ == "__main__":
    main()

"""Time of every primitive, forward and backward, as a ratio to ``torch.relu``.

    python -m tests.benchmarks.primitive_speed [--elements 524288] [--rounds 9]

Both run on the same tensor on one thread, in turn, so that what the machine does meanwhile hits
both. Printed: the ratio of the least processor times.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from tests.helpers.primitives import CASES

TARGET, TARGET_OF_CURVES = 4, 15


def seconds(function: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def ratio(name: str, dtype: torch.dtype, elements: int, rounds: int) -> float:
    """Return the time of a primitive, relative to that of a ReLU."""
    x, case = torch.randn(64, elements // 64, dtype=dtype).requires_grad_(), CASES[name]
    g, leaves = torch.randn_like(x), [x, *case.parameters(dtype, x)]
    own, relu = [], []
    for _ in range(rounds):
        own.append(seconds(lambda: torch.autograd.grad(case.function(*leaves), leaves, g)))
        relu.append(seconds(lambda: torch.autograd.grad(x.relu(), x, g)))
    return min(own) / min(relu)


def main() -> None:
    """Print a row per primitive, with the ratios that miss the target marked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=2**19)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{arguments.elements} values, torch {torch.__version__}, 1 thread")
    print(f"! above {TARGET}, or above {TARGET_OF_CURVES} where a curve is computed")
    print(f"{'primitive':<34}{'float32':>9}{'float64':>9}")
    for name, case in CASES.items():
        row = f"{name:<34}"
        for dtype in (torch.float32, torch.float64):
            found = ratio(name, dtype, arguments.elements, arguments.rounds)
            missed = found > (TARGET_OF_CURVES if case.curved else TARGET)
            row += f"{found:>8.1f}{'!' if missed else ' '}"
        print(row)


if __name__ == "__main__":
    main()

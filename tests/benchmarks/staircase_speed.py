"""Time of the soft staircase, forward and backward, as a ratio to ``torch.relu``.

    python tests/benchmarks/staircase_speed.py [--elements 12800000] [--dtype float32]

Both run on the same tensor in the same process, in turn, so that what the machine does meanwhile
hits both. Printed: the median of the ratios of neighbouring rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from qbench.quant.staircase import kernels
from qbench.quant.staircase.staircase import staircase

WEIGHTS = {"1": 1, "2": 2, "3(±2)": 4, "3(±4)": 6, "4": 14, "5": 30, "6": 62, "7": 126, "8": 254}


def main() -> None:
    """Print a row per width and temperature."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--elements", type=int, default=12_800_000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[5, 50, 275, 550])
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    x = torch.randn(arguments.elements, device=device).to(dtype).requires_grad_()
    g = torch.randn(arguments.elements, device=device).to(dtype)
    how = "C kernel" if device == "cpu" and kernels.load() else "torch"
    threads = torch.get_num_threads()
    print(f"{arguments.elements} values, {dtype}, {device}, {threads} threads, {how}")

    def relu() -> None:
        torch.autograd.grad(torch.relu(x), x, g)

    steps = {f"w {name}": (n, -0.5) for name, n in WEIGHTS.items()}
    steps |= {f"a {bits}": (2**bits - 1, 0.0) for bits in range(1, 9)}
    for _ in range(20):
        relu()
    print(f"{'width':8}{'steps':>6}" + "".join(f"{f'T={t:g}':>10}" for t in arguments.temperatures))
    for name, (n, centre) in steps.items():
        ratios = []
        for temperature in arguments.temperatures:
            beta = torch.tensor(5 * n / 16, device=device, requires_grad=True)
            alpha = torch.tensor(16 / (5 * n), device=device, requires_grad=True)
            biases = torch.arange(n, device=device) + (0.5 + centre * n)
            scales = torch.ones(n, device=device)
            t = torch.tensor(temperature, device=device)

            def step(a=alpha, b=beta, biases=biases, scales=scales, t=t) -> None:  # type: ignore[no-untyped-def]
                y = staircase(x, a, b, biases, scales, 0.0, t)
                torch.autograd.grad(y, (x, a, b), g)

            step()
            step()
            rounds = [(seconds(step), seconds(relu)) for _ in range(arguments.rounds)]
            ratios.append(statistics.median(s / r for s, r in rounds))
        print(f"{name:8}{n:6}" + "".join(f"{ratio:10.2f}" for ratio in ratios), flush=True)


def seconds(function) -> float:  # type: ignore[no-untyped-def]
    """Wall time of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

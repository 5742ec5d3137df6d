"""What the harness costs: wall time of a suite against the training times of its trials.

    python tests/benchmarks/harness_cost.py suites/digits_lowbit.yaml

Runs the suite into an empty folder and prints its wall time W and the sum S of its trials' own
training times (`train_seconds`: epochs and their evaluations, as each worker measured them while
the others ran too). With two trials at once W/S would be 0.5 if the harness cost nothing. The
project's bound is W ≤ 0.6 S + 15 s on two cores.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd


def main(suite: str) -> None:
    """Measure one suite and print the result."""
    with tempfile.TemporaryDirectory() as results:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "qbench", "run", suite, "--results", results], check=True
        )
        wall = time.perf_counter() - start
        (path,) = Path(results).glob("*/trials.csv")
        training = float(pd.read_csv(path)["train_seconds"].sum())
    bound = 0.6 * training + 15
    print(f"wall {wall:.1f} s, training {training:.1f} s, ratio {wall / training:.3f}")
    print(f"bound 0.6 × training + 15 s = {bound:.1f} s: {'holds' if wall <= bound else 'broken'}")


if __name__ == "__main__":
    main(*sys.argv[1:])

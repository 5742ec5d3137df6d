"""How often the marks of a column err, and what they find: a simulation, run by hand.

    python -m tests.benchmarks.column_errors [--columns 1000] [--looks]

Each column has 34 rows whose standard deviations over seeds are unequal. In columns of equal rows
every row that is told apart is an error; a table should have one in at most 5 % of columns. With
``--looks``, neighbouring rows get further seeds as `qbench run --resolve` trains them.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from qbench.report.looks import LOOKS, neighbours, wanted_seeds
from qbench.report.significance import LEVEL, PairedTests

_ROWS = 34
_DEVIATIONS = (0.3, 1.3)  # points, of a row over seeds
_STEP = 0.5  # points between neighbours, in columns of unequal rows


def column(generator: np.random.Generator, seeds: int, step: float, collapsed: bool) -> np.ndarray:
    """Draw a column of accuracies in %, (rows, seeds); row i is i × step points below the best."""
    deviations = generator.uniform(*_DEVIATIONS, (_ROWS, 1))
    means = 80 - step * np.arange(_ROWS)[:, None]
    values = means + generator.normal(0, 1, (_ROWS, seeds)) * deviations
    if collapsed:
        values[generator.integers(_ROWS), generator.integers(seeds)] = 10.0
    return values


def marks(values: np.ndarray) -> tuple[bool, float, float]:
    """Return whether the best is bold, the share of rows with a †, and of pairs told apart."""
    tests = PairedTests([dict(enumerate(row)) for row in values])
    best = int(values.mean(axis=1).argmax())
    others = [i for i in range(_ROWS) if i != best]
    bold = all(tests.uncorrected(best, i) < LEVEL for i in others)
    behind = np.array(tests.corrected([(best, i) for i in others])) < LEVEL
    told = sum(first - 1 for first, _ in tests.ranks())
    return bold, float(behind.mean()), told / (_ROWS * (_ROWS - 1) / 2)


def resolved(values: np.ndarray, within: float) -> tuple[bool, float, float]:
    """Return whether a pair is told apart, the share of neighbours that are, and seeds per row."""
    seeds = dict.fromkeys(map(str, range(_ROWS)), min(LOOKS))
    while True:
        frame = pd.DataFrame(
            {
                "dataset": "", "model": "", "label": label, "method": label, "bits": "2/2",
                "seed": seed, "recipe": "", "epochs": 0, "status": "done", "reason": "",
                "top1": values[int(label), seed],
            }
            for label, count in seeds.items()
            for seed in range(count)
        )  # fmt: skip
        found = neighbours(frame, "top1", 0, range(max(LOOKS)), within)
        wanted = wanted_seeds(found)
        if not wanted:
            told = [pair.verdict == "told" for pair in found]
            return any(told), float(np.mean(told)), float(np.mean([*seeds.values()]))
        seeds |= {label: count for (_, _, label, _), count in wanted.items()}


def looks(columns: int) -> None:
    """Print how often the looks of neighbours err, and what they find."""
    print("rows     collapsed seed | columns with a pair told | neighbours told  seeds of a row")
    for step in (0.0, _STEP):
        for collapsed in (False, True):
            generator = np.random.default_rng(0)
            drawn = (column(generator, max(LOOKS), step, collapsed) for _ in range(columns))
            any_told, told, seeds = np.array([resolved(each, 1.0) for each in drawn]).T
            print(
                f"{'unequal' if step else 'equal':8} {'yes' if collapsed else 'no':14} | "
                f"{any_told.mean():24.1%} | {told.mean():15.1%}  {seeds.mean():13.1f}"
            )


def main() -> None:
    """Print a line for each kind of column and number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--looks", action="store_true", help="the looks of `run --resolve`")
    given = parser.parse_args()
    if given.looks:
        looks(given.columns)
        return
    columns = given.columns
    print(
        "rows     collapsed seed  seeds  columns with: bold  any pair told | of all: †  pairs told"
    )
    for step in (0.0, _STEP):
        for collapsed in (False, True):
            for seeds in (3, 5, 10):
                generator = np.random.default_rng(seeds)
                found = [marks(column(generator, seeds, step, collapsed)) for _ in range(columns)]
                bold, behind, told = np.array(found, dtype=float).T
                print(
                    f"{'unequal' if step else 'equal':8} {'yes' if collapsed else 'no':14}  "
                    f"{seeds:5}  {'':12} {bold.mean():6.1%}  {(told > 0).mean():13.1%} | "
                    f"{behind.mean():9.1%}  {told.mean():10.1%}"
                )


if __name__ == "__main__":
    main()

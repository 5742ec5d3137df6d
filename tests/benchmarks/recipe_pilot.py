"""Compare recipes of a suite on validation images: how far methods differ, relative to the seeds.

    python -m tests.benchmarks.recipe_pilot fashion_quick --out FILE.jsonl --validation 5000 \
        --set 'bits=[1/1, 2/2]' --set 'methods=[fp32, dorefa, ewgs]' --set 'seeds=[0, 1]' \
        --recipe recipe.lr=0.02 --recipe 'recipe.lr=0.1 recipe.epochs=12'

Each ``--recipe`` is a list of changes to the suite. One trial trains at a time, on one thread. The
file keeps what was trained; the same command continues where it stopped. The last table shows for
each recipe and width the spread of the methods (standard deviation of their means), the standard
deviation over seeds (pooled over the methods), their ratio, and the CPU time of a trial. Of two
recipes of equal cost, the one with the larger ratio tells methods apart with fewer seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from qbench.spec.trial import FP32, Trial
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from qbench.train.building import ExecutionEnvironment
from qbench.train.trial import Training


def main() -> None:
    """Train what the file lacks, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", type=Path, help="file or name of the suite")
    parser.add_argument("--out", type=Path, required=True, help="file of the trials, one a line")
    parser.add_argument("--validation", type=int, required=True, help="number of images")
    parser.add_argument("--set", action="append", default=[], help="change of the suite")
    parser.add_argument("--recipe", action="append", required=True, help="changes, with spaces")
    given = parser.parse_args()
    known = {row["key"]: row for row in read(given.out)}
    weights: dict[str, bytes | None] = {}
    rows = []
    planned = [
        (recipe, each, dict(suite.data))
        for recipe in given.recipe
        for suite in [load_suite(given.suite, [*given.set, *recipe.split()])]
        for each in expand(suite)
        if not each.unsupported
    ]
    planned.sort(key=lambda each: each[1].trial.seed)  # every recipe has a seed before the next
    for recipe, each, data in planned:
        trial = each.trial.changed(validation=given.validation)
        if trial.method == FP32:
            continue
        if trial.key not in known:
            for base in trial.needs:
                if base.key not in weights:
                    row, weights[base.key] = trained(base, data)
                    print(f"{base.name}: {row['top1']:.2f} in {row['cpu']:.0f} s", flush=True)
            row, _ = trained(trial, data, weights)
            known[trial.key] = row
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        row = known[trial.key] | {"recipe": recipe}
        rows.append(row)
        print(f"{recipe}: {trial.name}: {row['top1']:.2f} in {row['cpu']:.0f} s", flush=True)
    frame = pd.DataFrame(rows)
    print(
        frame.groupby(["bits", "method", "recipe"])["top1"]
        .agg(["mean", "std"])
        .unstack()
        .to_string()
    )
    print(summary(frame).to_string())


def read(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the trials of a file, if there is one."""
    if file.exists():
        yield from map(json.loads, file.read_text(encoding="utf-8").splitlines())


def trained(
    trial: Trial, data: dict[str, Any], weights: Mapping[str, bytes | None] = MappingProxyType({})
) -> tuple[dict[str, Any], bytes | None]:
    """Train a trial with the weights of others, and return what is kept of it and its own."""
    start = time.process_time()
    needed = (trial.base, trial.taught_by)
    base, teacher = (weights[each.key] if each else None for each in needed)
    training = Training(trial, base, ExecutionEnvironment(data), teacher)
    for _ in training.epochs():
        pass
    result = training.result
    if result.status != "done":
        raise RuntimeError(f"{trial.name}: {result.reason}")
    row = {name: getattr(trial, name) for name in ("key", "method", "bits", "seed")}
    row |= {"top1": result.metrics["top1"], "cpu": time.process_time() - start}
    return row | {"history": [epoch["top1"] for epoch in result.history]}, training.weights


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return spread, standard deviation over seeds, their ratio and the cost of each recipe."""
    by_method = frame.groupby(["bits", "recipe", "method"])
    table = by_method.agg(mean=("top1", "mean"), variance=("top1", "var"), cpu=("cpu", "mean"))
    by_recipe = table.groupby(["bits", "recipe"])
    found = pd.DataFrame(
        {
            "mean": by_recipe["mean"].mean(),
            "spread": by_recipe["mean"].std(),
            "seeds": by_recipe["variance"].mean() ** 0.5,
            "cpu": by_recipe["cpu"].mean(),
        }
    )
    found["ratio"] = found["spread"] / found["seeds"]
    return found


if __name__ == "__main__":
    main()

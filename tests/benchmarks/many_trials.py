"""Does qbench stay as quick and as small with thousands of trials?

``python -m tests.benchmarks.many_trials run --trials 2000`` trains that many trials of a step and
reports the driver's memory and the time per trial from the start to the end.
``python -m tests.benchmarks.many_trials look --trials 10000`` fills a store with that many runs and
times `qbench plan` and `qbench leaderboard` on it.
"""

from __future__ import annotations

import argparse
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path

import numpy as np

from qbench.benchmark.benchmark import Benchmark
from qbench.spec.result import Result
from qbench.spec.trial import Trial
from qbench.store.mlflow import Store
from qbench.store.tags import digest
from qbench.train.limits import GIB, resident_bytes

SUITE = """\
name: many
dataset: digits
models: [convnet_tiny]
bits: {bits}
methods: {methods}
seeds: {seeds}
recipe: {{name: aligned, initialization: scratch, epochs: 1, steps: 1, calibration_images: 8}}
"""
_TABLES = ("params", "metrics", "latest_metrics")


class Watch:
    """A listener that measures: memory, and when trials end."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.memory: list[int] = []

    def started(self, trial: Trial) -> None: ...

    def progressed(self, trial: Trial, epoch: int) -> None: ...

    def retried(self, trial: Trial, reason: str) -> None:
        print(f"{trial.name}: {reason}")

    def ended(self, result: Result) -> None:
        self.ends.append(time.monotonic())
        self.memory.append(resident_bytes())
        if len(self.ends) % 100 == 0:
            print(f"{len(self.ends)} trials, {self.memory[-1] / GIB:.3f} GiB", flush=True)


def run(trials: int, folder: Path) -> None:
    """Train trials of one step each."""
    suite = folder / "many.yaml"
    suite.write_text(
        SUITE.format(bits="[1/32]", methods="[binary_connect]", seeds=list(range(trials)))
    )
    benchmark, watch = Benchmark.open(suite, folder / "results"), Watch()
    benchmark.run(watch)
    done = sum(benchmark.status(planned) == "done" for planned in benchmark.planned)
    warm = len(watch.memory) // 10  # what is imported and cached comes with the first trials
    slope = np.polyfit(range(warm, len(watch.memory)), watch.memory[warm:], 1)[0]
    quarters = np.array_split(np.diff(watch.ends)[warm:], 4)
    print(f"{done} of {trials} done")
    print(f"memory of the driver: {slope / 1024:.2f} KiB a trial, after the first {warm}")
    medians = ", ".join(f"{1000 * np.median(gaps):.0f}" for gaps in quarters)
    print(f"between two ends, in each quarter: {medians} ms")


def look(trials: int, folder: Path) -> None:
    """Time what reads a store of many runs."""
    suite = folder / "many.yaml"
    seeds = list(range(trials // 20))
    methods = "[ste, twn, lsq, binary_connect, bwn, lq_nets, dorefa, quantization_networks]"
    suite.write_text(SUITE.format(bits="[1/32, 2/32, 3/32]", methods=methods, seeds=seeds))
    _fill(suite, folder / "results")
    for verb in ("plan", "leaderboard"):
        command = [sys.executable, "-m", "qbench", verb, str(suite)]
        start = time.monotonic()
        subprocess.run(
            [*command, "--results", str(folder / "results")], check=True, capture_output=True
        )
        print(f"qbench {verb}: {time.monotonic() - start:.1f} s", flush=True)


def _fill(suite: Path, results: Path) -> None:
    """Record a run of every trial: the first as qbench does, the others as copies of its rows."""
    benchmark = Benchmark.open(suite, results)
    first, *others = [planned.trial for planned in benchmark.planned if not planned.unsupported]
    draw = np.random.default_rng(0)
    metrics = {"top1": 97.0, "top5": 99.0, "test_loss": 0.1}
    history = [{"epoch": 1, "train_loss": 0.1, "lr": 0.1, **metrics}]
    result = Result(trial=first, suite="many", status="done", started=time.time())
    result.metrics, result.history = metrics, history
    Store(results).record(result, results)
    with closing(sqlite3.connect(results / "mlflow.db")) as database, database:
        (one,) = database.execute("SELECT run_uuid FROM runs").fetchone()
        tags = dict(database.execute("SELECT key, value FROM tags"))
        measured = dict(database.execute("SELECT key, value FROM latest_metrics"))
        for trial in others:
            name, top1 = uuid.uuid4().hex, float(draw.normal(97, 1))
            changed = {"qbench.key": trial.key, "qbench.trial": trial.model_dump_json()}
            own = {**tags, **changed}
            own["qbench.digest"] = digest(own, {**measured, "final_top1": top1})
            _copy(database, "runs", one, {"run_uuid": name, "name": trial.name})
            for table in _TABLES:
                _copy(database, table, one, {"run_uuid": name})
            database.execute(
                "UPDATE latest_metrics SET value = ? WHERE run_uuid = ? AND key = 'final_top1'",
                (top1, name),
            )
            rows = [(key, value, name) for key, value in own.items()]
            database.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", rows)
    print(f"{len(others) + 1} runs in the store", flush=True)


def _copy(database: sqlite3.Connection, table: str, run: str, changes: dict[str, str]) -> None:
    """Insert copies of a run's rows, with other values in some columns."""
    names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    values = ", ".join("?" if name in changes else name for name in names)
    given = [changes[name] for name in names if name in changes]
    database.execute(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {table} WHERE run_uuid = ?",
        (*given, run),
    )


def main() -> None:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "look"])
    parser.add_argument("--trials", type=int, required=True)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"run": run, "look": look}[chosen.what](chosen.trials, Path(folder))


if __name__ == "__main__":
    main()

"""Storms: a run whose driver, or whose workers, are killed again and again.

``python -m tests.helpers.storms --kills 20 --workers 20`` runs a suite undisturbed, then through
storms, and compares what they leave.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import Qbench


@dataclass
class Storm:
    """What kills.

    Attributes:
        drivers: how many times the command is killed, at random moments.
        workers: how many random workers are killed.
        every: seconds between these kills. A worker takes some to start: in fewer, none trains.
        seed: of the moments.
        longest: seconds that a command lives at most before it is killed.
    """

    drivers: int = 0
    workers: int = 0
    every: float = 6.0
    seed: int = 0
    longest: float = 25.0


@dataclass
class Survived:
    """What a suite came through.

    Attributes:
        drivers, workers: how many were killed.
        commands: how often `qbench run` was started.
        seconds: in all.
    """

    drivers: int = 0
    workers: int = 0
    commands: int = 0
    seconds: float = 0.0


def run_through(qbench: Qbench, storm: Storm, *arguments: str | Path) -> Survived:
    """Run a command again and again through a storm, until it ends with exit code 0.

    Raises:
        AssertionError: it shows a traceback, or ends otherwise than by being killed or with code 1.
    """
    draw, survived, start = random.Random(storm.seed), Survived(), time.monotonic()
    log = qbench.results.parent / f"{qbench.results.name}.log"
    while True:
        survived.commands += 1
        with log.open("w") as output:
            process = subprocess.Popen(
                qbench.command(*arguments), env=qbench.environment, stdout=output, stderr=output
            )
        born = struck = time.monotonic()
        left = survived.drivers < storm.drivers
        life = draw.uniform(4, storm.longest) if left else float("inf")
        while process.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if survived.workers < storm.workers and now - struck > storm.every:
                struck = now
                survived.workers += kill_a_worker(qbench, draw)
            if now - born > life:
                process.send_signal(signal.SIGKILL)
                survived.drivers += 1
                process.wait()
        told = log.read_text(encoding="utf-8")
        assert "Traceback" not in told, told
        if process.returncode == 0 and not survived.drivers < storm.drivers:
            survived.seconds = time.monotonic() - start
            return survived
        assert process.returncode in (0, 1, -signal.SIGKILL), told


def kill_a_worker(qbench: Qbench, draw: random.Random) -> int:
    """Kill a random Ray worker that trains for these results; how many that was."""
    mine = [pid for pid in workers() if str(qbench.results) in environment_of(pid)]
    if not mine:
        return 0
    try:
        os.kill(draw.choice(mine), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def workers() -> list[int]:
    """Ray workers that have a trial."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                name = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if name.startswith((b"ray::_Inner", b"ray::TrialActor")):
                found.append(int(process.name))
    return sorted(found)


def environment_of(pid: int) -> str:
    """The environment that a process was started with."""
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def runs_of(results: Path) -> dict[str, list[str]]:
    """The states of the runs in a store that were not deleted, by trial."""
    query = (
        "SELECT tags.value, runs.status FROM runs JOIN tags USING (run_uuid) "
        "WHERE tags.key = 'qbench.key' AND runs.lifecycle_stage = 'active'"
    )
    with sqlite3.connect(results / "mlflow.db") as database:
        found: dict[str, list[str]] = {}
        for key, status in database.execute(query):
            found.setdefault(key, []).append(status)
    return found


def main() -> None:
    """Run storms and print what was survived."""
    import argparse
    import tempfile

    from tests.helpers.commands import tables

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", type=Path, default=Path("suites/digits_start.yaml"))
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--kills", type=int, default=20, help="of the driver")
    parser.add_argument("--workers", type=int, default=20, help="that are killed")
    parser.add_argument("--every", type=float, default=6.0, help="seconds between workers' deaths")
    chosen = parser.parse_args()
    words = ["run", chosen.suite, *(w for change in chosen.changes for w in ("--set", change))]
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}

        def there(name: str) -> Qbench:
            results = Path(folder) / name
            return Qbench(results, {**environment, "QBENCH_RESULTS": str(results)})

        calm = there("calm")
        print("undisturbed:", run_through(calm, Storm(), *words), flush=True)
        storms = {
            "drivers": Storm(drivers=chosen.kills),
            "workers": Storm(workers=chosen.workers, every=chosen.every),
            "both": Storm(chosen.kills, chosen.workers, chosen.every),
        }
        name = next(path.name for path in calm.results.iterdir() if (path / "trials.csv").exists())
        for kind, storm in storms.items():
            qbench = there(kind)
            print(f"{kind}:", run_through(qbench, storm, *words), flush=True)
            same = tables(qbench.results / name) == tables(calm.results / name)
            runs = runs_of(qbench.results)
            twice = sum(states.count("FINISHED") != 1 for states in runs.values())
            half = sum("RUNNING" in states for states in runs.values())
            print(
                f"  same tables: {same}; trials not once: {twice}; half-written: {half}", flush=True
            )


if __name__ == "__main__":
    main()

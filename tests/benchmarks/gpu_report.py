"""What qbench does on a GPU: speed, memory, and whether it computes what it computes on a CPU.

    python -m tests.benchmarks.gpu_report --out DIR [--budget 110] [--limit 360]
    python -m tests.benchmarks.gpu_report --out DIR --device cpu --tiny

Each section runs in a process of its own with a time limit, so that a failure in one leaves the
others whole. DIR/report.json and DIR/report.md are rewritten after every row. ``--tiny`` takes
every line of code with small images and networks; its numbers mean nothing.

Ray and MLflow are not needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Options of a section.

    Attributes:
        tiny: Whether to use small images and few methods.
        end: Value of ``time.monotonic()`` at which the section should have ended.
    """

    tiny: bool
    end: float

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: Its heading.
        seconds: The longest that it may take; ``--budget`` is that of compiled steps.
        function: Where its function is, as ``module:function``.
        quiet: Whether rows that pass their check are written only, and not printed.
    """

    title: str
    seconds: float
    function: str
    quiet: bool = False

    def rows(self, options: Options) -> Iterator[Row]:
        """Measure, and yield row after row."""
        import importlib

        module, _, name = self.function.partition(":")
        function: Callable[[Options], Iterator[Row]] = getattr(
            importlib.import_module(f"tests.benchmarks.{module}"), name
        )
        yield from function(options)


SECTIONS = {
    "card": Section("Machine", 40, "gpu_speed:card"),
    "trials": Section("Trials", 90, "gpu_trials:trials"),
    "correctness": Section("Device against CPU", 60, "gpu_correctness:correctness", quiet=True),
    "eager": Section("Training step, eager", 150, "gpu_speed:eager"),
    "packed": Section("Full-precision trials at once", 70, "gpu_speed:packed"),
    "compiled": Section("Training step, compiled", 110, "gpu_speed:compiled"),
}


def main() -> int:
    """Run every section, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small images, few methods")
    parser.add_argument("--budget", type=float, default=110, help="seconds for compiled steps")
    parser.add_argument("--limit", type=float, default=360, help="seconds for everything")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--one", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic sums where asked
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["OMP_NUM_THREADS"] = "1"
    report = Report(given.out)
    if given.one:
        return run_one(given, report)
    given.out.mkdir(parents=True, exist_ok=True)
    report.clear()
    end = time.monotonic() + given.limit
    for name in given.sections:
        run_apart(name, given, report, end)
    print(f"\n{report.failures} rows failed")
    return 0 if report.failures == 0 else 1


def run_apart(name: str, given: argparse.Namespace, report: Report, end: float) -> None:
    """Run a section in a process of its own, and end it at its time limit."""
    left = end - time.monotonic() - 5
    if name == "compiled":
        seconds = min(given.budget, left)
    else:
        kept = given.budget if "compiled" in given.sections else 0
        seconds = min(SECTIONS[name].seconds, left - kept)
    print(f"\n## {SECTIONS[name].title}", flush=True)
    if seconds < 5:
        report.add(name, {"error": "left out: no time is left"})
        return
    command = [sys.executable, "-m", "tests.benchmarks.gpu_report", "--out", str(given.out)]
    command += ["--device", given.device, "--one", name, "--seconds", str(seconds)]
    if given.tiny:
        command.append("--tiny")
    start = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(seconds + 10)
        if code != 0 and not report.has_error(name):
            report.add(name, {"error": f"its process ended with code {code}"})
    except subprocess.TimeoutExpired:
        report.add(name, {"error": f"ended after {seconds + 10:.0f} s"})
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    report.took(name, time.monotonic() - start)


def run_one(given: argparse.Namespace, report: Report) -> int:
    """Run a section in this process."""
    try:
        if given.device == "cuda":
            require_gpu()
        options = Options(given.tiny, time.monotonic() + given.seconds)
        for row in SECTIONS[given.one].rows(options):
            report.add(given.one, row)
    except Exception as error:
        traceback.print_exc()
        report.add(given.one, {"error": told(error)})
        return 1
    return 0


def require_gpu() -> None:
    """Raise RuntimeError if torch sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")


def told(error: BaseException) -> str:
    """Return an error in one line, with the file and line of its last frame."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}{where}"


class Report:
    """The report's two files.

    Args:
        folder: Folder of ``report.json`` and ``report.md``.
    """

    def __init__(self, folder: Path) -> None:
        self._json, self._markdown = folder / "report.json", folder / "report.md"

    def clear(self) -> None:
        """Begin anew."""
        self._write({})

    def add(self, section: str, row: Row) -> None:
        """Print a row and write it."""
        content = self._read()
        content.setdefault(section, {"rows": []})["rows"].append(row)
        self._write(content)
        if not (SECTIONS[section].quiet and row.get("verdict") == "ok"):
            print(" · ".join(f"{name} {shown(value)}" for name, value in row.items()), flush=True)

    def took(self, section: str, seconds: float) -> None:
        """Write how long a section took."""
        content = self._read()
        content.setdefault(section, {"rows": []})["seconds"] = round(seconds, 1)
        self._write(content)
        rows = content[section]["rows"]
        print(f"{len(rows)} rows, {failures(rows)} failed, {seconds:.0f} s", flush=True)

    def has_error(self, section: str) -> bool:
        """Return whether a row of a section is an error."""
        return any("error" in row for row in self._read().get(section, {"rows": []})["rows"])

    @property
    def failures(self) -> int:
        """Number of rows that are errors or failed a check."""
        return sum(failures(section["rows"]) for section in self._read().values())

    def _read(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._json.read_text(encoding="utf-8"))
        return content

    def _write(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        for path, written in ((self._json, text), (self._markdown, as_markdown(content))):
            part = path.with_suffix(".part")
            part.write_text(written, encoding="utf-8")
            part.replace(path)


def failures(rows: list[Row]) -> int:
    """Return how many rows are errors or failed a check."""
    return sum("error" in row or row.get("verdict") == "FAIL" for row in rows)


def as_markdown(content: dict[str, Any]) -> str:
    """Return the report as Markdown: a table for each section."""
    parts = ["# GPU report\n"]
    for name, section in content.items():
        rows = section["rows"]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        seconds = f" ({section['seconds']:.0f} s)" if "seconds" in section else ""
        lines = [f"## {SECTIONS[name].title}{seconds}\n", "| " + " | ".join(columns) + " |"]
        lines.append("|" + "---|" * len(columns))
        lines += ["| " + " | ".join(shown(row.get(c, "")) for c in columns) + " |" for row in rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def shown(value: object) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return "–" if value is None else str(value).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())

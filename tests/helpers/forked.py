"""The command line in a process that is forked where everything is imported already.

Imports take most of the time of a command that trains nothing. A server imports once what commands
use, and does nothing else. Each command is a process of its own, forked from the server, with its
own environment, folder and output.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_IMPORTED = [
    "matplotlib.pyplot",
    "mlflow",
    "seaborn",
    "torch._dynamo",
    "torchmetrics",
    "torchvision",
    "qbench.cli.main",
    "qbench.benchmark.benchmark",
    "qbench.lab.check",
    "qbench.report.write",
    "tests.helpers.forked",
]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_IMPORTED)


def run(words: Sequence[str], environment: Mapping[str, str], timeout: float) -> tuple[int, str]:
    """Run `qbench` in a forked process.

    Args:
        words: What follows `qbench`.
        environment: The environment of the process.
        timeout: Seconds after which it is killed.

    Returns:
        The exit code, and what it wrote to the standard output and then to the standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        given = (list(words), dict(environment), Path.cwd(), streams)
        process = _CONTEXT.Process(target=_command, args=given)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        output = "".join(stream.read_text(encoding="utf-8") for stream in streams)
        return process.exitcode or 0, output


def _command(words: list[str], environment: dict[str, str], cwd: Path, streams: list[Path]) -> None:
    """Run the command line in this process, which nothing else uses."""
    from qbench.cli.main import invoke

    for number, (name, path) in enumerate(zip(("stdout", "stderr"), streams, strict=True), 1):
        file = path.open("w", encoding="utf-8", buffering=1)
        os.dup2(file.fileno(), number)
        setattr(sys, name, file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["qbench", *words]
    sys.orig_argv = [sys.executable, "-m", "qbench", *words]  # some commands start it again
    try:
        invoke()
    finally:
        atexit._run_exitfuncs()  # a forked process does not call them at its end

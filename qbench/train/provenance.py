"""Environment of a trial: versions, the state of the code, the hardware."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from qbench import __version__
from qbench.quant.staircase import kernels

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "numpy", "pandas")


@functools.cache
def environment() -> dict[str, str]:
    """Return the versions, the git commit and the hardware of this process.

    Host names and paths are left out, because results are published.

    Returns:
        Texts by name. ``git_commit`` is empty if the installed code is not in a git checkout.
    """
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found["qbench"] = __version__
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    found["git_commit"] = _git("rev-parse", "HEAD")
    found["git_dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    found["cpu"] = _cpu_name()
    found["cpu_count"] = str(os.cpu_count())
    found["memory_gib"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f}"
    found["c_kernels"] = str(kernels.load() is not None).lower()  # they decide the last bits
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda or ""
    return found


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()

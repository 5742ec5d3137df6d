"""Reading suites needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "ray", "mlflow", "pandas"}


@pytest.mark.parametrize(
    "module",
    [
        "qbench.suite.suite",
        "qbench.suite.validate",
        "qbench.suite.schema",
        "qbench.suite.rehearsal",
    ],
)
def test_the_modules_that_read_suites_import_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(ran.stdout.split())


def test_plain_values_import_no_heavy_library() -> None:
    modules = ("bits", "layout", "metrics", "policies", "recipe", "result", "trial", "weights")
    imports = ", ".join(f"qbench.spec.{name}" for name in modules)
    code = f"import sys, {imports}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(ran.stdout.split())

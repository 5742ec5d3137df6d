"""What is slow to import is imported by those that need it."""

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


def test_reading_results_imports_neither_mlflow_nor_what_only_training_needs() -> None:
    code = (
        "import sys, qbench.benchmark.benchmark, qbench.cli.plan, qbench.report.summary;"
        "print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"mlflow", "sqlalchemy", "torchmetrics", "torchvision", "ray", "scipy.stats"}
    assert not slow & set(ran.stdout.split())


def test_a_trial_of_digits_imports_neither_torchmetrics_nor_scikit_learn() -> None:
    code = (
        "import sys, qbench.train.trial, qbench.tasks.classification; from qbench import registry;"
        "registry.build_dataset('digits').train(); registry.build_model('convnet_tiny', 10, 1);"
        "print(*sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"torchmetrics", "sklearn", "torchvision", "mlflow", "pandas", "torch._dynamo"}
    assert not slow & set(ran.stdout.split())


def test_plain_values_import_no_heavy_library() -> None:
    modules = ("bits", "layout", "metrics", "policies", "recipe", "result", "trial", "weights")
    imports = ", ".join(f"qbench.spec.{name}" for name in modules)
    code = f"import sys, {imports}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(ran.stdout.split())

"""The examples in docstrings of the public interface run and give what they show."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = [
    "qbench.data",
    "qbench.functional",
    "qbench.lab.check.parametrize",
    "qbench.lab.primitives",
    "qbench.method",
    "qbench.quant.attach",
    "qbench.quant.blocks",
    "qbench.quant.hooks",
    "qbench.quant.primitives.cells",
    "qbench.quant.primitives.clip",
    "qbench.quant.primitives.curves",
    "qbench.quant.primitives.levels",
    "qbench.quant.primitives.signs",
    "qbench.quant.primitives.standardize",
    "qbench.quant.primitives.straight_through",
    "qbench.quant.primitives.two_levels",
    "qbench.quant.primitives.uniform",
    "qbench.quant.surgery",
    "qbench.spec.bits",
    "qbench.train.optimizer",
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(module: str) -> None:
    found = doctest.testmod(import_module(module))
    assert found.attempted > 0
    assert found.failed == 0

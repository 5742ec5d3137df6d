"""Every way to break the contract is found by the check that is meant to, and explained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qbench.lab.check import check
from qbench.plugins import Plugin, load_plugin
from tests.helpers.wrong_methods import HEAD, WRONG


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_promise_is_found_and_explained(case: str, tmp_path: Path) -> None:
    expected, words, source = WRONG[case]
    path = tmp_path / f"broken_{case}.py"
    load_plugin(Plugin(str(path), HEAD + source))
    report = check("broken", networks=["mixed"], thorough=False)
    assert words in {f.check: f.message for f in report.findings}.get(expected, ""), report.findings

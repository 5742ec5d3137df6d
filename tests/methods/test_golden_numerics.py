"""No change of the code changes what a method comes to, unless a revision says so.

`tests/helpers/golden.py` writes the numbers and says how they are made.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch

from qbench import registry
from tests.helpers import golden

GOLDEN: dict[str, Any] = json.loads(golden.FILE.read_text(encoding="utf-8"))
CASES = [(name, bits) for name, one in GOLDEN["methods"].items() for bits in one["widths"]]
AGAIN = "run `python -m tests.helpers.golden` and commit the file"


def is_same_arithmetic() -> bool:
    """Whether this machine computes the last bits that the recording machine computed."""
    here = (golden.arithmetic(), torch.__version__)
    return here == (GOLDEN["arithmetic"], GOLDEN["torch"])


@pytest.mark.parametrize(("method", "bits"), CASES)
def test_a_method_trains_to_the_recorded_numbers(method: str, bits: str) -> None:
    recorded = GOLDEN["methods"][method]
    expected = recorded["widths"][bits]
    if bits not in golden.cells(method):
        pytest.skip(f"{method} needs a library that is not installed")
    for name, revision in golden.revisions(method).items():
        assert recorded[name] == revision, f"{name} is {revision}: {AGAIN}"
    found = golden.train(method, bits)
    if is_same_arithmetic():
        assert found["state"] == expected["state"], (
            f"the numbers of {method} at {bits} have changed: undo it, or raise the revision of "
            f"the method (or fingerprint.NUMERICS, where shared code changed them) and {AGAIN}"
        )
    else:
        warnings.warn("another processor or torch: compared with a tolerance of 5%", stacklevel=1)
        assert found["losses"] == pytest.approx(expected["losses"], rel=0.05)
        assert found["norms"] == pytest.approx(expected["norms"], rel=0.05, abs=0.01)


def test_every_method_has_golden_numbers_at_its_main_widths() -> None:
    for method in registry.names("methods"):
        assert method in GOLDEN["methods"], f"{method} is new: {AGAIN}"
        recorded = list(GOLDEN["methods"][method]["widths"])
        assert recorded
        assert set(golden.cells(method)) <= set(recorded), f"{method} has new cells: {AGAIN}"

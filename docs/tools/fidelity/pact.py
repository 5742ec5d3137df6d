"""Activations of PACT."""

from __future__ import annotations

from pathlib import Path

from .libraries import pact_kwanghoonan
from .markdown import number, versions_table
from .probe import by_value, of_qbench, tensor
from .sources import KWANGHOONAN

ALPHA = 2.0


def section(folder: Path) -> str:
    """Compare PACT activations with α at a given value."""
    x = tensor()
    versions = [
        of_qbench("pact", 2, "1 where 0 ≤ x < α", x, "input", initial=ALPHA),
        by_value(
            KWANGHOONAN.link("KwangHoonAn/PACT"),
            "1 where 0 ≤ x ≤ α",
            pact_kwanghoonan(2, ALPHA),
            x,
        ),
    ]
    return "\n\n".join(
        [
            "## PACT: activations",
            "An activation x becomes q = [n y / α] α / n with y = clip(x, 0, α), n = 2^k − 1 and α "
            "learned (arXiv:1805.06085, Eq. 1–3). The tensor is the one above with unit variance, "
            f"α is {number(ALPHA)} and k is 2.",
            versions_table(versions, x.clamp(min=0), (-1.0, 3.0)),
            "Errors are measured from max(x, 0). The gradient of α is Σ g over x ≥ α in both. The "
            "port passes the gradient of an input of exactly α to the input as well, which Eq. 3 "
            "does not. qbench starts α at the largest calibration input and the paper at a large "
            "constant (`initial: 10`); the decay of α is an option of its own.",
        ]
    )

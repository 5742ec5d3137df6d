"""The methods that are there, and options that make them fast."""

from __future__ import annotations

from qbench import registry
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths


def is_there(name: str) -> bool:
    """Whether the library that a method wraps, if any, is installed."""
    reason = build_method(name, {}).supports(BitWidths.parse("4/32"), "classification")
    return "pip install" not in (reason or "")


NAMES = [name for name in registry.names("methods") if name != "fp32" and is_there(name)]


# The first of them is without regularization.
FEW = {
    "adaround": {"iterations": 5},
    "brecq": {"iterations": 5, "step_iterations": 5},
    "qdrop": {"iterations": 5},
}

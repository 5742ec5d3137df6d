"""qbench: the benchmark of low-bit neural network quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qbench.deployment.deploy import deploy
    from qbench.deployment.packed import load_packed
    from qbench.quant.attach import attach
    from qbench.quant.handle import Handle
    from qbench.spec.bits import BitWidth, BitWidths

__version__ = "0.2.0"
__all__ = ["BitWidth", "BitWidths", "Handle", "attach", "deploy", "load_packed"]


def __getattr__(name: str) -> Any:
    """Load the Python interface on first use, so that the command line starts without torch."""
    if name in {"attach", "Handle"}:
        from qbench.quant import attach, handle

        return attach.attach if name == "attach" else handle.Handle
    if name == "deploy":
        from qbench.deployment.deploy import deploy

        return deploy
    if name == "load_packed":
        from qbench.deployment.packed import load_packed

        return load_packed
    if name in {"BitWidth", "BitWidths"}:
        from qbench.spec import bits

        return getattr(bits, name)
    raise AttributeError(f"module 'qbench' has no attribute {name!r}")

"""Full precision: the network that quantized ones are measured against and start from."""

from __future__ import annotations

from qbench.method import BitWidths, Method


class FullPrecision(Method):
    """The network as it is, nothing quantized (32/32)."""

    name = "fp32"
    title = "Full precision"
    quantizes = "nothing"

    def supports(self, bits: BitWidths, task: str) -> str | None:
        """Only 32/32."""
        return None if bits.is_float else "full precision has no bit-width to choose"

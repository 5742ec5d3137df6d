"""Result of a contract check."""

from __future__ import annotations

from dataclasses import dataclass, field

from qbench.spec.placement import Placement


@dataclass(frozen=True)
class Finding:
    """One broken promise.

    Attributes:
        check: Name of the check.
        network: Name of the network; empty if the check needs none.
        bits: Bit-widths as ``W/A``; empty if the check is about all of them.
        message: What is broken.
        traceback: Where the method's own code raised, if it did.
    """

    check: str
    network: str
    bits: str
    message: str
    traceback: str = ""


@dataclass
class Report:
    """Result of checking a method.

    Attributes:
        method: Name of the method.
        widths: Bit-widths that it was checked at. They cover every width of weights and every width
            of activations that it accepts.
        refused: Bit-widths that it refuses, each with its reason.
        doable: Refused bit-widths that its declared levels contain and that it could do, as far as
            the checks can tell.
        placements: Placements of activation quantizers that it was checked at, its own first. Empty
            if it quantizes no activations.
        passed: Number of checks that passed.
        findings: What is broken.
        shares: Smallest share of ``weights`` and of ``inputs`` that have a gradient.
    """

    method: str
    widths: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    doable: list[str] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    passed: int = 0
    findings: list[Finding] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)

"""Activations of HWGQ."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .drawing import STAIRS, draw_staircase, figure_of, legend, save
from .libraries import EDMIPS_STEPS, hwgq_caffe, hwgq_edmips
from .markdown import number, percent, table, versions_table
from .probe import by_value, of_qbench, tensor
from .sources import EDMIPS, HWGQ, HWGQ_NETWORK


def section(folder: Path) -> str:
    """Compare HWGQ activations with and without a dead zone."""
    x = tensor()
    reach = (-1.5, 3.0)
    centers = (0.538, 1.076, 1.614)
    versions = [
        of_qbench("hwgq", 2, "1 where 0 < x ≤ q_m", x, "input"),
        by_value(
            f"{HWGQ.link('Caffe release')}, as {HWGQ_NETWORK.link('its ResNet-18')} sets it",
            "1 where 0 < x ≤ q_m",
            hwgq_caffe(centers, centers[-1]),
            x,
        ),
        by_value(EDMIPS.link("EdMIPS"), "1 where 0 ≤ x ≤ q_m", hwgq_edmips(2), x),
        of_qbench("hwgq", 2, "1 where 0 < x ≤ q_m", x, "input", dead_zone=True),
    ]
    zero = float((versions[2].values[x > 0] == 0).double().mean())
    best = [
        [str(bits), number(step), *(number(best_step(bits, rule)) for rule in (False, True))]
        for bits, step in EDMIPS_STEPS.items()
    ]
    figure, panels = figure_of(1, 2, share=True)
    titles = ("qbench, Caffe release", "EdMIPS, qbench with dead_zone")
    for axes, version, title in zip(panels[0], (versions[0], versions[2]), titles, strict=True):
        draw_staircase(axes, version, x, reach)
        axes.set(title=title, xlabel="input of the layer")
    panels[0, 0].set_ylabel("quantized input")
    legend(figure, {"quantized input": STAIRS})
    save(figure, "hwgq", folder)
    return "\n\n".join(
        [
            "## HWGQ: activations",
            "After batch normalisation an activation x is approximately N(0, 1). If x ≤ 0 it "
            "becomes 0. If x > 0 it becomes the nearest of q_1 … q_m = Δ, 2Δ, …, mΔ with "
            "m = 2^k − 1 (arXiv:1702.00953). The tensor is the one above with unit variance.",
            versions_table(versions, x.clamp(min=0), reach),
            "![HWGQ activations](fidelity/hwgq.svg)",
            "Errors are measured from max(x, 0). The Caffe release of the authors maps every "
            "positive input to q_1 or more. EdMIPS, later code by the same author, rounds x / Δ "
            f"with the same Δ. Inputs below Δ / 2 become 0: {percent(zero)} of the positive values "
            "of this tensor. This is a different quantizer, which `dead_zone: true` selects. Other "
            "steps would minimise its error. The Δ of both implementations minimise the error of "
            "the first rule.",
            table(
                [
                    "bits",
                    "Δ of both implementations",
                    "Δ of least error, every x > 0 at least Δ",
                    "Δ of least error, rounding x / Δ",
                ],
                best,
            ),
        ]
    )


def best_step(bits: int, dead_zone: bool) -> float:
    """Search for the step of least error for a half-wave Gaussian, by a dense sum.

    Args:
        bits: Bit-width.
        dead_zone: If True, round to a multiple of the step including 0; otherwise to one above 0.
    """
    x = (np.arange(12_000) + 0.5) / 2000  # up to 6
    density = np.exp(-x * x / 2)

    def error(step: float) -> float:
        codes = np.clip(np.round(x / step), 0 if dead_zone else 1, 2**bits - 1)
        return float((density * (codes * step - x) ** 2).sum())

    low, high = 0.05, 2.5
    for points in (99, 41, 41):
        grid = np.linspace(low, high, points)
        found = float(grid[np.argmin([error(float(step)) for step in grid])])
        width = 2 * (high - low) / (points - 1)
        low, high = max(found - width, 0.01), found + width
    return round(found, 3)

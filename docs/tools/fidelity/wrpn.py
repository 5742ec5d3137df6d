"""Weights of WRPN."""

from __future__ import annotations

from pathlib import Path

from .drawing import STAIRS, draw_staircase, figure_of, legend, save
from .libraries import wrpn_distiller, wrpn_paper
from .markdown import number, percent, table, versions_table
from .probe import SCALE, by_value, of_qbench, tensor
from .sources import DISTILLER, DISTILLER_DOCUMENTS, DISTILLER_PARAMETERS


def section(folder: Path) -> str:
    """Compare WRPN weights: distiller has two levels too many."""
    small, w = SCALE * tensor(), 10 * SCALE * tensor()
    reach = (-1.25, 1.25)
    rule = "1 where abs(w) ≤ 1"
    figure, panels = figure_of(2, 2)
    parts, zeros = [], []
    for bits, row in zip((2, 3), panels, strict=True):
        versions = [
            of_qbench("wrpn", bits, rule, w, "weight"),
            by_value(
                f"the paper, as distiller's {DISTILLER_DOCUMENTS.link('documentation')} prints it",
                rule,
                wrpn_paper(bits),
                w,
            ),
            by_value(f"{DISTILLER.link('distiller')}, its code", rule, wrpn_distiller(bits), w),
        ]
        parts += [f"### {bits} bits", versions_table(versions, w, reach)]
        for axes, version, title in zip(
            row, (versions[0], versions[2]), ("qbench, the paper", "distiller"), strict=True
        ):
            draw_staircase(axes, version, w, reach)
            axes.set_title(f"{title}, {bits} bits")
            axes.set_ylim(-1.5, 1.5)
        row[0].set_ylabel("quantized weight")
    for bits in (2, 3, 4):
        each = [
            float((function(bits)(small) == 0).double().mean())
            for function in (wrpn_paper, wrpn_distiller)
        ]
        zeros.append([str(bits), *map(percent, each)])
    for axes in panels[-1]:
        axes.set_xlabel("weight")
    legend(figure, {"quantized weight": STAIRS})
    save(figure, "wrpn", folder)
    return "\n\n".join(
        [
            "## WRPN: weights",
            "A weight w becomes q = [n clip(w, −1, 1)] / n with n = 2^(k−1) − 1 "
            "(arXiv:1709.01134). The tensor is ten times the one above, with standard deviation "
            f"{number(10 * SCALE)}, so that it reaches the levels.",
            *parts,
            "![WRPN weights](fidelity/wrpn.svg)",
            "The code of distiller departs from its own documentation. It requests the parameters "
            "of the symmetric quantizer "
            f"({DISTILLER_PARAMETERS.link('`restrict_qrange`')} is off), which gives (2^k − 1) / 2 "
            "steps on either side, and it does not clip the codes. At 2 bits there are therefore "
            "five levels, which need three bits of storage, and weights that were clipped to 1 "
            "become larger than 1.",
            "Neither version has a scale. On the original tensor, with a standard deviation of "
            f"{number(SCALE)}, both set most or all weights to 0, as a user of distiller "
            "[reported](https://github.com/IntelLabs/distiller/issues/308):",
            table(["bits", "zeros, the paper", "zeros, distiller"], zeros),
        ]
    )

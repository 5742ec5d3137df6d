"""Projection of ADMM."""

from __future__ import annotations

from pathlib import Path

import torch

from qbench.method import BitWidth, Layer
from qbench.quant.options import build_method

from .libraries import admm_nearest, admm_single
from .markdown import Rows, number, table
from .probe import SCALE, layer_of, squared_error, tensor

CODES = {
    "1": (-1, 1),
    "2": (-1, 0, 1),
    "3(±2)": (-2, -1, 0, 1, 2),
    "3(±4)": (-4, -2, -1, 0, 1, 2, 4),
}


def section(folder: Path) -> str:
    """Compare the projection of ADMM with the nearest point of the set."""
    w = SCALE * tensor()
    rows: Rows = []
    for bits, codes in CODES.items():
        plain = layer_of(2, "weight")
        layer = Layer("conv", plain.module, BitWidth.parse(bits), plain.activation_bits)
        quantizer = build_method("admm", {}).weight_quantizer(layer, w)
        assert quantizer is not None  # noqa: S101
        with torch.no_grad():
            ours = quantizer.eval()(w)
        found = (ours, admm_single(w, codes), admm_nearest(w, codes))
        rows.append([bits, *(number(squared_error(values, w), 5) for values in found)])
    head = ["levels", "error, **qbench** `admm`", "error, one start", "least error"]
    return "\n\n".join(
        [
            "## ADMM: projection of the weights",
            "The weights are projected on α Q, Q a code for each weight and α a number for the "
            "layer, by alternating both (arXiv:1707.09870). There is no public code. *least error* "
            "is that of the best of 2,000 values of α with the nearest codes, and *one start* "
            "alternates from α = mean|w| until nothing changes.",
            table(head, rows),
            "qbench starts once for each code that the largest weight may have and keeps the best "
            "result. On layers of a few hundred weights all of these may end in a local minimum "
            "of 3(±4). The paper gives neither ρ nor the number of updates of G and λ; here they "
            "are options, 1 and once an epoch.",
        ]
    )

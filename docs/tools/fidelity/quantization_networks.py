"""Weights of Quantization Networks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from qbench.quant.options import build_method

from .libraries import qn_gradient, qn_released
from .markdown import Rows, number, numbers, percent, table
from .probe import (
    SCALE,
    built_quantizer,
    differing,
    distinct,
    layer_of,
    named,
    squared_error,
    tensor,
)
from .sources import QUANTIZATION_NETWORKS

TEMPERATURES = (5, 50, 275)
LEVELS = {1: (-1, 1), 2: (-1, 0, 1)}
BIASES = {1: (0.0,), 2: (-0.05, 0.05)}


def section(folder: Path) -> str:
    """Compare the weights of Quantization Networks with the released code."""
    w = SCALE * tensor()
    link = QUANTIZATION_NETWORKS.link("the released code")
    rows: Rows = []
    for bits in (1, 2):
        released = qn_released(w, LEVELS[bits], BIASES[bits], None)
        versions: list[tuple[str, Tensor]] = [(link, released)]
        for options in ({"alpha": "reciprocal"}, {}):
            built = build_method("quantization_networks", options)
            quantizer = built_quantizer(built, layer_of(bits, "weight"), w, "weight")
            with torch.no_grad():
                versions.append((named("quantization_networks", options), quantizer(w)))
        for name, values in versions:
            rows.append(
                [
                    str(bits),
                    name,
                    numbers(distinct(values)),
                    number(squared_error(values, w)),
                    number(squared_error(values, w, scaled=True)),
                    percent(differing(values, released)),
                ]
            )
    lengths = [
        [str(bits), *(number(_ratio(w, bits, t), 2) for t in TEMPERATURES)] for bits in (1, 2)
    ]
    return "\n\n".join(
        [
            "## Quantization Networks: weights",
            "A weight w becomes α (Σ s_i A(βw − b_i) − o), with A the unit step; in training A is "
            "a sigmoid of temperature T (arXiv:1911.09464, Eq. 5 and 7). β = 5p / 4q with p the "
            "largest level and q = max|w|.",
            table(["bits", "version", "levels", "error", "error, scaled", "differs"], rows),
            "With α = 1/β, as in the paper and the release, levels are several times as large as "
            "the values that they stand for on this tensor. qbench starts α at the value of least "
            "error; `alpha: reciprocal` is the paper's. α and β have a tenth of the learning rate, "
            "except with `recipe: paper`. Biases of more than three levels are midpoints of "
            "k-means in both: the release draws its starts ten times and keeps the best, qbench "
            "computes the optimum by dynamic programming, within 1 % of the error for more than "
            "4,096 distinct values.",
            "The release computes the gradient with T = 1 inside the sigmoid, by a line that its "
            "comment reserves for binary weights; the line for other weights is commented out. The "
            "gradient of Eq. 7, which qbench has by default, is this many times as long as that of "
            "the line with T = 1, for a Gaussian g:",
            table(["bits", *(f"T = {t}" for t in TEMPERATURES)], lengths),
            "`compat: official` follows the comments: T = 1 for binary weights, T for others. The "
            "threshold of 1-bit activations is 0.05 in the configuration of the release and with "
            "`compat: official`. By default it is a midpoint of k-means, which the paper describes "
            "for 2 bits: on digits at 1/1 that is 20 points better.",
        ]
    )


def _ratio(w: Tensor, bits: int, temperature: float) -> float:
    """Return the length of ∂L/∂w by Eq. 7 over that with T = 1 inside the sigmoid."""
    g = tensor(seed=1)
    exact = qn_gradient(w, LEVELS[bits], BIASES[bits], temperature, temperature)
    shipped = qn_gradient(w, LEVELS[bits], BIASES[bits], temperature, 1)
    return float((exact * g).norm() / (shipped * g).norm())

"""Weights of TWN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qbench.quant.options import build_method
from qbench.report.figures.style import COLORS

from .drawing import THRESHOLD, draw_tensor, figure_of, legend, save
from .libraries import ternary
from .markdown import Rows, number, percent, span, table
from .probe import (
    SCALE,
    SHAPE,
    built_quantizer,
    cosine,
    differing,
    distinct,
    layer_of,
    named,
    squared_error,
    tensor,
)
from .sources import CAFFE_TWN, MICRONET_BINARY


def section(folder: Path) -> str:
    """Compare TWN with one threshold and scale per layer, and per filter."""
    w, g = SCALE * tensor(), tensor(seed=1)
    everything, of_filter = (0, 1, 2, 3), (1, 2, 3)
    rows: Rows = []
    versions: list[tuple[str, Tensor, Tensor, str]] = []
    for options in ({}, {"scope": "filter"}):
        layer_seen = layer_of(2, "weight")
        quantizer = built_quantizer(build_method("twn", options), layer_seen, w, "weight")
        leaf = w.clone().requires_grad_()
        values = quantizer(leaf)
        (gradient,) = torch.autograd.grad(values, leaf, g)
        versions.append((named("twn", options), values.detach(), gradient, "g"))
    layer, filters = ternary(w, everything), ternary(w, of_filter)
    codes = filters.sign()
    kept = (codes**2).sum(of_filter, keepdim=True)
    alpha = filters.abs().amax(of_filter, keepdim=True)
    shared = (g * codes).sum(of_filter, keepdim=True)
    versions += [
        (f"{CAFFE_TWN.link('Caffe release')}, by the paper's authors", layer, g, "g"),
        (
            MICRONET_BINARY.link("micronet"),
            filters,
            alpha * g + codes * shared / kept,
            "α g + t / #{t ≠ 0} · Σ g t",
        ),
    ]
    first = versions[0][1]
    for name, values, gradient, rule in versions:
        sizes = values.abs().amax(of_filter)
        bounds = torch.stack([_threshold(w[i], values[i]) for i in range(len(w))])
        if len(distinct(values)) == 3:
            bounds = _threshold(w, values)[None]
        rows.append(
            [
                name,
                f"0, ±α, α = {span(sizes)}",
                f"±{span(bounds)}",
                number(squared_error(values, w)),
                rule,
                number(cosine(gradient, g), 3),
                percent(differing(values, first)),
            ]
        )
    _figure(w, layer, filters, folder)
    head = ["version", "levels", "thresholds", "error", "gradient", "cosine with g", "differs"]
    return "\n\n".join(
        [
            "## TWN: weights",
            "A weight w becomes α t, with t = ±1 where |w| > Δ and t = 0 elsewhere. "
            "Δ = 0.7 mean|w|, and α is the mean of |w| over |w| > Δ (arXiv:1605.04711).",
            table(head, rows),
            "![TWN weights](fidelity/twn.svg)",
            "micronet computes Δ and α per filter, where the code of the authors computes them "
            "per layer, and it differentiates α. `scope: filter` gives the values of micronet but "
            f"not its gradient. One layer then has {SHAPE[0]} scales instead of one, and a lower "
            "error. A result of one version says little about the other.",
        ]
    )


def _figure(w: Tensor, layer: Tensor, filters: Tensor, folder: Path) -> None:
    """Draw every weight of the tensor with one scale per layer, and with one per filter."""
    figure, panels = figure_of(1, 2, share=True)
    reach = 1.05 * float(w.abs().max())
    look: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 2.5}
    both = ((layer, "qbench, Caffe release"), (filters, "micronet"))
    for axes, (values, title) in zip(panels[0], both, strict=True):
        draw_tensor(axes, w, (-reach, reach))
        bounds = {float(_threshold(a, b)) for a, b in zip(w, values, strict=True)}
        if values is layer:
            bounds = {float(_threshold(w, layer))}
        for bound in sorted(bounds):
            for side in (-bound, bound):
                axes.axvline(side, zorder=2, **{**THRESHOLD, "linewidth": 0.5})
        axes.plot(w.flatten(), values.flatten(), rasterized=True, color=COLORS[0], **look)
        axes.set(title=title, xlabel="weight", xlim=(-reach, reach))
    panels[0, 0].set_ylabel("quantized weight")
    legend(figure, {"weights of the tensor": {**look, "color": COLORS[0], "markersize": 7}})
    save(figure, "twn", folder)


def _threshold(w: Tensor, values: Tensor) -> Tensor:
    """Return the midpoint of the largest weight that becomes 0 and the smallest that does not."""
    return (w.abs()[values == 0].max() + w.abs()[values != 0].min()) / 2

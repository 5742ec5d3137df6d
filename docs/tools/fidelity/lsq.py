"""Step sizes of LSQ and their gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from qbench.quant.options import build_method

from .drawing import OTHER, STAIRS, THRESHOLD, draw_staircase, draw_tensor, figure_of, legend, save
from .libraries import lsq_clipped, lsq_mqbench
from .markdown import Rows, number, numbers, percent, table, versions_table
from .probe import (
    SCALE,
    Version,
    built_quantizer,
    by_filter,
    by_value,
    distinct,
    layer_of,
    of_qbench,
    squared_error,
    tensor,
)
from .sources import (
    LSQ_NET,
    LSQ_NET_DEFAULT,
    LSQ_NET_EXAMPLE,
    LSQ_NET_README,
    LSQUANTIZATION,
    MQBENCH_LSQ,
)


def section(folder: Path) -> str:
    """Compare the initial step sizes of LSQ, their gradient and its scale."""
    w = SCALE * tensor()
    reach = float(w.abs().max())
    parts: list[str] = []
    drawn: list[Version] = []
    rule = "1 inside the clip"
    for bits in (2, 3):
        top = 2 ** (bits - 1) - 1
        step = 2 * w.abs().mean() / math.sqrt(top)
        steps_by_filter = 2 * w.abs().mean((1, 2, 3), keepdim=True) / math.sqrt(top)
        versions = [
            of_qbench("lsq", bits, rule, w, "weight"),
            by_value(
                f"the paper, from a description ({LSQ_NET_README.link('README of lsq-net')})",
                rule,
                lsq_clipped(-top - 1, top, step),
                w,
            ),
            by_value(
                LSQUANTIZATION.link("hustzxd/LSQuantization"),
                rule,
                lsq_clipped(-top - 1, top, step),
                w,
            ),
            by_filter(
                f"{LSQ_NET.link('zhutmost/lsq-net')}, its {LSQ_NET_DEFAULT.link('default')}: one "
                "step per filter",
                rule,
                lsq_clipped(-top - 1, top, steps_by_filter),
                w,
            ),
            by_value(
                f"{LSQ_NET.link('zhutmost/lsq-net')}, its {LSQ_NET_EXAMPLE.link('ResNet-18')}: "
                "symmetric",
                rule,
                lsq_clipped(-top, top, step),
                w,
            ),
            by_value(
                f"{MQBENCH_LSQ.link('MQBench')}, symmetric grid for the layer",
                "1 up to half a step outside the clip",
                lsq_mqbench(-top - 1, top, step),
                w,
            ),
        ]
        parts += [f"### Weights, {bits} bits", versions_table(versions, w, (-reach, reach))]
        if bits == 2:
            drawn = [versions[0], versions[4]]
    band = [_share_between(w, bits) for bits in (2, 3)]
    _figure(w, drawn, folder)
    rows, batch = _activation_rows()
    return "\n\n".join(
        [
            "## LSQ: initial step sizes and their gradient",
            "A value v becomes q = s [clip(v / s, −Q_N, Q_P)] with a learned step s. For "
            "weights Q_N = 2^(k−1) and Q_P = 2^(k−1) − 1. For activations Q_N = 0 and "
            "Q_P = 2^k − 1. The step starts at 2 mean|v| / √Q_P, and its gradient is multiplied by "
            "g = 1 / √(N Q_P) "
            "(arXiv:1902.08153).",
            *parts,
            "![LSQ weights](fidelity/lsq.svg)",
            "By default lsq-net has one step per filter, where the paper has one per layer. It "
            "multiplies the gradient of each step by g of the whole layer. Its example for "
            "ResNet-18, the one with a published result, omits the lowest code. At 2 bits this is "
            "a ternary network.",
            "MQBench has the values of the paper but not its gradients. It calls the learnable "
            "fake quantization of torch, which rounds before it clips. From Q_P to Q_P + ½ a "
            "weight still has a gradient, and ∂q/∂s is Q_P − v/s, which is at most 0; in the "
            "paper ∂q/∂s is Q_P there. The same holds below −Q_N. At the start, "
            f"{percent(band[0])} of the 2-bit weights and {percent(band[1])} of the 3-bit weights "
            "lie in these bands. Of all versions, including that of qbench, only MQBench keeps s "
            "positive, by taking its absolute value.",
            "### Activations, 2 bits",
            f"The tensor has unit variance, passes a ReLU, and counts as a batch of {batch}.",
            table(["version", "initial s", "levels", "error", "N", "g", "g / the paper's"], rows),
            "In the paper N is the number of features of a layer. qbench counts the features of "
            "one sample. The three ports also count the batch, which makes the gradient of their "
            "activation steps √batch times smaller; `activation_count: numel` selects this in "
            "qbench. lsq-net starts these steps at 1 for any data, as its "
            f"{LSQ_NET_README.link('README')} states.",
        ]
    )


def _share_between(w: Tensor, bits: int) -> float:
    """Return the share of weights that LSQ's initial step clips by less than half a step."""
    top = 2 ** (bits - 1) - 1
    codes = w / (2 * w.abs().mean() / math.sqrt(top))
    above = (codes > top) & (codes < top + 0.5)
    below = (codes < -top - 1) & (codes > -top - 1.5)
    return float((above | below).double().mean())


def _activation_rows() -> tuple[Rows, int]:
    """Return the rows of the table of activation steps, and the batch size."""
    x = tensor().clamp(min=0)
    top, batch = 3, len(x)
    start = 2 * x.abs().mean() / math.sqrt(top)
    features = x[0].numel()
    quantizer = built_quantizer(build_method("lsq", {}), layer_of(2, "input"), x, "input")
    (step,) = quantizer.parameters()
    upstream = tensor(seed=1)
    (gradient,) = torch.autograd.grad((quantizer(x) * upstream).sum(), step)
    plain = step.detach().clone().requires_grad_()
    (unscaled,) = torch.autograd.grad((lsq_clipped(0, top, plain)(x) * upstream).sum(), plain)
    ours = float(gradient / unscaled)
    versions: list[tuple[str, float, float]] = [
        ("**qbench** `lsq`", step.item(), ours),
        ("the paper, from a description", float(start), 1 / math.sqrt(features * top)),
        *[
            (link, at, 1 / math.sqrt(x.numel() * top))
            for link, at in (
                (LSQUANTIZATION.link("hustzxd/LSQuantization"), float(start)),
                (LSQ_NET.link("zhutmost/lsq-net"), 1.0),
                (MQBENCH_LSQ.link("MQBench"), float(start)),
            )
        ],
    ]
    paper = versions[1][2]
    rows = []
    for name, at, g in versions:
        values = lsq_clipped(0, top, torch.tensor(at))(x)
        counted = 1 / (g * g * top)
        rows.append(
            [
                name,
                number(at),
                numbers(distinct(values)),
                number(squared_error(values, x)),
                number(counted, 0),
                number(g, 5),
                number(g / paper, 3),
            ]
        )
    return rows, batch


def _figure(w: Tensor, drawn: Sequence[Version], folder: Path) -> None:
    """Draw two staircases at 2 bits, and the gradients of the paper and of MQBench."""
    reach = float(w.abs().max())
    figure, panels = figure_of(2, 2)
    titles = ("qbench, the paper and 2 more", "lsq-net, ResNet-18")
    for axes, version, title in zip(panels[0], drawn, titles, strict=True):
        draw_staircase(axes, version, w, (-reach, reach))
        axes.set(title=title, xlabel="weight", ylim=(-0.2, 0.12))
    panels[0, 0].set_ylabel("quantized weight")
    v = torch.linspace(-3, 2.2, 2081)
    rules = ((lsq_clipped, STAIRS), (lsq_mqbench, OTHER))
    for rule, look in rules:
        leaf, step = v.clone().requires_grad_(), torch.ones(len(v), requires_grad=True)
        to_v, to_s = torch.autograd.grad(rule(-2, 1, step)(leaf).sum(), (leaf, step))
        for axes, slope in zip(panels[1], (to_s, to_v), strict=True):
            axes.plot(v, slope.numpy(), zorder=3, **look)
    for axes, what in zip(
        panels[1], ("∂q/∂s; dotted: the clip", "∂q/∂w; dotted: the clip"), strict=True
    ):
        draw_tensor(axes, w / (2 * w.abs().mean()), (-3.0, 2.2))
        axes.set(xlabel="weight / s", title=what, xlim=(-3, 2.2))
        for end in (-2, 1):
            axes.axvline(end, zorder=2, **THRESHOLD)
    legend(figure, {"the paper": STAIRS, "MQBench": OTHER}, columns=2)
    save(figure, "lsq", folder)

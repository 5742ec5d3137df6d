"""Weights of BWN and XNOR-Net."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import NullLocator
from torch import Tensor

from qbench.method import Layer
from qbench.quant.options import build_method

from .drawing import OTHER, STAIRS, THIRD, THRESHOLD, draw_tensor, figure_of, legend, save
from .libraries import EDMIPS_BINARY, binary_sign, centred, exact_gradient, lua_factor, mean_size
from .markdown import number, percent, span, table
from .probe import (
    SAME,
    SCALE,
    built_quantizer,
    cosine,
    differing,
    layer_of,
    named,
    squared_error,
    tensor,
)
from .sources import (
    EDMIPS,
    HWGQ_WEIGHTS,
    MICRONET_BINARY,
    TENSORPACK,
    XNOR_NET,
    XNOR_NET_INPUT,
    XNOR_NET_MODEL,
    XNOR_NET_TRAIN,
    XNOR_PYTORCH,
)


@dataclass(frozen=True)
class Binary:
    """An implementation of binary weights, applied to the tensor.

    Attributes:
        name: Name in tables, with a link.
        values: The quantized tensor.
        gradient: ∂C/∂w for the upstream gradient of the table.
        at_zero: The quantized value of a weight of 0, over α.
        rule: The gradient, in words.
    """

    name: str
    values: Tensor
    gradient: Tensor
    at_zero: float
    rule: str


def section(folder: Path) -> str:
    """Compare binary weights with a scale: the released Lua code, ports, and the paper."""
    w, g = SCALE * tensor(), tensor(seed=1)
    versions = [*qbench_versions(w, g), *library_versions(w, g)]
    ours, paper = versions[0], paper_version(w, g).gradient
    rows = []
    for version in versions:
        sizes = version.values.abs().amax((1, 2, 3))
        rows.append(
            [
                version.name,
                f"±α, α = {span(sizes)}",
                {1.0: "α", 0.0: "0", -1.0: "−α"}[version.at_zero],
                number(squared_error(version.values, w)),
                version.rule,
                number(float(version.gradient.norm() / paper.norm()), 2),
                number(cosine(version.gradient, paper), 3),
                percent(differing(version.values, ours.values)),
            ]
        )
    exact = exact_gradient(w, g)
    longer = number(float(exact.norm() / paper.norm()), 1)
    flipped = float((centred(w).sign() != w.sign()).double().mean())
    edge = "excludes it too" if _lua_excludes_one() else "includes it, as the paper does"
    _figure(w, folder)
    head = ["version", "levels", "0 becomes", "error", "gradient", "length", "cosine", "differs"]
    return "\n\n".join(
        [
            "## BWN and XNOR-Net: weights",
            "Each filter of n weights becomes α sign(w) with α = mean|w|. The gradient of the "
            "paper is ∂C/∂w = g (1/n + α 1[|w| ≤ 1]), where g is the gradient with respect to q "
            "(arXiv:1603.05279, from a description). *length* and *cosine* compare ∂C/∂w of each "
            "version with that of the paper, for a Gaussian g. The threshold is 0 in all versions.",
            table(head, rows),
            "![BWN weights and gradients](fidelity/bwn.svg)",
            "The released Lua code does two things that the equations of the paper do not have. "
            f"First, before every forward pass {XNOR_NET_TRAIN.link('it subtracts')} the mean over "
            "input channels from the weights and clips them to [−1, 1]. This changes the stored "
            f"weights: {percent(flipped)} of the weights of this tensor change their sign. Second, "
            "it multiplies the gradient. For SGD the factor is n (1 − 1/I), where I is the number "
            "of input channels; this is a different learning rate per layer. For Adam the factor "
            "is 10^9 (1 − 1/I), which Adam cancels, except that its ε and weight decay lose their "
            "effect. The window 1[·] of the Lua code excludes |w| = 1, where clipping puts "
            f"weights; `gradient: lua` of qbench {edge}. BWN and XNOR-Net of qbench train with "
            "both by default, because their learning rates are those of the Lua code: with the "
            "gradient of the paper a step of SGD is n (1 − 1/I) times as short. They leave out "
            "the subtraction and 1 − 1/I where I = 1, which would leave zeros. For activations "
            "the Lua code has only "
            f"[the sign][{XNOR_NET_INPUT.label}]: {XNOR_NET_MODEL.link('its network')} does not "
            "have K of the paper, which `scale_map: true` of `xnor` in qbench provides.",
            "jiecaoyu/XNOR-Net-PyTorch and micronet differentiate α in full, as `gradient: exact` "
            f"does. For this g, that gradient is {longer} times as long as that of the paper, with "
            f"a cosine of {number(cosine(exact, paper), 2)} to it. The two train differently. hwgq "
            "passes g on unchanged.",
            "Two more versions have one scale per layer. EdMIPS, by the author of HWGQ, uses "
            f"±{number(EDMIPS_BINARY / 2)} standard deviations, the best scale for a Gaussian. The "
            "1-bit weights of tensorpack are those of DoReFa-Net, not those of BWN as their "
            "comment says.",
        ]
    )


def paper_version(w: Tensor, g: Tensor) -> Binary:
    """Return the binary weights of the paper."""
    inside = (w.abs() <= 1).to(w.dtype)
    gradient = g * (1 / w[0].numel() + mean_size(w) * inside)
    values = mean_size(w) * binary_sign(w)
    return Binary("the paper, from a description", values, gradient, 1.0, "g (1/n + α 1[·])")


def qbench_versions(w: Tensor, g: Tensor) -> list[Binary]:
    """Return the binary weights of qbench with several options."""
    versions = []
    for options, rule in (
        ({}, "g (1/n + α 1[·]) n (1 − 1/I), for SGD"),
        ({"gradient": "paper", "centre": False}, "g (1/n + α 1[·])"),
        ({"gradient": "exact", "centre": False}, "α g 1[·] + sign(w)/n Σ g sign(w)"),
    ):
        method, layer = build_method("bwn", options), layer_of(1, "weight")
        layer.latent_weight.data.copy_(w)
        quantizer: Any = built_quantizer(method, layer, w, "weight")
        with torch.no_grad():
            quantizer.on_epoch_start(layer, 1, 1)
        values, gradient = _trained(quantizer, layer, g)
        changed = layer.latent_weight.detach().clone()
        changed[0, 0, 0, 0] = 0
        at_zero = float(quantizer(changed)[0, 0, 0, 0].sign())
        name = named("bwn", options)
        versions.append(Binary(name, values, gradient, at_zero, rule))
    return versions


def _trained(quantizer: Any, layer: Layer, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the quantized weight, and the gradient with which SGD makes a step."""
    weight = layer.weight_parameters[0]
    layer.optimizer = torch.optim.SGD([weight], lr=1.0)
    values = quantizer(weight)
    (weight.grad,) = torch.autograd.grad(values, weight, g)
    with torch.no_grad():
        quantizer.before_optimizer_step(layer)
    return values.detach(), weight.grad


def library_versions(w: Tensor, g: Tensor) -> list[Binary]:
    """Return the binary weights of the paper and of other implementations."""
    c, n, inputs = centred(w), w[0].numel(), w.shape[1]
    lua = mean_size(c) * c.sign()
    scale = EDMIPS_BINARY * w.std()
    edmips = ((w / scale + 0.5).round() - 0.5) * scale
    return [
        paper_version(w, g),
        *[
            Binary(
                f"{XNOR_NET.link('allenai/XNOR-Net')}, {name}",
                lua,
                g * lua_factor(c, name.lower()),
                0.0,
                rule,
            )
            for name, rule in (
                ("SGD", "g (1/n + α 1[·]) n (1 − 1/I)"),
                ("Adam", "g (1/n + α 1[·]) (1 − 1/I) 10^9"),
            )
        ],
        Binary(
            XNOR_PYTORCH.link("jiecaoyu/XNOR-Net-PyTorch"),
            lua,
            exact_gradient(c, g) * (1 - 1 / inputs) * n * 1e9,
            0.0,
            "(α g 1[·] + sign(w)/n Σ g sign(w)) (1 − 1/I) n 10^9",
        ),
        Binary(
            MICRONET_BINARY.link("micronet"),
            mean_size(c) * binary_sign(c),
            exact_gradient(c, g),
            1.0,
            "α g + sign(w)/n Σ g sign(w)",
        ),
        Binary(
            HWGQ_WEIGHTS.link("hwgq, Caffe release"), mean_size(w) * binary_sign(w), g, 1.0, "g"
        ),
        Binary(EDMIPS.link("EdMIPS"), edmips.clamp(-scale / 2, scale / 2), g, -1.0, "g"),
        Binary(
            f"{TENSORPACK.link('tensorpack')}, 1 bit",
            w.abs().mean() * binary_sign(w),
            g,
            1.0,
            "g",
        ),
    ]


def _lua_excludes_one() -> bool:
    """Return whether qbench's ``gradient: lua`` excludes |w| = 1, as the Lua code does."""
    w = torch.ones(1, 2, 1, 1)
    method, layer = build_method("bwn", {"gradient": "lua"}), layer_of(1, "weight", w.shape)
    layer.latent_weight.data.copy_(w)
    quantizer = built_quantizer(method, layer, w, "weight")
    _, gradient = _trained(quantizer, layer, torch.ones_like(w))
    return bool((gradient - lua_factor(w, "sgd")).abs().max() < SAME)


def _figure(w: Tensor, folder: Path) -> None:
    """Draw one filter with and without centring, and the factor of the gradient."""
    figure, panels = figure_of(1, 2)
    left, right = panels[0]
    one, c = w[:1], centred(w)[:1]
    reach = 0.12
    draw_tensor(left, w, (-reach, reach))
    for values, look in (
        (mean_size(one) * one.sign(), {**STAIRS, "marker": "o", "markerfacecolor": "none"}),
        (mean_size(c) * c.sign(), {**OTHER, "marker": "x"}),
    ):
        points = {**look, "linestyle": "none", "markersize": 4.5, "markeredgewidth": 1}
        left.plot(one.flatten(), values.flatten(), zorder=3, **points)
    left.axvline(0, zorder=2, **THRESHOLD)
    left.set(title="one filter", xlabel="weight", ylabel="quantized weight")
    left.set(xlim=(-reach, reach), ylim=(-0.062, 0.062))
    v = torch.linspace(-1.4, 1.4, 2801)
    alpha, n, inputs = float(mean_size(one)), one[0].numel(), one.shape[1]
    paper = 1 / n + alpha * (v.abs() <= 1)
    right.plot(v, paper, **STAIRS)
    right.plot(v, paper * n * (1 - 1 / inputs), **OTHER)
    right.plot(v, torch.ones_like(v), **THIRD)
    right.set(title="what multiplies g", xlabel="weight", yscale="log", xlim=(-1.4, 1.4))
    right.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    right.yaxis.set_minor_locator(NullLocator())
    legend(figure, {"the paper": STAIRS, "Lua code, SGD": OTHER, "hwgq": THIRD}, columns=3)
    save(figure, "bwn", folder)

"""Weights and activations of DoReFa-Net."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .drawing import END, STAIRS, draw_staircase, figure_of, legend, save
from .libraries import (
    distiller_weight,
    kwanghoonan_weight,
    micronet_input,
    micronet_weight,
    mqbench_weight,
    tensorpack_input,
    tensorpack_weight,
)
from .markdown import number, percent, versions_table
from .probe import SAME, SCALE, by_value, of_qbench, tensor
from .sources import (
    DISTILLER,
    KWANGHOONAN,
    MICRONET,
    MQBENCH,
    MQBENCH_GUIDE,
    TENSORPACK,
    TENSORPACK_NETWORK,
)


def weights(folder: Path) -> str:
    """Compare DoReFa weights: five versions are one function, MQBench differs."""
    w = SCALE * tensor()
    reach = float(w.abs().max())
    full = "straight through [·]; tanh and max are differentiated"
    masked = "the same, 0 where the code is clipped"
    figure, panels = figure_of(2, 3)
    parts, counts, gains = [], {}, Tensor()
    for bits, row in zip((2, 3), panels, strict=True):
        fake = [
            by_value(
                f"{MQBENCH.link('MQBench')}, {kind} grid for the layer",
                masked,
                mqbench_weight(bits, w, symmetric),
                w,
            )
            for kind, symmetric in (("symmetric", True), ("affine", False))
        ]
        versions = [
            of_qbench("dorefa", bits, full, w, "weight"),
            by_value(
                f"{TENSORPACK.link('tensorpack')}, the paper's official code",
                full,
                tensorpack_weight(bits, w),
                w,
            ),
            by_value(DISTILLER.link("distiller"), full, distiller_weight(bits, w), w),
            by_value(MICRONET.link("micronet"), full, micronet_weight(bits, w), w),
            by_value(
                KWANGHOONAN.link("KwangHoonAn/PACT"),
                "the identity, also past tanh and max",
                kwanghoonan_weight(bits, w),
                w,
            ),
            *fake,
        ]
        parts += [f"### {bits} bits", versions_table(versions, w, (-reach, reach))]
        gains = versions[0].slopes
        counts[bits] = int((fake[0].values < -1 - SAME).sum())
        titles = ("qbench, tensorpack and 3 more", "MQBench, symmetric", "MQBench, affine")
        for axes, version, title in zip(row, (versions[0], *fake), titles, strict=True):
            draw_staircase(axes, version, w, (-reach, reach), ends=True)
            axes.set_title(f"{title}, {bits} bits")
            axes.set_ylim(-1.5, 1.25)
        row[0].set_ylabel("quantized weight")
    for axes in panels[-1]:
        axes.set_xlabel("weight")
    legend(figure, {"quantized weight": STAIRS, "smallest and largest weight": END})
    save(figure, "dorefa", folder)
    return "\n\n".join(
        [
            "## DoReFa-Net: weights",
            "A weight w becomes q = 2 [n (tanh w / (2 max|tanh w|) + ½)] / n − 1 with n = 2^k − 1 "
            "(arXiv:1606.06160, Eq. 9–10).",
            *parts,
            "![DoReFa weights](fidelity/dorefa.svg)",
            "The first five versions are the same function, threshold for threshold. "
            "KwangHoonAn/PACT differs in the gradient: it treats the whole formula as the "
            "identity. On this tensor its gradient is "
            f"{number(float(gains.median()), 1)} times smaller than that of the paper. The factor "
            "is about one over the largest weight of the layer. It therefore differs between "
            "layers and changes during training.",
            "MQBench normalises as the paper does and then applies an integer grid to the result. "
            "The symmetric grid is that of two's complement, −2^(k−1) to 2^(k−1) − 1. It has a "
            "step of 2 / (2^k − 1) and a level at zero. Its lowest code begins where normalised "
            f"weights end: of {w.numel()} weights, {counts[2]} has that code at 2 bits and "
            f"{counts[3]} at 3 bits. The 2-bit weights are therefore ternary in practice. The "
            "affine grid rounds its zero point, so it has a level at zero too. At 2 bits it has "
            "two levels on one side of zero and one on the other. The "
            f"{MQBENCH_GUIDE.link('guide')} of MQBench describes this grid. It is nevertheless a "
            "different quantizer from that of DoReFa-Net.",
        ]
    )


def activations(folder: Path) -> str:
    """Compare DoReFa activations: micronet scales them by a tenth."""
    x = tensor()
    reach = (-1.0, 9.5)
    rule = "1 where 0 ≤ x ≤ 1"
    versions = [
        of_qbench("dorefa", 2, rule, x, "input"),
        by_value(
            f"{TENSORPACK_NETWORK.link('tensorpack')}, and {DISTILLER.link('distiller')}",
            rule,
            tensorpack_input(2),
            x,
        ),
        by_value(MICRONET.link("micronet"), "0.1 where 0 ≤ x ≤ 10", micronet_input(2), x),
    ]
    zero = [float((version.values[x > 0] == 0).double().mean()) for version in versions]
    figure, panels = figure_of(1, 2)
    titles = ("qbench, tensorpack, distiller", "micronet")
    for axes, version, title in zip(panels[0], (versions[0], versions[2]), titles, strict=True):
        draw_staircase(axes, version, x, reach)
        axes.set_title(f"{title}, 2 bits")
        axes.set_xlabel("input of the layer")
        axes.set_ylim(-0.1, 1.25)
    panels[0, 0].set_ylabel("quantized input")
    legend(figure, {"quantized input": STAIRS})
    save(figure, "dorefa_inputs", folder)
    return "\n\n".join(
        [
            "## DoReFa-Net: activations",
            "An activation x becomes q = [n clip(x, 0, 1)] / n. The tensor is the one above with "
            "unit variance, as after batch normalisation.",
            versions_table(versions, x.clamp(min=0), reach),
            "![DoReFa activations](fidelity/dorefa_inputs.svg)",
            "micronet quantizes a tenth of the input, to avoid clipping as its comment says, and "
            "does not multiply by ten afterwards. Its levels extend to an input of ten. Errors "
            "are measured from max(x, 0). Of the positive values of this tensor, "
            f"{percent(zero[2])} become 0; in the function of the paper it is "
            f"{percent(zero[0])}.",
        ]
    )

"""ABC-Net: accurate binary convolution (Lin, Zhao, Pan, NeurIPS 2017, arXiv:1711.11294).

Weights, M bits: M binary bases, for each layer (Eq. 2–4)::

    w_q = Σ_i α_i B_i,   B_i = sign(w − mean(w) + u_i std(w)),   u_i = −1 + 2(i − 1)/(M − 1)

with α the least-squares solution of ‖w − Bα‖²; u = 0 where M = 1. Gradient, straight through each
base: ∂w_q/∂w = Σ_i α_i.

Activations, N bits: N binary bases with learned shifts v and scales β (Eq. 6–9)::

    x_q = Σ_n β_n A_n,   A_n = +1 where clip(x + v_n, 0, 1) ≥ ½, else −1
    ∂A_n/∂x = ∂A_n/∂v_n = 1[0 ≤ x + v_n ≤ 1],   ∂x_q/∂β_n = A_n

M bits have M + 1 levels, not 2^M.

The order of layers is normalisation, binary activation, convolution, so max-pooling comes before
normalisation. Binary activations are the only nonlinearity: every ReLU is removed. The authors
released no code; residual blocks keep their order, and published numbers with quantized activations
get no verdict. The paper does not give the initial v and β. Here the
thresholds ½ − v_n are evenly spaced quantiles of the input, and β is its least-squares fit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.functional import cell_sums, scale_gradient, sign_sum, to_levels
from qbench.method import BinaryBases, BitWidths, Layer, Method, Recipe
from qbench.quant.surgery import RELU, pool_before_norm, replace_modules


class ABCNet(Method):
    """Sums of binary bases."""

    name = "abc_net"
    title = "ABC-Net"
    paper = "Lin et al., NeurIPS 2017, arXiv:1711.11294"
    weights = BinaryBases()
    activations = BinaryBases()
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.01, schedule="step", milestones=(30, 60), epochs=90, batch_size=256,
        weight_decay=1e-4, initialization="pretrained",
    )  # fmt: skip

    revision = 2

    def network_departure(self, model: str, bits: BitWidths) -> str:
        """Return that the authors' network is not public, if activations are quantized."""
        return "" if bits.activations.is_float else "the authors' code is not public"

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Pool before normalisation and remove every ReLU, if activations are quantized."""
        if bits.activations.is_float:
            return model
        return replace_modules(pool_before_norm(model), RELU, nn.Identity)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> BasesWeight:
        """Build Σ α_i B_i."""
        return BasesWeight(layer.weight_bits.bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> BinaryActivations:
        """Build Σ β_n A_n."""
        return BinaryActivations(layer.activation_bits.bits, sample)


class BasesWeight(nn.Module):
    """w_q = Σ α_i B_i, α by least squares.

    Args:
        bases: Number of bases M.
    """

    def __init__(self, bases: int) -> None:
        super().__init__()
        self.shifts = [0.0] if bases == 1 else [2 * i / (bases - 1) - 1 for i in range(bases)]

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        fixed = w.detach()
        centred, std = w - fixed.mean(), fixed.std(correction=0)
        thresholds = torch.stack([-(u * std) for u in reversed(self.shifts)])
        signs = nested_signs(len(self.shifts)).flip(0)  # of B_i by cell: the last is +1 first
        alpha = least_squares(signs, *cell_sums(centred, thresholds, fixed, right=True)).to(w.dtype)
        levels = sum((a * b for a, b in zip(alpha, signs.to(w), strict=True)), w.new_zeros(()))
        quantized = to_levels(centred, thresholds, levels, right=True)
        return scale_gradient(quantized, float(alpha.sum()))


class BinaryActivations(nn.Module):
    """x_q = Σ β_n A_n, β and the shifts v learned.

    Args:
        bases: Number of bases N.
        sample: Inputs, any shape, from which v and β are initialised.
    """

    def __init__(self, bases: int, sample: Tensor) -> None:
        super().__init__()
        ordered = sample.flatten().sort().values
        quantiles = [len(ordered) * (n + 1) // (bases + 1) for n in range(bases)]
        thresholds = ordered[quantiles]
        signs = nested_signs(bases)
        scale = least_squares(signs, *cell_sums(sample, thresholds, right=True))
        self.shift = nn.Parameter(0.5 - thresholds)  # v
        self.scale = nn.Parameter(scale.to(sample.dtype))  # β

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        return sign_sum(x, self.shift.to(x.dtype), self.scale.to(x.dtype))


def nested_signs(bases: int) -> Tensor:
    """Return the sign of each basis in each cell, (bases, bases + 1), in float64.

    Args:
        bases: Number of bases. The sign of basis i is +1 above the threshold i, in ascending order.
    """
    return 1 - 2 * torch.ones(bases, bases + 1, dtype=torch.float64).tril()


def least_squares(signs: Tensor, counts: Tensor, sums: Tensor) -> Tensor:
    """Return the α that minimise ‖target − Σ α_i B_i‖², the shortest if there are many.

    Args:
        signs: Values of the bases in each cell, −1 or +1, (bases, cells), in float64.
        counts: Number of elements of each cell, (cells,), likewise.
        sums: Sum of the target in each cell, (cells,), likewise.

    Returns:
        α, (bases,), in float64.
    """
    signs = signs.to(counts.device)
    gram = (signs.unsqueeze(1) * signs * counts).sum(-1)
    moment = (signs * sums).sum(-1)
    return (torch.linalg.pinv(gram, hermitian=True) * moment).sum(-1)

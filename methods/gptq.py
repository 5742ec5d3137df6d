"""GPTQ (Frantar, Ashkboos, Hoefler, Alistarh, ICLR 2023, arXiv:2210.17323), also for convolutions.

Post-training: as OBQ, but all rows are rounded in the same order, so that they share H⁻¹, and a
Cholesky factor U of it, H⁻¹ = Uᵀ U, has all that is needed (Section 3.3). For each column i of the
weight::

    e = (w_i − q(w_i)) / U_ii,   w_j ← w_j − e U_ij for all j > i

1 % of the mean of the diagonal of H is added to it. H is that of the inputs that the layer has with
all layers before it quantized, one layer after the other (``--true-sequential`` in the authors'
code). Weights whose input is always 0 become 0.

q is affine, over the whole range [min w, max w] of each filter extended to 0, with zero a level, as
in the authors' code; ``mse`` is that code's option for the range of least error, Σ |q(w) − w|^2.4,
which matters at 2 and 3 bits. ``act_order`` rounds the columns with the largest inputs first.

Departures. The authors quantize weights of language models. Activations, if they are quantized, are
those of post-training quantization of least error, as for ``obq``, and H is that of their quantized
values. The range of a group is that of its original weights (``--static-groups``). Columns are
updated one by one in place of 128 at once, and sums are in float64: the same values but for
rounding. With ``mse``, factors around the best one are tried too, as in ``ptq_mse``.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import integer_range
from qbench.method import Field, GranularityOption, Integers, Layer, Method, PerChannel

from .brecq import least_error
from .jacob import affine_scale
from .obq import Grid, Hessian, RoundedWeight, distinct, in_order
from .ptq_minmax import FixedActivation
from .ptq_mse import PTQMSE


class GPTQ(Method):
    """Weights rounded column by column, with the later ones making up for errors, without training.

    Attributes:
        damping: Share of the mean of the diagonal of H that is added to it.
        act_order: Whether columns are rounded in the order of the diagonal of H, the largest first.
        mse: Whether a range is that of least error, in place of the whole.
        granularity: Weights that share a range. Default: those of a filter.
    """

    title = "GPTQ"
    paper = "Frantar et al., ICLR 2023, arXiv:2210.17323"
    weights = Integers(signed=False, scales=2, offset=True, granularity=PerChannel(), required=True)
    activations = Integers(bits=range(1, 9), signed=False, scales=2, offset=True)
    trains = False
    elementwise = False
    damping: Annotated[float, Field(gt=0)] = 0.01
    act_order: bool = False
    mse: bool = False
    granularity: GranularityOption = PerChannel()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> RoundedWeight:
        """Build the quantizer that rounds to the nearest level until `calibrate` has run."""
        quant_min, quant_max = integer_range(layer.weight_bits.bits, signed=False)
        if self.mse:
            step, zero_point = least_error(weight, quant_max + 1, self.granularity)
        else:
            low, high = (self.granularity.reduce(weight, end) for end in (torch.amin, torch.amax))
            step, zero_point = affine_scale(low, high, quant_max + 1)
        return RoundedWeight(weight, step, zero_point, quant_min, quant_max)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> FixedActivation:
        """Build the quantizer of least error."""
        return PTQMSE().activation_quantizer(layer, sample)

    @torch.no_grad()
    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Round the weights of one layer after the other."""
        for layer in distinct(self, batches):
            hessian = Hessian(layer)
            with hessian.observed():
                for batch in batches:
                    model(batch)
            hessian.round(self.rounded)

    def rounded(self, grid: Grid, w: Tensor, h: Tensor) -> Tensor:
        """Return the codes of the weights of a group; see `qbench_methods.obq.Rounding`."""
        h = h + self.damping * h.diagonal().mean() * torch.eye(
            len(h), dtype=h.dtype, device=h.device
        )
        columns = torch.arange(len(h), device=h.device)
        if self.act_order:
            columns = h.diagonal().argsort(descending=True, stable=True)
        found = in_order(grid[:, columns], w[:, columns], h[columns][:, columns])
        return found[:, columns.argsort()]

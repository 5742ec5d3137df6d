"""Post-training quantization to the range that loses least (as in BRECQ, arXiv:2102.05426).

As min–max, but ranges are shrunk by the factor that minimises the quantization error, of 80 that
are tried::

    r = max|w| · c,   c ∈ {1, 0.99, …, 0.21},   c = argmin Σ |w_q − w|^p,   p = 2.4

and likewise a and b of activations. p is that of the authors' code; 2 is the mean squared error.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from qbench.method import Field

from .ptq_minmax import FixedInput, FixedWeight, PTQMinMax

FACTORS = tuple(1 - 0.01 * i for i in range(80))
_SAMPLED = 2**18


class PTQMSE(PTQMinMax):
    """Weights and activations over the range of least error, without training.

    Options:
        scope: one range of weights for each filter, or for the layer.
        power: p.
    """

    name = "ptq_mse"
    title = "PTQ MSE"
    paper = "Li et al., ICLR 2021, arXiv:2102.05426"
    trains = False
    power: Annotated[float, Field(gt=0)] = 2.4

    def weight_range(self, rows: Tensor, n: int) -> Tensor:
        """Each filter's range of least error."""
        largest = rows.abs().amax(1, keepdim=True)
        errors = []
        for factor in FACTORS:
            quantized = FixedWeight(factor * largest / n, n)(rows)
            errors.append((quantized - rows).abs().pow(self.power).sum(1))
        best = torch.stack(errors).argmin(0)
        return torch.tensor(FACTORS).to(rows)[best] * largest[:, 0]

    def input_range(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """Return the range of least error."""
        values = values[:: -(-len(values) // _SAMPLED)]
        low, high = values.min(), values.max()
        errors = []
        for factor in FACTORS:
            quantized = FixedInput(factor * low, factor * high, levels)(values)
            errors.append((quantized - values).abs().pow(self.power).sum())
        best = FACTORS[int(torch.stack(errors).argmin())]
        return best * low, best * high

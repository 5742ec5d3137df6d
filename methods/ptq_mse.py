"""Post-training quantization to the range of least error (as in BRECQ, arXiv:2102.05426).

As min–max, but ranges are shrunk by the factor that minimises the quantization error, of 80 that
are tried::

    r = max|w| · c,   c ∈ {1, 0.99, …, 0.21},   c = argmin Σ |w_q − w|^p,   p = 2.4

and likewise a and b of activations. p is that of the authors' code; 2 is the squared error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from qbench.method import Field

from .ptq_minmax import FixedActivation, FixedWeight, PTQMinMax

FACTORS = tuple(1 - 0.01 * i for i in range(80))
_SAMPLED = 2**18  # of the inputs of a layer


class PTQMSE(PTQMinMax):
    """Weights and activations over the range of least error, without training.

    Attributes:
        scope: Weights that share a range. Default: those of a filter.
        power: Exponent p of the error.
    """

    name = "ptq_mse"
    title = "PTQ MSE"
    paper = "Li et al., ICLR 2021, arXiv:2102.05426"
    power: Annotated[float, Field(gt=0)] = 2.4

    def weight_range(self, rows: Tensor, n: int) -> Tensor:
        """Return the range of least error of every row."""
        r = rows.abs().amax(1, keepdim=True)
        return r[:, 0] * best_factor(rows, lambda c: FixedWeight(c * r / n, n)(rows), self.power)

    def input_range(self, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Return the range of least error."""
        x = values[None, :: -(-len(values) // _SAMPLED)]
        a, b = x.min(), x.max()
        factor = best_factor(x, lambda c: FixedActivation(c * a, c * b, n)(x), self.power)[0]
        return factor * a, factor * b


def best_factor(rows: Tensor, quantize: Callable[[float], Tensor], power: float) -> Tensor:
    """Return the factor of least error of every row, (rows,).

    Args:
        rows: Values that share a range as the rows of a matrix.
        quantize: Function from a factor c to the quantized values.
        power: Exponent p of the error.
    """
    errors = [(quantize(c) - rows).abs().pow(power).sum(1) for c in FACTORS]
    return rows.new_tensor(FACTORS)[torch.stack(errors).argmin(0)]

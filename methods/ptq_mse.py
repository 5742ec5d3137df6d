"""Post-training quantization to the range of least error (as in BRECQ, arXiv:2102.05426).

As min–max, but ranges are shrunk by the factor that minimises the quantization error::

    r = max|w| · c,   c = argmin Σ |w_q − w|^p,   p = 2.4

and likewise a and b of activations. p is that of the authors' code; 2 is the squared error. The
authors' 80 factors 1, 0.99, …, 0.21 are tried first. At 8 bits they are too coarse, so factors
around the best are then tried in steps of 0.001, and around the best of these in steps of 0.0001.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from qbench.method import Field

from .ptq_minmax import FixedActivation, FixedWeight, PTQMinMax

FACTORS = tuple(1 - 0.01 * i for i in range(80))
FINER = (1e-3, 1e-4)  # steps around the best factor
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
    revision = 2
    power: Annotated[float, Field(gt=0)] = 2.4

    def weight_range(self, rows: Tensor, n: int) -> Tensor:
        """Return the range of least error of every row."""
        r = rows.abs().amax(1, keepdim=True)
        return r[:, 0] * best_factor(rows, lambda c: FixedWeight(c * r / n, n)(rows), self.power)

    def input_range(self, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Return the range of least error."""
        x = values[None, :: -(-len(values) // _SAMPLED)]
        a, b = x.min(), x.max()

        def quantize(c: Tensor) -> Tensor:
            return FixedActivation(c[0, 0] * a, c[0, 0] * b, n)(x)

        factor = best_factor(x, quantize, self.power)[0]
        return factor * a, factor * b


def best_factor(rows: Tensor, quantize: Callable[[Tensor], Tensor], power: float) -> Tensor:
    """Return the factor of least error of every row, (rows,).

    Args:
        rows: Values that share a range as the rows of a matrix.
        quantize: Function from the factors c of the rows, (rows, 1), to the quantized values.
        power: Exponent p of the error.
    """

    def best(factors: list[Tensor]) -> Tensor:
        errors = [(quantize(c) - rows).abs().pow(power).sum(1) for c in factors]
        return torch.stack(factors).squeeze(2).gather(0, torch.stack(errors).argmin(0)[None])[0]

    found = best([rows.new_full((len(rows), 1), c) for c in FACTORS])[:, None]
    for step in FINER:
        found = best([(found + i * step).clamp(max=1) for i in range(-9, 10)])[:, None]
    return found[:, 0]

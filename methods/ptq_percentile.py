"""Post-training quantization to a percentile: outliers are clipped (McKinstry et al., 2018).

As min–max, but r is the p-th percentile of |w| of each filter, and [a, b] is clipped to the p-th
percentile of |x| of the calibration inputs: a few outliers no longer stretch every step. Percentile
ranges are described in McKinstry et al., arXiv:1809.04191, and Li et al., arXiv:1810.05723.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from qbench.method import Field

from .ptq_minmax import PTQMinMax


class PTQPercentile(PTQMinMax):
    """Weights and activations over most of their range, without training.

    Options:
        scope: one range of weights for each filter, or for the layer.
        percentile: p, in percent.
    """

    name = "ptq_percentile"
    title = "PTQ percentile"
    paper = "McKinstry et al., 2018, arXiv:1809.04191"
    trains = False
    percentile: Annotated[float, Field(gt=0, le=100)] = 99.9

    def weight_range(self, rows: Tensor, n: int) -> Tensor:
        """Return the percentile of every filter's |w|."""
        return self._of(rows.abs())

    def input_range(self, values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        """Return the range, clipped at the percentile of |x|."""
        reach = self._of(values.abs().reshape(1, -1))[0]
        return values.min().clamp(min=-reach), values.max().clamp(max=reach)

    def _of(self, rows: Tensor) -> Tensor:
        """Return the percentile of each row, (rows,)."""
        kept = max(1, -(-rows.shape[1] * self.percentile // 100))
        found = rows.kthvalue(int(kept), dim=1).values
        return torch.where(found > 0, found, rows.amax(1))

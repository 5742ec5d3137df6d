"""Post-training quantization to a percentile: outliers are clipped (McKinstry et al., 2018).

As min–max, but r is the p-th percentile of |w| of each filter, and [a, b] is clipped to the p-th
percentile of |x| of the calibration inputs. A few outliers then no longer widen every step.
Percentile ranges are described in McKinstry et al., arXiv:1809.04191, and Li et al.,
arXiv:1810.05723.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from qbench.method import Field

from .ptq_minmax import PTQMinMax


class PTQPercentile(PTQMinMax):
    """Weights and activations over most of their range, without training.

    Attributes:
        scope: Weights that share a range. Default: those of a filter.
        percentile: Percentile p of magnitudes, in percent.
    """

    name = "ptq_percentile"
    title = "PTQ percentile"
    paper = "McKinstry et al., 2018, arXiv:1809.04191"
    percentile: Annotated[float, Field(gt=0, le=100)] = 99.9

    def weight_range(self, rows: Tensor, n: int) -> Tensor:
        """Return the percentile of the magnitudes of every row."""
        kept = max(1, -(-rows.shape[1] * self.percentile // 100))
        found = rows.abs().kthvalue(int(kept), dim=1).values
        return torch.where(found > 0, found, rows.abs().amax(1))

    def input_range(self, values: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Return the range, clipped at the percentile of the magnitudes."""
        reach = self.weight_range(values[None], n)[0]
        return values.min().clamp(min=-reach), values.max().clamp(max=reach)

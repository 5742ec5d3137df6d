"""Engines that compute the soft staircase, and the choice of the fastest one.

There are three: the sum as it is written, a table read by torch, and a table read by a loop in C
(`qbench.quant.staircase.kernels`). Large tensors are read from a table, on the CPU by the loop if
it can be compiled. The sum serves small tensors and float64.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from qbench.quant.staircase import kernels
from qbench.quant.staircase.formula import at_least_float32, sum_of_sigmoids
from qbench.quant.staircase.table import Table, look_up, table_of

_MIN_SIGMOIDS = 2**12  # in the sum; with fewer a table saves nothing
_MIN_SIGMOIDS_LEARNED = 2**18  # the same for learned biases, which need a new table in each step
_CHUNK = 2**18  # elements of a temporary tensor, so that it stays in the cache


class Engine:
    """Base class of engines, which compute flat tensors chunk by chunk in float32 or float64.

    Args:
        alpha: α, scalar.
        beta: β, scalar.
        chunk: Number of elements of a chunk.
    """

    def __init__(self, alpha: Tensor, beta: Tensor, chunk: int) -> None:
        self.alpha = alpha
        self.beta = beta
        self.chunk = chunk

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Compute the staircase of a tensor.

        Args:
            x: Input, (N,).
            y: Output, (N,), which is overwritten.
        """
        for part, out in zip(x.split(self.chunk), y.split(self.chunk), strict=True):
            total, _ = self.evaluate(at_least_float32(part, self.alpha), slope=False)
            out.copy_(total * self.alpha)

    def backward(self, g: Tensor, x: Tensor, gx: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the gradients of a tensor and of the parameters.

        Args:
            g: Gradient of the output, (N,).
            x: Input, (N,).
            gx: Gradient of the input, (N,), which is overwritten.

        Returns:
            Gradients of α and β, scalar, and of b, (n,), or None where the engine has none.
        """
        to_alpha, to_beta = torch.zeros_like(self.alpha), torch.zeros_like(self.beta)
        for g_part, part, out in zip(
            g.split(self.chunk), x.split(self.chunk), gx.split(self.chunk), strict=True
        ):
            wide = at_least_float32(part, self.alpha)
            total, slope = self.evaluate(wide, slope=True)
            g_wide = g_part.to(wide.dtype)
            d = g_wide * slope * self.alpha
            out.copy_(d * self.beta)
            to_alpha += (g_wide * total).sum()
            to_beta += (d * wide).sum()
        return to_alpha, to_beta, None

    def evaluate(self, x: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """Compute F(βx) and F′(βx).

        Args:
            x: A chunk, (n,), float32 or float64.
            slope: Whether F′(βx) is needed as well.

        Returns:
            F(βx) and F′(βx), (n,). The second is meaningless without ``slope``.
        """
        raise NotImplementedError


class SumEngine(Engine):
    """Engine that computes the sum of sigmoids."""

    def __init__(
        self,
        alpha: Tensor,
        beta: Tensor,
        biases: Tensor,
        scales: Tensor,
        offset: float,
        temperature: Tensor,
    ) -> None:
        super().__init__(alpha, beta, max(1, _CHUNK // len(biases)))
        self.biases = biases
        self.scales = scales
        self.offset = offset
        self.temperature = temperature

    def evaluate(self, x: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """Compute the sum and its derivative by the formula."""
        total, slopes = sum_of_sigmoids(x * self.beta, self.biases, self.scales, self.temperature)
        return total - self.offset, slopes.sum(-1) if slope else total

    def backward(self, g: Tensor, x: Tensor, gx: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the gradients, with that of b if it needs one."""
        to_alpha, to_beta, _ = super().backward(g, x, gx)
        if not self.biases.requires_grad:
            return to_alpha, to_beta, None
        to_biases = torch.zeros_like(self.biases)
        for g_part, part in zip(g.split(self.chunk), x.split(self.chunk), strict=True):
            u = at_least_float32(part, self.alpha) * self.beta
            _, slopes = sum_of_sigmoids(u, self.biases, self.scales, self.temperature)
            to_biases -= self.alpha * (g_part.to(u.dtype)[:, None] * slopes).sum(0)
        return to_alpha, to_beta, to_biases


class TableEngine(Engine):
    """Engine that reads a table with torch; on a GPU with one compiled kernel, if possible."""

    def __init__(self, table: Table, alpha: Tensor, beta: Tensor) -> None:
        on_cpu = table.rows.device.type == "cpu"
        super().__init__(alpha, beta, _CHUNK if on_cpu else 2**62)
        self.table = table
        self._look_up = look_up if on_cpu else _compiled_look_up()

    def evaluate(self, x: Tensor, slope: bool) -> tuple[Tensor, Tensor]:
        """Read the sum and its derivative from the table."""
        table = self.table
        return self._look_up(x * self.beta, table.rows, table.numbers, table.sparse, slope)


class KernelEngine(Engine):
    """Engine that reads a table with a loop in C."""

    def __init__(self, table: Table, alpha: Tensor, beta: Tensor) -> None:
        super().__init__(alpha, beta, _CHUNK)
        self.table = table
        a, b = float(alpha.detach()), float(beta.detach())
        self._rows = kernels.CTable(b * table.per_unit, 1 - table.low * table.per_unit, table.rows)
        self._numbers: tuple[float, ...]
        if table.sparse:
            self._name, self._numbers, self._per_unit = (
                "sparse",
                (a, b, table.temperature, table.scale),
                1.0,
            )
        else:
            self._name, self._numbers, self._per_unit = "dense", (a,), table.per_unit

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Compute the staircase; float32 at once, other dtypes chunk by chunk in float32."""
        if x.dtype == torch.float32:
            kernels.call(f"{self._name}_forward", (x, y), self._rows, *self._numbers)
            return
        for part, out in zip(x.split(self.chunk), y.split(self.chunk), strict=True):
            wide = part.float()
            self.forward(wide, wide_out := torch.empty_like(wide))
            out.copy_(wide_out)

    def backward(self, g: Tensor, x: Tensor, gx: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute the gradients of x, α and β, by partial sums in float64."""
        if x.dtype == torch.float32:
            sums = torch.empty(-(-x.numel() // kernels.BLOCK), 2, dtype=torch.float64)
            kernels.call(f"{self._name}_backward", (g, x, gx, sums), self._rows, *self._numbers)
            to_alpha, to_beta = sums.sum(0)
            return to_alpha.to(self.alpha), (to_beta * self._per_unit).to(self.beta), None
        totals = torch.zeros(2, dtype=torch.float64)
        for g_part, part, out in zip(
            g.split(self.chunk), x.split(self.chunk), gx.split(self.chunk), strict=True
        ):
            wide = part.float()
            wide_out = torch.empty_like(wide)
            to_alpha, to_beta, _ = self.backward(g_part.float(), wide, wide_out)
            out.copy_(wide_out)
            totals += torch.stack([to_alpha, to_beta]).double()
        return totals[0].to(self.alpha), totals[1].to(self.beta), None


def choose_engine(
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    biases: Tensor,
    scales: Tensor,
    offset: float,
    temperature: Tensor,
) -> Engine:
    """Choose the fastest engine for a tensor.

    Args:
        x: Input, any shape.
        alpha: α, scalar.
        beta: β, scalar.
        biases: b, (n,).
        scales: s, (n,).
        offset: o.
        temperature: T, scalar.
    """
    exact = SumEngine(alpha, beta, biases, scales, offset, temperature)
    sigmoids = x.numel() * len(biases)
    if torch.float64 in (x.dtype, alpha.dtype):
        return exact
    if sigmoids < (_MIN_SIGMOIDS_LEARNED if biases.requires_grad else _MIN_SIGMOIDS):
        return exact
    in_c = x.device.type == "cpu" and kernels.load() is not None
    if x.device.type == "cpu" and not in_c and len(biases) < 3:
        return exact  # torch computes two sigmoids faster than it reads a table
    table = table_of(biases, scales, offset, temperature)
    if table is None:
        return exact
    return KernelEngine(table, alpha, beta) if in_c else TableEngine(table, alpha, beta)


@functools.lru_cache(maxsize=1)
def _compiled_look_up() -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `look_up` compiled to one kernel, if torch has the compiler for it."""
    if importlib.util.find_spec("triton") is None:
        return look_up
    return torch.compile(look_up, dynamic=True)

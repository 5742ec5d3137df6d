"""Tell which primitive could compute what a quantizer computes with torch's functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qbench.functional import binarize, fake_quantize, ternarize, to_levels, two_levels

_FEW = 4
"""Tensors of the size of the input that a quantizer with a primitive makes, for statistics too."""
_MOST_LEVELS = 256
_ROWS = 4
_MISMATCHES, _ERROR = 1e-3, 1e-4


def advice(what: str, quantizer: nn.Module, x: Tensor) -> str | None:
    """Name the primitive of `qbench.functional` that computes the same levels in one pass.

    The quantizer is called once. If it makes many tensors of the size of ``x``, it computes with
    torch's functions, and its values are compared with those of primitives that have its levels.

    Args:
        what: What is quantized, in the plural.
        quantizer: The quantizer.
        x: A tensor on the CPU that it quantizes.

    Returns:
        One line, or None if the quantizer makes few tensors or no primitive has its values.

    Example:
        >>> import torch
        >>> class Rounded(torch.nn.Module):
        ...     def forward(self, x):
        ...         return (x / 0.5).clamp(-2, 1).round().add(0).mul(0.5)
        >>> print(advice("weights", Rounded(), torch.linspace(-2, 2, 99)))
        weights: 5 tensors of their size for each step; fake_quantize makes one
    """
    with torch.no_grad(), _Made(x.numel()) as made:
        y = quantizer(x)
    if made.count <= _FEW or not y.isfinite().all():
        return None
    name = primitive_for(x.detach(), y)
    if name is None:
        return None
    return f"{what}: {made.count} tensors of their size for each step; {name} makes one"


class _Made(TorchDispatchMode):
    """Count the floating-point tensors of some size that are made while it is entered."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.numel() == self.size:
            given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
            is_new = result.untyped_storage().data_ptr() not in given  # no view, and not in place
            self.count += is_new and result.is_floating_point()
        return result


def primitive_for(x: Tensor, y: Tensor) -> str | None:
    """Return the first primitive that maps x to y, or None.

    Args:
        x: Values of any shape.
        y: Their quantized values. The levels may be those of each row.
    """
    name = _of_values(x.flatten(), y.flatten())
    if name is None and x.dim() > 1:
        rows = zip(x[:_ROWS].flatten(1), y[:_ROWS].flatten(1), strict=True)
        names = {_of_values(*row) for row in rows}
        name = names.pop() if len(names) == 1 else None
    return name


def _of_values(x: Tensor, y: Tensor) -> str | None:
    """Return the first primitive that maps x, (n,), to y, with levels and thresholds of all."""
    x, order = x.sort()
    y = y[order]
    levels = y.unique()
    if not 2 <= len(levels) <= _MOST_LEVELS or bool((y.diff() < 0).any()):
        return None
    last = torch.searchsorted(y, levels[:-1].contiguous(), right=True) - 1
    thresholds = (x[last] + x[last + 1]) / 2
    for name, compute in _candidates(x, thresholds, levels):
        wrong = (compute() - y).abs() > _ERROR * levels.abs().max()
        if wrong.double().mean() <= _MISMATCHES:
            return name
    return None


def _candidates(
    x: Tensor, thresholds: Tensor, levels: Tensor
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield the primitives that could have the levels, the most special first."""
    first, last = levels[0], levels[-1]
    if len(levels) == 2:
        yield "binarize", lambda: binarize(x, last)
        middle, half = (last + first) / 2, (last - first) / 2
        yield "two_levels", lambda: two_levels(x, half, middle, centre=thresholds[0])
    steps = int(((last - first) / levels.diff().min()).round())  # a level may have no value
    step = (last - first) / steps
    yield "fake_quantize", lambda: fake_quantize(x, step, 0, steps, offset=first)
    if len(levels) == 3:
        yield "ternarize", lambda: ternarize(x, thresholds[1].abs(), last)
    yield "to_levels", lambda: to_levels(x, thresholds, levels)


def advice_for(
    model: nn.Module, quantizers: Sequence[tuple[str, nn.Module, Tensor | None]], inputs: Tensor
) -> list[str]:
    """Return the advice for quantizers, once for each class.

    Args:
        model: Model on the CPU, with the quantizers.
        quantizers: What is quantized, the quantizer, and a weight. None: an activation, as it
            arrives when the model runs.
        inputs: Inputs of the model.
    """
    arrived: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        arrived.setdefault(module, args[0].detach())

    hooks = [q.register_forward_pre_hook(note) for _, q, weight in quantizers if weight is None]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[tuple[str, type], str | None] = {}
    for what, quantizer, weight in quantizers:
        x = arrived.get(quantizer) if weight is None else weight
        if x is not None and (what, type(quantizer)) not in found:
            found[what, type(quantizer)] = advice(what, quantizer, x)
    return [line for line in found.values() if line is not None]

"""Quantized weights that the backward pass computes again, in place of keeping them.

A convolution keeps its weight for the backward pass, and a quantized weight is as large as the
latent one that it is computed from. So a function that keeps what it was computed from notes how to
compute its result again, and a large weight of a layer is forgotten where that is noted. Small
weights and activations are kept, as to compute them again would cost more time than the memory is
worth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

LARGE = 2**21
"""Number of values from which on a weight is computed again."""


def source_of(x: Tensor) -> Any:
    """Return the node of the function that can compute a tensor again, or None.

    Args:
        x: Argument of a function, as its ``apply`` receives it.
    """
    node = x.grad_fn
    return None if getattr(node, "again", None) is None else node


def note(ctx: Any, again: Callable[[Any], Tensor]) -> None:
    """Note how the result of a function is computed again.

    Args:
        ctx: Context of the function.
        again: Computes the result from the context. It must not refer to it, or memory would wait
            for the garbage collector.
    """
    ctx.again = again


def note_same(ctx: Any, x: Tensor) -> None:
    """Note that the result of a function has the values of ``x``, if those can be computed again.

    Args:
        ctx: Context of the function.
        x: Argument of the function.
    """
    if torch.compiler.is_compiling():  # tensors have no nodes there
        return
    ctx.source = source_of(x)
    if ctx.source is not None:
        note(ctx, _of_source)


def _of_source(ctx: Any) -> Tensor:
    return compute(ctx.source)


def compute(node: Any) -> Tensor:
    """Compute the result of a function again, without a gradient.

    Args:
        node: What `source_of` returned.
    """
    with torch.no_grad():
        result: Tensor = node.again(node)
        return result


def release_weight(output: Tensor) -> None:
    """Let the backward pass of a layer compute its large weight again, if that is possible.

    Args:
        output: Output of a convolution or a linear layer.
    """
    node: Any = output.grad_fn
    while type(node).__name__ in ("UnsafeViewBackward0", "ViewBackward0"):  # of a linear layer
        node = node.next_functions[0][0]
    for name in ("weight", "mat2"):
        weight = getattr(node, f"_saved_{name}", None)
        if weight is None or weight.numel() < LARGE:
            continue
        source = source_of(weight if weight._base is None else weight._base)
        if source is None:
            continue
        again = partial(_computed, source, weight.size(), weight.stride(), weight.storage_offset())
        with contextlib.suppress(RuntimeError):  # others have hooks there, as checkpointing does
            getattr(node, f"_raw_saved_{name}").register_hooks(_nothing, again)


def _nothing(weight: Tensor) -> None:
    """Return what is kept of a weight."""


def _computed(
    source: Any, size: Sequence[int], stride: Sequence[int], offset: int, nothing: None
) -> Tensor:
    """Return a weight, laid out as it was."""
    return compute(source).as_strided(size, stride, offset)

"""Exchange the modules of a model for ones that can be quantized inside, and back."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from qbench.errors import QbenchError
from qbench.quant.exchange import transposed
from qbench.quant.exchange.attention import Attention
from qbench.quant.exchange.fused import FusedAttention

_SWIN = "torchvision.models.swin_transformer"


def exchange(model: nn.Module) -> None:
    """Exchange attention and transposed convolutions, in place.

    Exchanged are ``nn.MultiheadAttention``, torchvision's attention in shifted windows, timm's
    attention, and transposed convolutions. Subclasses with a forward pass of their own stay as they
    are, and so do transposed convolutions whose weight is shared or computed.

    Args:
        model: Any module. It computes the same afterwards, and has the same ``state_dict``.
    """
    uses = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    for module in list(model.modules()):
        for kind in _attention_classes():
            if kind.accepts(module):
                kind.exchange(module)
        if transposed.accepts(module) and uses[id(module.weight)] == 1:
            transposed.exchange(module)
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # nested tensors pass by the attention of layers


def restore(model: nn.Module, kept: Collection[nn.Module] = ()) -> None:
    """Make exchanged modules what they were, unless one of their layers is to be quantized.

    Args:
        model: Model whose modules `exchange` has exchanged.
        kept: Layers that are quantized.

    Raises:
        QbenchError: Attention that adds a key to its sequence is to be quantized.
    """
    kept = set(kept)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.TransformerEncoder) and kept.isdisjoint(module.modules()):
            module.use_nested_tensor = module.enable_nested_tensor
        if not is_exchanged(module):
            continue
        if kept.isdisjoint(module.modules()):
            module.restore()
        elif isinstance(module, Attention) and (module.bias_k is not None or module.add_zero_attn):
            raise QbenchError(
                f"'{name}' adds a key and a value to its sequence (bias_k or add_zero_attn), which "
                f"cannot be quantized; leave it out with layers={['*', f'!{name}.*']}"
            )


@contextmanager
def exchanged(model: nn.Module) -> Iterator[None]:
    """Context manager in which the modules of a model are exchanged.

    Args:
        model: Any module. Modules that were exchanged before stay so.
    """
    before = {module for module in model.modules() if is_exchanged(module)}
    exchange(model)
    try:
        yield
    finally:
        restore(model, before)


def is_exchanged(module: nn.Module) -> bool:
    """Return whether a module has an exchanged class."""
    return is_attention(module) or isinstance(module, transposed.TRANSPOSED)


def is_attention(module: nn.Module) -> bool:
    """Return whether a module is exchanged attention."""
    return isinstance(module, _attention_classes())


def _attention_classes() -> tuple[Any, ...]:
    if _SWIN not in sys.modules:  # slow to import, and then no module is of its classes
        return Attention, FusedAttention
    from qbench.quant.exchange.windows import WindowAttention, WindowAttentionV2

    return Attention, FusedAttention, WindowAttention, WindowAttentionV2

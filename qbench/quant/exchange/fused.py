"""Attention that calls ``scaled_dot_product_attention``, as timm's does, in steps.

timm has many modules of attention. All of them call their projections, and ask torch for both
products at once if ``fused_attn`` is true. Here that call is computed in steps, whose factors pass
through submodules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from qbench.quant.exchange.attention import (
    PRODUCT_INPUTS,
    add_product_inputs,
    observes_products,
    remove_product_inputs,
)
from qbench.quant.exchange.classes import Exchanged, exchanged_class

_SWITCH = "fused_attn"  # timm's name of the attribute that chooses the call


class FusedAttention(Exchanged):
    """Mixin of attention whose fused call is computed in steps once a factor is quantized."""

    original_switch: bool
    original_softmax: tuple[nn.Module, ...]  # a tuple, so that it is no submodule

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Return whether a module can be exchanged."""
        names = set(PRODUCT_INPUTS) - {"softmax"}
        kind = type(module)
        return (
            kind.__module__.startswith("timm.")
            and hasattr(module, _SWITCH)
            and not isinstance(module, cls)
            and names.isdisjoint(module._modules)
            and isinstance(module._modules.get("softmax", nn.Softmax()), nn.Softmax)
        )

    @classmethod
    def exchange(cls, module: nn.Module) -> None:
        """Exchange the class of a module, in place."""
        own = module._modules.pop("softmax", None)  # which the fused call does not use
        mixin: Any = cls
        original: Any = type(module)
        module.__class__ = exchanged_class(mixin, original)
        module.original_switch = getattr(module, _SWITCH)
        module.original_softmax = () if own is None else (own,)  # type: ignore[assignment]
        setattr(module, _SWITCH, True)
        add_product_inputs(module)

    def restore(self) -> None:
        """Make the module what it was."""
        remove_product_inputs(self)
        setattr(self, _SWITCH, self.original_switch)
        if self.original_softmax:
            self.add_module("softmax", self.original_softmax[0])
        del self.original_switch, self.original_softmax
        self.__class__ = type(self).__bases__[1]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Attend as the original class does."""
        if not observes_products(self):
            return super().forward(*args, **kwargs)
        with _InSteps(self):
            return super().forward(*args, **kwargs)


class _InSteps(TorchFunctionMode):
    """Computes the fused call of a module in steps.

    Args:
        module: Attention that is exchanged.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module: Any = module

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        """Compute what ``scaled_dot_product_attention`` computes, with the same arguments."""
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        module = self._module
        scores = module.query(query) @ module.key(key).transpose(-2, -1) * scale
        if is_causal:
            attn_mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = F.dropout(module.softmax(scores.softmax(-1)), dropout_p)
        mixed: Tensor = weights @ module.value(value)
        return mixed

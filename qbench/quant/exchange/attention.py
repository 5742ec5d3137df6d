"""``nn.MultiheadAttention`` in steps, so that projections and products can be quantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

PRODUCT_INPUTS = ("query", "key", "softmax", "value")
"""Submodules of attention that the factors of its two products pass through, in their order."""


def add_product_inputs(module: nn.Module) -> None:
    """Add the submodules that the factors of the products pass through.

    Args:
        module: Attention that is exchanged. They are identities until quantizers are attached.
    """
    for name in PRODUCT_INPUTS:
        module.add_module(name, nn.Identity())


def remove_product_inputs(module: nn.Module) -> None:
    """Remove what `add_product_inputs` has added."""
    for name in PRODUCT_INPUTS:
        delattr(module, name)


def observes_products(module: nn.Module) -> bool:
    """Return whether a hook quantizes or observes a factor of the products of attention."""
    inputs = [module._modules[name] for name in PRODUCT_INPUTS]
    return any(m is not None and (m._forward_pre_hooks or m._forward_hooks) for m in inputs)


class InputProjection(nn.Linear):
    """Projection to queries, keys and values, of which a call may compute a part."""

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Project ``x``, (…, in), with the rows of the weight from ``start`` to ``stop``."""
        return F.linear(x, self.weight[start:stop])


class Attention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` whose projections are layers that it calls.

    ``in_proj_weight`` is the weight of the layer ``in_proj``; with inputs of different sizes,
    ``q_proj_weight`` is that of ``q_proj``, and so on. Biases stay where they are. States have the
    names of ``nn.MultiheadAttention``. While no factor of the products is quantized,
    ``scaled_dot_product_attention`` computes them.
    """

    query: nn.Module
    key: nn.Module
    softmax: nn.Module
    value: nn.Module
    in_proj: nn.Module
    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Return whether a module can be exchanged."""
        return type(module) is nn.MultiheadAttention

    @classmethod
    def exchange(cls, module: nn.Module) -> None:
        """Exchange the class of a module, in place."""
        output = module._modules.pop("out_proj")
        for name in ("in_proj", "q_proj", "k_proj", "v_proj"):
            weight = module._parameters[f"{name}_weight"]
            if weight is not None:
                with torch.device("meta"):
                    layer = InputProjection(weight.shape[1], weight.shape[0], bias=False)
                layer.weight = weight
                layer.train(module.training)
                module.add_module(name, layer)
                module._parameters[f"{name}_weight"] = None
        module._modules["out_proj"] = output
        module.__class__ = cls
        module._qkv_same_embed_dim = False  # type: ignore[assignment]  # else layers bypass it
        add_product_inputs(module)

    def restore(self) -> None:
        """Make the module what it was."""
        for name, layer in self._projections():
            self._parameters[f"{name}_weight"] = layer.weight
            del self._modules[name]
        self._qkv_same_embed_dim = self._parameters["in_proj_weight"] is not None
        remove_product_inputs(self)
        self.__class__ = nn.MultiheadAttention  # type: ignore[assignment]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as ``nn.MultiheadAttention`` does."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask: pass the mask too")
        batched = query.dim() == 3
        inputs = _batch_first((query, key, value), batched, self.batch_first)
        q, k, v = (self._heads(x) for x in self._project(*inputs))
        mask = self._mask(attn_mask, key_padding_mask, q.dtype)
        if need_weights or observes_products(self):
            scores = self.query(q) @ self.key(k).transpose(-2, -1) * self.head_dim**-0.5
            scores = scores if mask is None else scores + mask
            weights = F.dropout(self.softmax(scores.softmax(-1)), self.dropout, self.training)
            mixed = weights @ self.value(v)
        else:
            dropout = self.dropout if self.training else 0.0
            weights = None
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out if self.batch_first else out.transpose(0, 1)
        if need_weights and weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            weights = None
        if not batched:
            out = out.squeeze(0 if self.batch_first else 1)
            weights = None if weights is None else weights.squeeze(0)
        return out, weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        """Return queries, keys and values, (N, L, E) each."""
        if "in_proj" not in self._modules:
            parts = [self.q_proj(query), self.k_proj(key), self.v_proj(value)]
        elif query is key and key is value:
            parts = list(self.in_proj(query).chunk(3, -1))
        elif key is value:
            both = self.in_proj(key, self.embed_dim)
            parts = [self.in_proj(query, 0, self.embed_dim), *both.chunk(2, -1)]
        else:
            size = self.embed_dim
            inputs = enumerate((query, key, value))
            parts = [self.in_proj(x, i * size, (i + 1) * size) for i, x in inputs]
        bias = self._parameters["in_proj_bias"]
        if bias is None:
            return parts
        return [x + b for x, b in zip(parts, bias.chunk(3), strict=True)]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Any:
        """Return the sum of both masks, to be added to (N, heads, L, S), or None."""
        mask, padding = _additive(mask, dtype), _additive(padding, dtype)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, self.num_heads))
        if padding is None:
            return mask
        padding = padding[..., None, None, :]
        return padding if mask is None else mask + padding

    def _projections(self) -> list[tuple[str, Any]]:
        names = ("in_proj", "q_proj", "k_proj", "v_proj")
        return [(name, self._modules[name]) for name in names if name in self._modules]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state with the names and the order of ``nn.MultiheadAttention``."""
        prefix = kwargs.get("prefix", "")
        state = super().state_dict(*args, **kwargs)
        mine = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
        for name, _ in self._projections():
            if (own := f"{prefix}{name}.weight") in mine:
                state[f"{prefix}{name}_weight"] = mine.pop(own)
        state.update(mine)
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name, _ in self._projections():
            if (theirs := f"{prefix}{name}_weight") in state_dict:
                state_dict[f"{prefix}{name}.weight"] = state_dict.pop(theirs)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _batch_first(
    inputs: tuple[Tensor, Tensor, Tensor], batched: bool, is_first: bool
) -> list[Tensor]:
    """Return inputs as (N, L, E). Inputs that are one tensor stay one."""
    made: dict[int, Tensor] = {}
    for x in inputs:
        if id(x) not in made:
            y = x if batched else x.unsqueeze(0 if is_first else 1)
            made[id(x)] = y if is_first else y.transpose(0, 1)
    return [made[id(x)] for x in inputs]


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask to add: −∞ where a boolean one is true."""
    if mask is None or mask.dtype != torch.bool:
        return mask if mask is None else mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))

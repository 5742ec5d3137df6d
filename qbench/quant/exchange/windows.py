"""torchvision's attention in shifted windows, in steps that can be quantized."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from qbench.quant.exchange.attention import add_product_inputs, remove_product_inputs


class _InSteps(nn.Module):
    """Mixin of attention in shifted windows that calls its layers.

    torchvision reads the weights of ``qkv`` and ``proj``, and calls neither.
    """

    num_heads: int
    window_size: list[int]
    shift_size: list[int]
    dropout: float
    attention_dropout: float

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Return whether a module can be exchanged."""
        return type(module) is cls.__bases__[1]

    @classmethod
    def exchange(cls, module: nn.Module) -> None:
        """Exchange the class of a module, in place."""
        module.__class__ = cls
        add_product_inputs(module)

    def restore(self) -> None:
        """Make the module what it was."""
        remove_product_inputs(self)
        self.__class__ = type(self).__bases__[1]

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows of ``x``, (N, H, W, C)."""
        height, width = x.shape[1:3]
        down, right = (
            -size % window for size, window in zip((height, width), self.window_size, strict=True)
        )
        x = F.pad(x, (0, 0, 0, right, 0, down))
        size = x.shape[1:3]
        shift = [  # a window that covers the whole image is not shifted
            0 if window >= length else by
            for by, window, length in zip(self.shift_size, self.window_size, size, strict=True)
        ]
        x = x.roll((-shift[0], -shift[1]), (1, 2)) if any(shift) else x
        out = self._attend(self._windows(x), self._shift_mask(size, shift, x))
        rows, columns = (n // w for n, w in zip(size, self.window_size, strict=True))
        out = out.view(-1, rows, columns, *self.window_size, out.shape[-1])
        out = out.transpose(2, 3).reshape(-1, *size, out.shape[-1])
        out = out.roll((shift[0], shift[1]), (1, 2)) if any(shift) else out
        return out[:, :height, :width].contiguous()

    def _windows(self, x: Tensor) -> Tensor:
        """Return the windows of ``x``, (N·windows, tokens, C)."""
        n, height, width, channels = x.shape
        down, across = self.window_size
        x = x.view(n, height // down, down, width // across, across, channels)
        return x.transpose(2, 3).reshape(-1, down * across, channels)

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window, (windows, tokens, C)."""
        module: Any = self
        count, tokens, channels = x.shape
        qkv = module.qkv(x)
        scale = getattr(self, "logit_scale", None)
        if scale is not None and module.qkv.bias is not None:  # keys of version 2 have no bias
            none = torch.zeros_like(module.qkv.bias[:channels])
            qkv = qkv - torch.cat([none, module.qkv.bias[channels : 2 * channels], none])
        shape = (count, tokens, 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.reshape(shape).permute(2, 0, 3, 1, 4)
        if scale is None:
            scores = module.query(q) @ module.key(k).transpose(-2, -1) * q.shape[-1] ** -0.5
        else:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            scores = module.query(q) @ module.key(k).transpose(-2, -1)
            scores = scores * scale.clamp(max=math.log(100.0)).exp()
        scores = scores + module.get_relative_position_bias()
        if mask is not None:
            scores = scores.unflatten(0, (-1, len(mask))) + mask[:, None]
            scores = scores.flatten(0, 1)
        weights = module.softmax(scores.softmax(-1))
        weights = F.dropout(weights, self.attention_dropout, self.training)
        mixed = (weights @ module.value(v)).transpose(1, 2).reshape(count, tokens, channels)
        return F.dropout(module.proj(mixed), self.dropout, self.training)

    def _shift_mask(self, size: torch.Size, shift: list[int], x: Tensor) -> Tensor | None:
        """Return −100 for tokens of a window that the shift has joined, (windows, tokens, tokens).

        None if nothing is shifted.
        """
        if not any(shift):
            return None
        regions = []
        for length, window, by in zip(size, self.window_size, shift, strict=True):
            place = torch.arange(length, device=x.device)
            regions.append(
                (place >= length - window).int() + (by > 0) * (place >= length - by).int()
            )
        region = (3 * regions[0][:, None] + regions[1])[None, :, :, None]
        tokens = self._windows(region).flatten(1)
        apart = tokens[:, None] != tokens[:, :, None]
        return torch.zeros_like(apart, dtype=x.dtype).masked_fill_(apart, -100.0)


class WindowAttention(_InSteps, ShiftedWindowAttention):
    """Attention of Swin transformers that calls its layers."""


class WindowAttentionV2(_InSteps, ShiftedWindowAttentionV2):
    """Attention of Swin transformers of version 2 that calls its layers."""

"""A vision transformer for small grey images.

The plain form of Beyer et al. (arXiv:2205.01580): patches, fixed sines and cosines of both
coordinates as positions, blocks that normalise before attention and before the hidden layer, and
the mean of all tokens before the classifier. There is no class token and no learned position, so
one network takes images of any size::

    x = embed(patches) + positions
    x = x + attention(norm1(x));   x = x + fc2(gelu(fc1(norm2(x))))   in each block
    head(mean(norm(x)))

A patch has 4×4 pixels. With the padding of one pixel, a 14×14 image has 16 patches, which cover 16
rows and columns, and a 28×28 image has 49.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from qbench.models.network import Network

_PATCH = 4
_LONGEST = 10_000.0  # of the periods of positions, in units of 2π tokens


class VisionTransformerTiny(Network):
    """Vision transformer for images of 14×14 or 28×28 pixels, or any size from 2×2.

    Under the default layer policy, the patch embedding and the classifier stay in full precision:
    the four layers of each block are quantized, and both products of its attention.

    Args:
        num_classes: Number of outputs.
        in_channels: Number of channels of an image.
        width: Number of features of a token, a multiple of 4 and of ``heads``.
        depth: Number of blocks.
        heads: Number of heads of attention.
    """

    smallest = 2

    def __init__(
        self, num_classes: int, in_channels: int, width: int = 48, depth: int = 3, heads: int = 4
    ) -> None:
        blocks = [(f"block{i}", Block(width, heads)) for i in range(1, depth + 1)]
        super().__init__(
            OrderedDict(
                [
                    ("embed", nn.Conv2d(in_channels, width, _PATCH, stride=_PATCH, padding=1)),
                    ("positions", Positions()),
                    *blocks,
                    ("norm", nn.LayerNorm(width)),
                    ("mean", Mean()),
                    ("head", nn.Linear(width, num_classes)),
                ]
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)


class Positions(nn.Module):
    """Tokens of a map of features, with their positions added."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to tokens, (N, H·W, C)."""
        return x.flatten(2).transpose(1, 2) + positions(*x.shape[1:]).to(x)


def positions(channels: int, height: int, width: int) -> Tensor:
    """Return sines and cosines of the coordinates of each token.

    Args:
        channels: Number of features, a multiple of 4: a quarter of them each are the sine and the
            cosine of the column, and the sine and the cosine of the row.
        height: Number of rows.
        width: Number of columns.

    Returns:
        Positions, (height·width, channels), float32.
    """
    quarter = channels // 4
    rates = _LONGEST ** (-torch.arange(quarter) / max(1, quarter - 1))
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in (column, row)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1)


class Block(nn.Module):
    """Attention and a hidden layer, each added to its normalised input.

    Args:
        width: Number of features of a token.
        heads: Number of heads of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens, (N, L, width), to tokens of the same shape."""
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class Mean(nn.Module):
    """Mean of the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, L, C) to (N, C)."""
        return x.mean(1)

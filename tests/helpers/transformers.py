"""Tiny networks whose weights are not all in convolutions and linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer


def tiny_vit(num_classes: int = 10, in_channels: int = 3) -> VisionTransformer:
    """A ViT of two layers on images of 8 × 8."""
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=8,
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
        num_classes=num_classes,
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision's start is zero
    if in_channels != model.conv_proj.in_channels:
        model.conv_proj = nn.Conv2d(in_channels, 16, 4, 4)
    return model


def tiny_swin(num_classes: int = 10) -> SwinTransformer:
    """A Swin transformer of two blocks, one with shifted windows, on images of 16 × 16."""
    torch.manual_seed(0)
    return SwinTransformer(
        patch_size=[2, 2],
        embed_dim=16,
        depths=[2],
        num_heads=[2],
        window_size=[4, 4],
        num_classes=num_classes,
    )


class Recurrent(nn.Module):
    """An embedding, a bidirectional LSTM and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(self.embedding(x))[0])
        return out


class Functional(nn.Module):
    """Products of bare parameters: a standardized kernel, a matrix and an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.gain = nn.Parameter(torch.ones(4, 1, 1, 1))
        self.matrix = nn.Parameter(torch.randn(8, 16))
        self.last = nn.Parameter(torch.randn(8, 2))
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.gain * (self.kernel - self.kernel.mean((1, 2, 3), keepdim=True))
        x = torch.conv2d(x, kernel, padding=1).flatten(1)[:, :16]
        return torch.einsum("bi,io->bo", x @ self.matrix.t(), self.last) + self.bias

"""Bi-Real Net (Liu et al., ECCV 2018, arXiv:1808.00278).

Weights, 1 bit, for each filter (Section 3.3)::

    w_b = mean|w| · sign(w),   ∂w_b/∂w = mean|w| · 1[|w| < 1]

the magnitude-aware gradient; ``gradient: code`` leaves its factor mean|w| out, as the released
PyTorch code does.

Activations, 1 bit, with the derivative of a piecewise polynomial (Eq. 7–8)::

    x_b = sign(x),   ∂x_b/∂x = 2 + 2x where −1 ≤ x < 0,   2 − 2x where 0 ≤ x < 1,   else 0

The network has a shortcut around every binary convolution and no ReLU: a block is sign,
convolution, normalisation, + the block's input; max-pooling, if any, comes before normalisation.
Where the shape changes, the shortcut averages over the stride and goes through a full-precision 1×1
convolution with normalisation if the network has one there, else channels are repeated.

Departures. A residual block of the network that is not torchvision's basic one keeps its own
shortcut as well, and a bottleneck has no other. The paper trains in three stages, with leaky and
plain clips in place of signs before them; here one training starts from the recipe's weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.functional import filter_dims, sign, straight_through
from qbench.method import (
    RELU,
    Bits,
    Layer,
    Method,
    Recipe,
    Scope,
    pool_before_norm,
    replace_modules,
)

After = Callable[[int], nn.Module]


class BiReal(Method):
    """Binary weights and activations, a shortcut around every convolution.

    Options:
        gradient: of weights: with the paper's factor mean|w|, or without, as the released code.
    """

    name = "bireal"
    title = "Bi-Real"
    paper = "Liu et al., ECCV 2018, arXiv:1808.00278"
    quantizes = "weights and activations, 1 bit"
    paper_recipe = Recipe(
        optimizer="adam",
        lr=1e-3,
        schedule="linear",
        epochs=256,
        batch_size=512,
        weight_decay=0.0,
        initialization="scratch",
    )
    gradient: Literal["paper", "code"] = "paper"

    @property
    def weight_scope(self) -> Scope:
        """Every filter has its own scale."""
        return "filter"

    def supports(self, bits: Bits, task: str) -> str | None:
        """1/1."""
        if bits.weights.bits != 1 or bits.activations.bits != 1:
            return "its weights and activations have 1 bit"
        return None

    def prepare(self, model: nn.Module, bits: Bits) -> nn.Module:
        """Shortcuts, no ReLU, pooling before normalisation."""
        return add_shortcuts(pool_before_norm(model), lambda channels: nn.Identity())

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> BinaryFilters:
        """w_b."""
        return BinaryFilters(magnitude_aware=self.gradient == "paper")

    def input_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        """x_b."""
        return PolynomialSign()


class BinaryFilters(nn.Module):
    """w_b = mean|w| · sign(w), the mean over each filter and without gradient.

    Args:
        magnitude_aware: scale the gradient with mean|w| too.
    """

    def __init__(self, magnitude_aware: bool) -> None:
        super().__init__()
        self.magnitude_aware = magnitude_aware

    def forward(self, w: Tensor) -> Tensor:
        """Binarise ``w``, (out, in, …)."""
        size = w.detach().abs().mean(filter_dims(w), keepdim=True)
        window = w.clamp(-1, 1)
        return straight_through(size * window if self.magnitude_aware else window, size * sign(w))


class PolynomialSign(nn.Module):
    """x_b = sign(x), with a triangle for its derivative."""

    def forward(self, x: Tensor) -> Tensor:
        """Binarise ``x``, any shape."""
        c = x.clamp(-1, 1)
        return straight_through(c * (2 - c.abs()), sign(x))  # (2 − |x|) x has slope 2 − 2|x|


class Shortcut(nn.Module):
    """A convolution and its normalisation, plus their input, then what follows.

    Args:
        convolution: the convolution.
        norm: its normalisation, after pooling if there is any.
        after: what follows the sum.
        downsample: the shortcut where shapes differ; None: average and repeat.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        norm: nn.Module,
        after: nn.Module,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.convolution, self.norm, self.after = convolution, norm, after
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) as the convolution does."""
        y: Tensor = self.norm(self.convolution(x))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        if shortcut.shape[2:] != y.shape[2:]:
            shortcut = F.adaptive_avg_pool2d(shortcut, (y.shape[2], y.shape[3]))
        if shortcut.shape[1] != y.shape[1]:
            times = -(-y.shape[1] // shortcut.shape[1])
            shortcut = shortcut.repeat(1, times, 1, 1)[:, : y.shape[1]]
        passed: Tensor = self.after(y + shortcut)
        return passed


class FloatConvolution(nn.Module):
    """A convolution that no layer policy takes for one to quantize: it stays full precision.

    Args:
        convolution: whose weight to use.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = convolution.weight

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, stride 1."""
        return F.conv2d(x, self.weight)


def add_shortcuts(model: nn.Module, after: After) -> nn.Module:
    """Put a shortcut around every convolution but the first, and take ReLUs away, in place.

    Args:
        model: a network of ``nn.Sequential`` blocks (convolution, normalisation, ReLU), or of
            torchvision's basic residual blocks.
        after: builds what follows a sum, from its number of channels.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            parts = ("conv1", "bn1", "conv2", "bn2", "downsample")
            if all(hasattr(child, part) for part in parts) and not hasattr(child, "conv3"):
                setattr(parent, name, _two_shortcuts(child, after))
    for parent in list(model.modules()):
        if isinstance(parent, nn.Sequential) and not isinstance(parent, _Shortcuts):
            _rewrite(parent, first, after)
    return replace_modules(model, RELU, nn.Identity)


class _Shortcuts(nn.Sequential):
    """A residual block turned into two shortcuts."""


def _two_shortcuts(block: nn.Module, after: After) -> _Shortcuts:
    """Turn a basic residual block of torchvision into two convolutions with a shortcut each."""
    halves = []
    for number, (convolution, norm) in enumerate(
        ((block.conv1, block.bn1), (block.conv2, block.bn2))
    ):
        assert isinstance(convolution, nn.Conv2d)  # noqa: S101
        assert isinstance(norm, nn.Module)  # noqa: S101
        downsample = None
        if number == 0 and isinstance(block.downsample, nn.Sequential):
            one, its_norm = block.downsample[0], block.downsample[1]
            assert isinstance(one, nn.Conv2d)  # noqa: S101
            pool = nn.AvgPool2d(one.stride, ceil_mode=True)  # type: ignore[arg-type]
            downsample = nn.Sequential(pool, FloatConvolution(one), its_norm)
        halves.append(Shortcut(convolution, norm, _like(convolution, after), downsample))
    return _Shortcuts(*halves)


def _rewrite(block: nn.Sequential, first: nn.Module | None, after: After) -> None:
    """Gather convolution, pooling, normalisation and ReLU of a sequence into shortcuts."""
    parts = list(block.named_children())
    for i, (name, convolution) in enumerate(parts):
        square = isinstance(convolution, nn.Conv2d) and convolution.kernel_size != (1, 1)
        if not square or convolution is first:
            continue
        assert isinstance(convolution, nn.Conv2d)  # noqa: S101
        pools = itertools.takewhile(lambda part: isinstance(part[1], nn.MaxPool2d), parts[i + 1 :])
        following = parts[i + 1 : i + 2 + len(list(pools))]
        if following and isinstance(following[-1][1], nn.BatchNorm2d):
            modules = [part for _, part in following]
            norm = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
            setattr(block, name, Shortcut(convolution, norm, _like(convolution, after)))
            for other, _ in following:
                setattr(block, other, nn.Identity())


def _like(convolution: nn.Conv2d, after: After) -> nn.Module:
    """Put what follows a convolution's sum on its device, in its dtype."""
    return after(convolution.out_channels).to(convolution.weight)

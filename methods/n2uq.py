"""N2UQ: nonuniform-to-uniform quantization (Liu et al., CVPR 2022, arXiv:2111.14826).

Activations, k bits, with n = 2^k − 1 learned thresholds and n + 1 levels that are evenly spaced
from 0 to 2. In the authors' code, with learned s₁ and s₂, a start b and widths a_1 … a_n::

    x' = s₁ x,   T_i = b + a_1 + … + a_(i−1)
    x_q = s₂ · (2/n) · #{i: x' > T_i + a_i/2}

The gradient is that of the function that rises by 2/n over each interval [T_i, T_i + a_i]
(generalized straight-through estimator)::

    ∂x_q/∂x' = s₂ (2/n)/a_i in interval i,   0 before the first and after the last

and likewise for b and a. Widths start at 2/n and have a floor of 10⁻³; b starts at 0, s₁ and s₂ at
1.

Weights, for each filter (entropy-preserving regularization)::

    s = (2^k − 1)/2^(k−1) · mean|w|,   c = clip(w/s, −1, 1)
    w_q = s · (2 [(c + 1) n/2]/n − 1),   ∂w_q/∂w = 1

Before each quantizer, and after each residual sum, comes ReActNet's RPReLU. The ReLU after the
first convolution of a residual network stays.

Departures. The authors divide the gradient of the weights by s, which their Adam cancels: a factor
of 14 to 40 in a ResNet-18 at its initialization, at 2 bits. They train on the distribution of a
ResNet-101 as a teacher; here, with ``recipe: paper``, on that of the network in full precision, and
otherwise on labels. A residual block that is not torchvision's keeps its order,
with RPReLU in place of each ReLU.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qbench.functional import cell_sums, clip, fake_quantize, filter_dims, to_levels
from qbench.method import (
    BitWidths,
    Field,
    Integers,
    Layer,
    Method,
    PerChannel,
    Recipe,
    Teacher,
    Uniform,
)
from qbench.quant.surgery import relu_channels

from .react_net import RPReLU

_RANGE, _LEAST_WIDTH = 2.0, 1e-3


class N2UQ(Method):
    """Learned thresholds of activations with evenly spaced levels.

    Attributes:
        lr_factor: Learning rate of the quantizers divided by that of the network.
    """

    name = "n2uq"
    title = "N2UQ"
    paper = "Liu et al., CVPR 2022, arXiv:2111.14826"
    weights = Uniform(granularity=PerChannel(), scales=1)
    activations = Integers(bits=range(1, 9), signed=False)
    paper_recipe = Recipe(
        optimizer="adam", lr=1.25e-3, schedule="linear", epochs=128, batch_size=256,
        initialization="pretrained", teacher=Teacher(),
    )  # fmt: skip
    lr_factor: Annotated[float, Field(gt=0)] = 0.1

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Put an RPReLU before each quantizer and after each sum, if inputs are quantized."""
        return model if bits.activations.is_float else put_rprelus(model)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> EntropyPreserved:
        """Build w_q."""
        return EntropyPreserved(layer.weight_bits.bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> LearnedThresholds:
        """Build x_q."""
        return LearnedThresholds(layer.activation_bits.bits)


def put_rprelus(model: nn.Module) -> nn.Module:
    """Replace torchvision's residual blocks by those of N2UQ, and other ReLUs by RPReLUs.

    Args:
        model: Model to change, in place. The first ReLU of a network with torchvision's blocks
            stays.
    """
    blocks = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if all(hasattr(child, part) for part in ("conv1", "bn1", "conv2", "bn2", "downsample"))
    ]
    for parent, name, child in blocks:
        setattr(parent, name, Block(child))
    if blocks:
        return model
    for path, channels in relu_channels(model).items():
        place, _, own = path.rpartition(".")
        relu = RPReLU(channels).to(next(model.parameters()))
        setattr(model.get_submodule(place), own, relu)
    return model


class Block(nn.Module):
    """Residual block with an RPReLU before each convolution and after the sum.

    Args:
        block: Residual block of torchvision.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        numbers = [i for i in (1, 2, 3) if hasattr(block, f"conv{i}")]
        convolutions = [block.get_submodule(f"conv{i}") for i in numbers]
        self.steps = nn.Sequential()
        for i, convolution in zip(numbers, convolutions, strict=True):
            assert isinstance(convolution, nn.Conv2d)  # noqa: S101
            before = RPReLU(convolution.in_channels).to(convolution.weight)
            self.steps.extend((before, convolution, block.get_submodule(f"bn{i}")))
        downsample = block.downsample
        self.downsample = downsample if isinstance(downsample, nn.Module) else nn.Identity()
        outputs = convolutions[-1].get_parameter("weight")
        self.after = RPReLU(outputs.shape[0]).to(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) as the block does."""
        y: Tensor = self.after(self.steps(x) + self.downsample(x))
        return y


class EntropyPreserved(nn.Module):
    """w_q of each filter.

    Args:
        bits: Bit-width k.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.n = 2**bits - 1
        self.gamma = self.n / 2 ** (bits - 1)

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        v = w.detach()
        s = self.gamma * v.abs().mean(filter_dims(v), keepdim=True)
        s = s.clamp(min=torch.finfo(v.dtype).tiny)
        return fake_quantize(w, 2 * s / self.n, 0, self.n, offset=-s, inside="all")


class LearnedThresholds(nn.Module):
    """x_q = s₂ · (2/n) · #{i: s₁ x > T_i + a_i/2}.

    Args:
        bits: Bit-width k.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.n = 2**bits - 1
        self.step = _RANGE / self.n
        self.start = nn.Parameter(torch.tensor(0.0))  # b
        self.widths = nn.Parameter(torch.full((self.n,), self.step))  # a
        self.input_scale = nn.Parameter(torch.tensor(1.0))  # s₁
        self.output_scale = nn.Parameter(torch.tensor(1.0))  # s₂

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        widths = clip(self.widths, _LEAST_WIDTH, closed="neither").to(x.dtype)
        starts = self.start.to(x.dtype) + widths.cumsum(0) - widths  # T
        scales = self.input_scale.to(x.dtype), self.output_scale.to(x.dtype)
        return _CountThresholds.apply(x, *scales, starts, widths)


class _CountThresholds(torch.autograd.Function):
    """x_q, and its gradients from sums over the halves of the intervals [T_i, T_i + a_i]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, s1: Tensor, s2: Tensor, starts: Tensor, widths: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, s1, s2, starts, widths)
        codes = torch.arange(len(widths) + 1, dtype=x.dtype, device=x.device)
        return to_levels(s1 * x, starts + widths / 2, s2 * (_RANGE / len(widths) * codes))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        x, s1, s2, starts, widths = ctx.saved_tensors
        v, step = s1 * x, _RANGE / len(widths)
        rise = s2 * step / widths  # of x_q in interval i
        ends = torch.cat([starts, starts[-1:] + widths[-1:]])
        slopes = nn.functional.pad(s1 * rise, (1, 1))  # 0 before the first and after the last
        # Thresholds and middles in turn: interval i consists of cells 2i − 1 and 2i, of code i.
        halves = torch.stack([starts, starts + widths / 2], 1).flatten()
        halves = torch.cat([halves, ends[-1:]])
        of_g, of_gx = (cell_sums(v, halves, each)[1].to(x.dtype) for each in (g, g * x))
        codes = torch.arange(len(of_g), device=x.device) // 2
        to_g, to_gx = (each[1:-1].reshape(-1, 2).sum(1) for each in (of_g, of_gx))
        return (
            g * to_levels(v, ends, slopes),
            (rise * to_gx).sum(),
            step * (codes * of_g).sum(),
            -rise * to_g,
            -rise * (s1 * to_gx - starts * to_g) / widths,
        )

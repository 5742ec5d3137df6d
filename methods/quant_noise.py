"""Quant-Noise (Fan, Stock et al., ICLR 2021, arXiv:2004.07320), for integers.

In training a random share p of the weights, drawn for each pass, is quantized, and the others pass
as they are. So most gradients are exact, in place of straight-through estimates for all weights. In
evaluation all weights are quantized::

    w' = q(w) with probability p,   else w;   ∂w'/∂w = 1
    q(w) = (clip([w/s + z], 0, 2^k − 1) − z) · s

s and z cover the range of the weights of the layer, as in ``jacob``. Activations have the same
noise. Their range is that of a batch, taken again every ``update_steps`` passes.

This is the authors' code for scalar quantization in fairseq with its method ``tensor``; the paper's
noise for product quantization is not here.

Departures. fairseq takes the range of weights again every 1,000 passes; here it is that of the
present ones. It quantizes the outputs of layers, here their inputs, and clips them to ±5, against
overflow in half precision. Its scalar code has 8 bits; here k is 2 to 8. The code for images is not
public, and so there is no recipe.
"""

from __future__ import annotations

import math
import zlib
from typing import Annotated

import torch
from torch import Tensor

from qbench.functional import straight_through
from qbench.method import Field, Integers, Layer, Method, Quantizer

from .jacob import affine


class QuantNoise(Method):
    """A random share of weights and activations is quantized in training, all in evaluation.

    Attributes:
        p: Share that is quantized.
        update_steps: Passes of training between two updates of the ranges of activations.
    """

    title = "Quant-Noise"
    paper = "Fan et al., ICLR 2021, arXiv:2004.07320"
    revision = 2
    weights = Integers(scales=2, offset=True)
    activations = Integers(signed=False, scales=2, offset=True)
    p: Annotated[float, Field(gt=0, le=1)] = 0.5
    update_steps: Annotated[int, Field(ge=1)] = 1000

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> NoisyWeight:
        """Build w'."""
        return NoisyWeight(layer, layer.weight_bits.bits, self.p)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> NoisyActivation:
        """Build the quantizer of inputs."""
        return NoisyActivation(layer, sample, self)


def chosen(seed: Tensor, p: float, like: Tensor) -> Tensor:
    """Return 1 with probability p, else 0: a function of a seed and of the position alone.

    Args:
        seed: Non-negative integer, a scalar below 2³¹.
        p: Probability, above 0.
        like: Tensor whose shape, dtype and device the result has.
    """
    start = (seed * 0x9E3779B1 + 2**31) % 2**32 - 2**31
    h = torch.arange(like.numel(), dtype=torch.int32, device=like.device)
    h += start.to(torch.int32)
    for _ in range(2):  # products of 32 bits wrap around
        h ^= (h >> 16).bitwise_and_(0xFFFF)
        h *= 0x45D9F3B
    h ^= (h >> 16).bitwise_and_(0xFFFF)
    return h.le_(math.ceil(p * 2**32) - 2**31 - 1).to(like.dtype).reshape(like.shape)


class _Noisy(Quantizer):
    """Base class of quantizers that quantize a share of their input in training.

    Args:
        layer: The layer; its name and the seed of the trial give the noise.
        bits: Bit-width k.
        p: Share that is quantized in training.
    """

    seed: Tensor

    def __init__(self, layer: Layer, bits: int, p: float) -> None:
        super().__init__()
        self.n, self.p = 2**bits, p
        seed = (torch.initial_seed() + zlib.crc32(layer.name.encode())) % 2**31
        self.register_buffer("seed", torch.tensor(seed))

    def noisy(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Quantize a share of ``x`` in training and all of it in evaluation."""
        latent = x.detach()
        quantized = affine(latent, low, high, self.n)
        if self.training:
            quantized = latent.lerp(quantized, chosen(self.seed, self.p, latent))
        return straight_through(x, quantized)

    def observe(self, x: Tensor) -> None:
        """Change the noise."""
        self.seed = (self.seed + 1) % 2**31


class NoisyWeight(_Noisy):
    """w' = q(w) with probability p, else w; arguments as of `_Noisy`."""

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, any shape."""
        return self.noisy(w, w.detach().min(), w.detach().max())


class NoisyActivation(_Noisy):
    """The same over a range that is kept.

    Args:
        layer: The layer; its name and the seed of the trial give the noise.
        sample: Values of the activation, any shape.
        method: The method, for its options.
    """

    passes: Tensor
    ends: Tensor

    def __init__(self, layer: Layer, sample: Tensor, method: QuantNoise) -> None:
        super().__init__(layer, layer.activation_bits.bits, method.p)
        self.update_steps = method.update_steps
        self.register_buffer("passes", torch.tensor(0))
        self.register_buffer("ends", torch.stack([sample.min(), sample.max()]))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        low, high = self.ends.to(x.dtype)
        return self.noisy(x, low, high)

    def observe(self, x: Tensor) -> None:
        """Change the noise, count the passes, and update the range."""
        super().observe(x)
        self.passes = self.passes + 1
        due = self.passes % self.update_steps == 0
        self.ends = torch.where(due, torch.stack([x.min(), x.max()]).to(self.ends), self.ends)

"""RepQ-ViT: scale reparameterization (Li et al., ICCV 2023, arXiv:2212.08254).

Post-training, for vision transformers. Weights and activations are affine, with the percentiles p
and 1 − p of least squared error as ends, p among 0.999, 0.9999 and 0.99999::

    q(x) = s · (clip([x/s] + z, 0, 2^k − 1) − z),   s = (b − a)/(2^k − 1),   z = [−a/s]

of each filter for weights, and of the whole tensor for activations. Two kinds of activations have
quantizers of their own.

Channels behind a layer normalization have very different ranges. Each channel c gets its s_c and
z_c first, then all share the mean s̃ and z̃ (Section 3.2). The normalization takes over what differs,
and the layer that reads it takes it back, so that the network computes the same::

    r = s/s̃,   t = s̃ (z̃ − z),   γ ← γ/r,   β ← β/r − t,   W ← W · r,   bias ← bias + W t

Outputs of a softmax are rounded to powers of √2, with s the percentile of least error, and small
ones to 0 (Section 3.3)::

    q(x) = s · √2^−c,   c = clip([−2 log2(x/s)], 0, 2^k − 1),   q(x) = 0 where c = 2^k − 1

Inputs of patch embeddings have 8 bits in the authors' code: with ``layers: all_but_image`` they
stay as they are.

Departures. z̃ is rounded to an integer; in the code it is the mean of integers, which leaves up to
2^k + 1 levels. The code has 2^k powers and 0 besides; here the smallest power is left out. Ranges
are those of the activations at full precision; in the code those of a network whose earlier layers
are quantized already, on 32 images. A layer without a bias behind a layer normalization, such as
the reduction of a Swin transformer, has one range for all channels; in the code it gets a bias.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from qbench.method import Integers, Layer, Method, PerChannel, Place
from qbench.quant.blocks import norm_readers
from qbench.quant.hooks import bypassed, record

PERCENTILES = (0.999, 0.9999, 0.99999)


class RepQViT(Method):
    """Post-training ranges of transformers, reparameterized behind layer normalizations."""

    name = "rep_q_vit"
    title = "RepQ-ViT"
    paper = "Li et al., ICCV 2023, arXiv:2212.08254"
    weights = Integers(signed=False, scales=2, offset=True, granularity=PerChannel())
    activations = Integers(signed=False, scales=2, offset=True)
    trains = False
    paper_layers = "all_but_image"

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> Affine:
        """Build the quantizer over the best percentiles of each filter."""
        return Affine(*grid_of_rows(weight, 2**layer.weight_bits.bits), 2**layer.weight_bits.bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        """Build the quantizer over the best percentiles, of powers of √2 behind a softmax."""
        n = 2**layer.activation_bits.bits
        inside = isinstance(layer, Place) and layer.kind == "attention"
        if inside and layer.name.rpartition(".")[2] == "softmax":
            return LogSqrt2(sample, n)
        s, z = best_grid(sample.reshape(1, -1), n)
        return Affine(s[0], z[0], n)

    @torch.no_grad()
    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        """Let the channels behind each layer normalization share a range."""
        uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
        for norm, layer in norm_readers(model, self.layers, batches[0]) if batches else []:
            bias = bias_of(model, layer)
            if bias is None or not isinstance(layer.activation_quantizer, Affine):
                continue
            changed = [norm.weight, norm.bias, bias, *layer.weight_parameters]
            if all(p is not None and uses[id(p)] == 1 for p in changed):
                with bypassed([*self.layers, *self.places]):
                    x = record(model, layer, batches, lambda x, y: x)
                self.reparameterize(norm, layer, bias, x)

    def reparameterize(self, norm: nn.LayerNorm, layer: Layer, bias: Tensor, x: Tensor) -> None:
        """Change a normalization and the layer that reads it, given the inputs of the layer."""
        n = 2**layer.activation_bits.bits
        s, z = best_grid(x.flatten(0, -2).t(), n)
        shared_s, shared_z = s.mean(), z.mean().round()
        r, t = s / shared_s, shared_s * (shared_z - z)
        norm.weight.div_(r)
        norm.bias.div_(r).sub_(t)
        with layer.latent_weight_may_change():
            weight = layer.latent_weight
            weight.mul_(r)
            bias.add_(weight @ t)
            if isinstance(layer.weight_quantizer, Affine):
                layer.weight_quantizer.set_grid(*grid_of_rows(weight, 2**layer.weight_bits.bits))
        assert isinstance(layer.activation_quantizer, Affine)  # noqa: S101
        layer.activation_quantizer.set_grid(shared_s, shared_z)


class Affine(nn.Module):
    """s · (clip([x/s] + z, 0, n − 1) − z).

    Args:
        scale: s; it broadcasts against what is quantized.
        zero_point: z; likewise.
        n: Number of levels.
    """

    step: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, n: int) -> None:
        super().__init__()
        self.n = n
        self.register_buffer("step", scale)
        self.register_buffer("zero_point", zero_point)

    def set_grid(self, scale: Tensor, zero_point: Tensor) -> None:
        """Change s and z."""
        self.step.copy_(scale)
        self.zero_point.copy_(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``."""
        s, z = self.step.to(x.dtype), self.zero_point.to(x.dtype)
        return s * (x / s).round().clamp(-z, self.n - 1 - z)


class LogSqrt2(nn.Module):
    """s · √2^−c, and 0.

    Args:
        sample: Outputs of a softmax, any shape.
        n: Number of levels, 0 among them.
    """

    step: Tensor

    def __init__(self, sample: Tensor, n: int) -> None:
        super().__init__()
        self.n = n
        tried = torch.quantile(sample.flatten(), sample.new_tensor(PERCENTILES))
        tried = tried.clamp(min=torch.finfo(sample.dtype).tiny)
        errors = [(self.quantize(sample, s) - sample).square().mean() for s in tried]
        self.register_buffer("step", tried[torch.stack(errors).argmin()])

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, values from 0 to 1."""
        return self.quantize(x, self.step.to(x.dtype))

    def quantize(self, x: Tensor, s: Tensor) -> Tensor:
        """Quantize ``x`` with a scale s."""
        code = (-2 * (x / s).log2()).round().clamp(0, self.n - 1)
        return torch.where(code < self.n - 1, s * (-code / 2).exp2(), 0)


def grid_of_rows(weight: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return s and z of every filter, which broadcast against a weight, (out, in, …)."""
    shape = (-1, *[1] * (weight.dim() - 1))
    s, z = best_grid(weight.flatten(1), n)
    return s.view(shape), z.view(shape)


def best_grid(rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return s and z of the percentiles of least squared error of every row, (rows,) each.

    Args:
        rows: Values that share a range as the rows of a matrix.
        n: Number of levels.
    """
    tiny = torch.finfo(rows.dtype).tiny
    grids, errors = [], []
    for p in PERCENTILES:
        a, b = (torch.quantile(rows, share, 1, keepdim=True) for share in (1 - p, p))
        s = torch.where(b > a, (b - a) / (n - 1), a.abs()).clamp(min=tiny)  # of one value: that
        z = torch.where(b > a, (-a / s).round(), (a < 0).to(a.dtype))
        grids.append(torch.cat([s, z], 1))
        found = s * (rows / s).round().clamp(-z, n - 1 - z)
        errors.append((found - rows).square().mean(1))
    best = torch.stack(errors).argmin(0)
    s, z = torch.stack(grids)[best, torch.arange(len(rows), device=best.device)].unbind(1)
    return s, z


def bias_of(model: nn.Module, layer: Layer) -> nn.Parameter | None:
    """Return the bias that is added to the output of a layer, or None.

    Args:
        model: Model that contains the layer.
        layer: A layer. The bias of the input projection of attention belongs to that.
    """
    if not isinstance(layer.module, nn.Linear):
        return None
    owner, _, name = layer.name.rpartition(".")
    parent = model.get_submodule(owner)
    inside = isinstance(parent, nn.MultiheadAttention) and name == "in_proj"
    found = parent.in_proj_bias if inside else layer.module.bias
    return found if isinstance(found, nn.Parameter) else None

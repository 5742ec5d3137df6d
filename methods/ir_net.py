"""IR-Net (Qin et al., CVPR 2020, arXiv:1909.10788).

Weights, 1 bit, for each filter: balanced and standardized, with a scale that is a power of two
(Libra parameter binarization)::

    ŵ = (w − mean w) / std w,   w_b = 2^[log2 mean|ŵ|] · sign(ŵ)

std divides by n − 1. The gradient passes through the mean and std, and not through the scale.

Activations, 1 bit::

    x_b = sign(x)

The derivative of both signs changes as training proceeds (error decay estimator)::

    g'(v) = k t (1 − tanh²(t v)),   t = T_min (T_max/T_min)^(e/E),   k = max(1/t, 1)

in epoch e = 0 … E − 1. T_max is 10. T_min is 10⁻³, and 10⁻¹ where activations stay at full
precision, as in the authors' code for CIFAR-10. Their code for ImageNet leaves k = 10 and t = ⅒.

The network has a shortcut around every binary convolution, as that of Bi-Real Net, a hard tanh
after each, and batch normalization before the classifier.

Departures. sign(0) is +1, as a 1-bit code has no zero. A filter of one weight is not standardized:
that would leave a zero. Where the shape changes, the shortcut is as ``bireal`` has it, which
averages over the stride before a full-precision 1×1 convolution; the authors' convolution has the
stride.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from qbench.functional import filter_dims, moments, two_levels
from qbench.method import Binary, BitWidths, Field, Layer, Method, PerChannel, Quantizer, Recipe
from qbench.quant.surgery import RELU, add_shortcuts, pool_before_norm, replace_modules

Temperature = Annotated[float, Field(gt=0)]


class IRNet(Method):
    """Balanced binary weights, and signs whose derivative narrows.

    Attributes:
        t_min: t in the first epoch. None: 10⁻³, or 10⁻¹ with full-precision activations.
        t_max: What t approaches.
    """

    name = "ir_net"
    title = "IR-Net"
    paper = "Qin et al., CVPR 2020, arXiv:1909.10788"
    weights = Binary(granularity=PerChannel(), required=True)
    activations = Binary(scales=0)
    paper_recipe = Recipe(
        optimizer="sgd", lr=0.8, nesterov=True, schedule="step", milestones=(30, 60, 90),
        epochs=100, batch_size=2048, warmup_epochs=4, weight_decay=1e-5,
    )  # fmt: skip
    t_min: Temperature | None = None
    t_max: Temperature = 10.0

    def paper_recipe_for(self, bits: BitWidths) -> Recipe:
        """Return the recipe, with more weight decay if activations stay at full precision."""
        decay = 1e-4 if bits.activations.is_float else 1e-5
        return self.paper_recipe.model_copy(update={"weight_decay": decay})

    def prepare(self, model: nn.Module, bits: BitWidths) -> nn.Module:
        """Add shortcuts, replace ReLUs by hard tanhs, and normalize before the classifier."""
        return hard_tanh_shortcuts(model)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> LibraWeight:
        """Build w_b."""
        return LibraWeight(*self._temperatures(layer))

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> DecayingSign:
        """Build x_b."""
        return DecayingSign(*self._temperatures(layer))

    def _temperatures(self, layer: Layer) -> tuple[float, float]:
        start = 1e-1 if layer.activation_bits.is_float else 1e-3
        return self.t_min or start, self.t_max


def hard_tanh_shortcuts(model: nn.Module) -> nn.Module:
    """Return the network of IR-Net: Bi-Real's shortcuts, each followed by a hard tanh.

    Args:
        model: Model to change, in place, as `add_shortcuts` takes it.
    """
    model = replace_modules(pool_before_norm(model), RELU, nn.Hardtanh)
    return norm_before_classifier(add_shortcuts(model, lambda channels: nn.Hardtanh()))


def norm_before_classifier(model: nn.Module) -> nn.Module:
    """Put batch normalization before the last linear layer, and return the model.

    Args:
        model: Model to change, in place. One without a linear layer stays as it is.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    for parent, name, child in found[-1:]:
        norm = FeatureNorm(child.in_features).to(child.weight)
        setattr(parent, name, nn.Sequential(norm, child))
    return model


class FeatureNorm(nn.BatchNorm1d):
    """Batch normalization of the last dimension, as a linear layer reads it."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x``, (N, …, C)."""
        return super().forward(x.flatten(0, -2)).view_as(x)


def filter_moments(w: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each filter.

    Args:
        w: Weight, (out, in, …). A filter of one weight is not standardized: its mean counts as 0,
            and its deviation as 1.
        epsilon: What is added to the variance of w.
    """
    if w[0].numel() == 1:
        return torch.zeros_like(w), torch.ones_like(w)
    return moments(w, epsilon)


def mean_size(w: Tensor, centre: Tensor, deviation: Tensor) -> Tensor:
    """Return mean|ŵ| of each filter, with ŵ = (w − centre) / deviation. No gradient.

    Args:
        w: Weight, (out, in, …).
        centre: Centre of each filter.
        deviation: Deviation of each filter.
    """
    distance = (w.detach() - centre.detach()).abs_()
    return distance.mean(filter_dims(w), keepdim=True) / deviation.detach()


class DecayingSign(Quantizer):
    """sign(v), with the derivative k t (1 − tanh²(t v)).

    Args:
        t_min: t in the first epoch.
        t_max: What t approaches.
    """

    temperature: Tensor

    def __init__(self, t_min: float, t_max: float) -> None:
        super().__init__()
        self.range = t_min, t_max
        self.register_buffer("temperature", torch.tensor(t_min))  # t

    def on_epoch_start(self, layer: Layer, epoch: int, epochs: int) -> None:
        """Set t."""
        low, high = self.range
        self.temperature.fill_(low * (high / low) ** ((epoch - 1) / epochs))

    def forward(self, v: Tensor) -> Tensor:
        """Binarize ``v``, any shape."""
        return two_levels(v, slope="tanh", reach=self.temperature)


class LibraWeight(DecayingSign):
    """w_b = 2^[log2 mean|ŵ|] · sign(ŵ), for each filter; arguments as of `DecayingSign`."""

    def forward(self, w: Tensor) -> Tensor:
        """Binarize ``w``, (out, in, …)."""
        mean, deviation = filter_moments(w, torch.finfo(w.dtype).tiny)
        scale = mean_size(w, mean, deviation).log2().round().exp2()
        return two_levels(
            w, scale, centre=mean, deviation=deviation, slope="tanh", reach=self.temperature
        )

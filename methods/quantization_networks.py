"""Quantization Networks (Yang et al., CVPR 2019, arXiv:1911.09464).

Quantization is a staircase of sigmoids onto integers Y_1 < … < Y_{n+1}, for weights and
activations alike. With scales s_i = Y_{i+1} − Y_i and offset o (½Σs_i for weights, which centres
them; 0 for activations, whose Y starts at 0)::

    training,   Eq. 7:  y = α ( Σ s_i σ(T(βx − b_i)) − o )
    evaluation, Eq. 5:  y = α ( Σ s_i A(βx − b_i) − o ),   A the unit step

α and β are learned with the network by the exact gradient of Eq. 7. The biases b are initialised
and stay. The temperature T grows with every epoch, T = rate · epoch, so that the soft function
approaches the hard one.

Initialisation (Section 4.1 and the released code)::

    β = 5p / 4q,  p = max|Y|,  q = max|x|;   α = 1/β
    b_i = midpoint of neighbouring centres of a k-means of βx into n + 1 clusters;
    the two biases around a zero level of weights are ∓0.05; a single one is 0

Levels: weights of k bits are {−1, 1} (k = 1) or −(2^(k−1) − 1)…2^(k−1) − 1 (so 2 bits are ternary),
``3(±2)`` and ``3(±4)`` as written; activations of k bits are 0…2^k − 1.

Departures. Weights and activations are quantized together from the first epoch; the paper adds
activations after weights have been trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from qbench.functional import hard_staircase, kmeans_1d, staircase
from qbench.method import Layer, Method, Width

ZERO_BIAS = 0.05


class QuantizationNetworks(Method):
    """A learned staircase of sigmoids that hardens as the temperature grows.

    Options:
        temperature_rate: T at the first epoch, and by how much it grows at every next one.
        biases: k-means midpoints, or evenly spaced thresholds (Table 5).
        learn_biases: train the biases too.
    """

    title = "Quantization Networks"
    paper = "Yang et al., CVPR 2019, arXiv:1911.09464"
    paper_recipe = {
        "optimizer": "sgd",
        "lr": 1e-3,
        "momentum": 0.9,
        "schedule": "step",
        "milestones": [30, 45],
        "gamma": 0.1,
        "epochs": 55,
        "batch_size": 256,
        "weight_decay": 1e-4,
        "gradient_clip": 5.0,
        "initialization": "pretrained",
    }
    temperature_rate: float = 5.0
    biases: Literal["k_means", "uniform"] = "k_means"
    learn_biases: bool = False

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> Staircase:
        """Zero-centred staircase."""
        levels = weight_levels(layer.weight_bits)
        return self._staircase(weight, levels, offset=(levels[-1] - levels[0]) / 2)

    def input_quantizer(self, layer: Layer, sample: Tensor) -> Staircase:
        """Staircase from zero."""
        return self._staircase(sample, range(2**layer.input_bits.bits), offset=0.0)

    def on_epoch_start(self, epoch: int, epochs: int) -> None:
        """T = rate · epoch, everywhere in the network."""
        for layer in self.layers:
            for quantizer in (layer.weight_quantizer, layer.input_quantizer):
                if isinstance(quantizer, Staircase):
                    quantizer.temperature.fill_(self.temperature_rate * epoch)

    def _staircase(self, x: Tensor, levels: Sequence[int], offset: float) -> Staircase:
        beta = 5 * max(abs(y) for y in levels) / (4 * x.abs().max().clamp(min=1e-8))
        if self.biases == "k_means":
            centres = kmeans_1d(x * beta, len(levels))
        else:
            centres = torch.tensor(levels, dtype=torch.float64)
        biases = (centres[1:] + centres[:-1]) / 2
        if offset and len(levels) == 2:
            biases = torch.zeros(1)
        elif offset and 0 in levels:
            zero = list(levels).index(0)
            biases[zero - 1], biases[zero] = -ZERO_BIAS, ZERO_BIAS
        return Staircase(levels, float(beta), biases, offset, self)


class Staircase(nn.Module):
    """The quantization function: Eq. 7 in training, Eq. 5 in evaluation.

    Args:
        levels: Y, ascending.
        beta: initial β; α starts at 1/β.
        biases: initial b, (n,).
        offset: o.
        options: the method, for its options.
    """

    scales: Tensor
    temperature: Tensor

    def __init__(
        self,
        levels: Sequence[int],
        beta: float,
        biases: Tensor,
        offset: float,
        options: QuantizationNetworks,
    ) -> None:
        super().__init__()
        self.offset = offset
        self.alpha = nn.Parameter(torch.tensor(1 / beta))
        self.beta = nn.Parameter(torch.tensor(beta))
        self.biases = nn.Parameter(biases.float(), requires_grad=options.learn_biases)
        self.register_buffer("scales", torch.tensor(levels, dtype=torch.float32).diff())
        self.register_buffer("temperature", torch.tensor(options.temperature_rate))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, any shape."""
        if self.training:
            return staircase(
                x, self.alpha, self.beta, self.biases, self.scales, self.offset, self.temperature
            )
        return hard_staircase(x, self.alpha, self.beta, self.biases, self.scales, self.offset)


def weight_levels(width: Width) -> tuple[int, ...]:
    """Y for weights of a width: its fixed levels, else all odd-many integers that fit."""
    if width.levels is not None:
        return width.levels
    top = 2 ** (width.bits - 1) - 1
    return tuple(range(-top, top + 1)) if top else (-1, 1)

"""QuEST without its Hadamard transform (Panferov et al., ICML 2025, arXiv:2502.05003).

Weights of each output channel, k bits, on 2^k levels that have the least squared error for a
Gaussian of the same root mean square σ::

    s = 2 α_k σ/(2^k − 1),   w_q = s ([clip(w, −α_k σ, α_k σ)/s + ½] − ½)

α_k is the least-squares clip: 0.798, 1.494, 2.051, 2.514, 2.916, 3.277, 3.601 and 3.885 times σ for
1 to 8 bits. There is no zero among the levels.

The gradient passes where the error can be trusted (trust estimator), which is up to half a step
beyond the outermost levels::

    ∂w_q/∂w = 1 where |w_q − w| ≤ s/2,   else 0

No gradient passes through σ.

In the paper weights and inputs are multiplied by a Hadamard matrix before they are quantized. This
is ``TrustQuantizer`` of the authors' code, which leaves that out.

Departures. The authors quantize inputs like weights, with σ of each token. Here activations have
the same levels and gradient, and σ² is that of the tensor: a running mean, in which a batch counts
1 %. After a ReLU, half of the levels have no values, as the levels are symmetric; 1 bit would leave
one, so activations have 2 bits or more. No recipe for images is public: the authors train language
models.
"""

from __future__ import annotations

from torch import Tensor

from qbench.functional import fake_quantize, filter_dims
from qbench.method import Layer, Method, PerChannel, Quantizer, Uniform

CLIPS = (
    *(0.7978845587140913, 1.4935346200015913, 2.051068354131873, 2.513930578568423),
    *(2.9160938834961225, 3.276597282593217, 3.6010497188221655, 3.884938678807525),
)
"""α_k for 1 to 8 bits."""
_MOMENTUM = 0.01
_EPSILON = 1e-8


class QuEST(Method):
    """Levels of least squared error for a Gaussian, and the trust estimator."""

    name = "quest"
    title = "QuEST (no Hadamard)"
    paper = "Panferov et al., ICML 2025, arXiv:2502.05003"
    weights = Uniform(granularity=PerChannel(), scales=1)
    activations = Uniform(bits=range(2, 9), scales=1)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> GaussianWeight:
        """Build w_q."""
        return GaussianWeight(layer.weight_bits.bits)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> GaussianActivation:
        """Build the quantizer of inputs."""
        return GaussianActivation(layer.activation_bits.bits, sample)


class GaussianWeight(Quantizer):
    """w_q = s ([clip(w, −α_k σ, α_k σ)/s + ½] − ½), for each output channel.

    Args:
        bits: Bit-width k.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.clip, self.steps = CLIPS[bits - 1], 2**bits - 1

    def deviation(self, w: Tensor) -> Tensor:
        """Return σ; it broadcasts against ``w``."""
        return w.detach().square().mean(filter_dims(w), keepdim=True).sqrt()

    def forward(self, w: Tensor) -> Tensor:
        """Quantize ``w``, (out, in, …)."""
        s = 2 * (self.clip * self.deviation(w).to(w.dtype) + _EPSILON) / self.steps
        last = (self.steps + 1) // 2  # of the codes, whose levels are half a step lower
        ends = last - self.steps, last
        return fake_quantize(w, s, *ends, offset=-s / 2, closed="both", inside="codes")


class GaussianActivation(GaussianWeight):
    """The same with a running σ of the tensor.

    Args:
        bits: Bit-width k.
        sample: Values of the activation, any shape.
    """

    square: Tensor

    def __init__(self, bits: int, sample: Tensor) -> None:
        super().__init__(bits)
        self.register_buffer("square", sample.square().mean())  # σ²

    def deviation(self, w: Tensor) -> Tensor:
        """Return σ."""
        return self.square.sqrt()

    def observe(self, x: Tensor) -> None:
        """Update σ²."""
        self.square.lerp_(x.square().mean().to(self.square.dtype), _MOMENTUM)

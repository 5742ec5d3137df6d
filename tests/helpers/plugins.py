"""Method files as text, most of which do wrong, for tests that load them."""

GOOD = '''
import torch
from qbench.functional import sign, straight_through
from qbench.method import Binary, Method

class MedianSign(Method):
    """Binary weights, scaled by the median of their sizes."""
    title = "Median sign"
    weights = Binary()
    factor: float = 1.0

    def weight_quantizer(self, layer, weight):
        return Scaled(self.factor)

class Scaled(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, w):
        size = self.factor * w.abs().median()
        return straight_through(w, size * sign(w))
'''

BAD = """
import os, sys, torch
from qbench.method import Learned, Method

class Base(Method):
    weights = Learned()
    activations = Learned()

class Raises(Base):
    def weight_quantizer(self, layer, weight):
        raise RuntimeError("no such luck")

class NotFinite(Base):
    def weight_quantizer(self, layer, weight):
        return Times(float("nan"))

class WrongShape(Base):
    def weight_quantizer(self, layer, weight):
        return torch.nn.Flatten(0)

class TooManyLevels(Base):
    def weight_quantizer(self, layer, weight):
        return Times(1.0)

class Exits(Base):
    def weight_quantizer(self, layer, weight):
        sys.exit(3)

class Dies(Base):
    def weight_quantizer(self, layer, weight):
        os._exit(9)

class SupportsRaises(Base):
    def supports(self, bits, task):
        raise ValueError("cannot say")

class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, w):
        return w * self.factor
"""

HARD_NOT_FINITE = """
import torch
from qbench.method import Learned, Method

class HardNotFinite(Method):
    weights = Learned()

    def weight_quantizer(self, layer, weight):
        return NotFiniteInEvaluation()

class HardInputNotFinite(Method):
    activations = Learned()

    def activation_quantizer(self, layer, sample):
        return NotFiniteInEvaluation()

class NotFiniteInEvaluation(torch.nn.Module):
    def forward(self, w):
        return w if self.training else w * float("nan")
"""

HOOKS = (
    "prepare",
    "weight_quantizer",
    "output_module",
    "calibrate",
    "on_epoch_start",
    "on_step_start",
    "before_optimizer_step",
    "after_optimizer_step",
    "regularization_loss",
    "parameter_groups",
)
WRONG = """
import ctypes, os, signal, time
import torch
from qbench.functional import sign, straight_through
from qbench.method import Binary, Method

class Sign(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, w):
        return straight_through(w, self.scale * sign(w))

class Base(Method):
    weights = Binary()

    def weight_quantizer(self, layer, weight):
        return Sign()

def raising(hook):
    def raises(self, *arguments, **named):
        raise RuntimeError(f"wrong in {hook}")
    return type(f"In_{hook}", (Base,), {hook: raises, "__module__": __name__})

for hook in HOOKS:
    globals()[f"In_{hook}"] = raising(hook)

class Hangs(Base):
    def on_epoch_start(self, epoch, epochs):
        while epoch == 2:
            pass

class Leaks(Base):
    kept = []
    def on_step_start(self, step, steps):
        self.kept.append(torch.ones(2**28))
        time.sleep(1)

class Prints(Base):
    def on_epoch_start(self, epoch, epochs):
        print("noise " * 2_000_000)

class Forks(Base):
    def on_epoch_start(self, epoch, epochs):
        os.fork()

class NanLater(Base):
    epoch = 0
    def on_epoch_start(self, epoch, epochs):
        type(self).epoch = epoch
    def regularization_loss(self):
        return torch.tensor(float("nan") if self.epoch == 3 else 0.0)

class Interrupts(Base):
    def before_optimizer_step(self):
        raise KeyboardInterrupt

class Crashes(Base):
    def on_epoch_start(self, epoch, epochs):
        os.abort()

class KillsItself(Base):
    def on_epoch_start(self, epoch, epochs):
        os.kill(os.getpid(), signal.SIGKILL)
""".replace("HOOKS", repr(HOOKS))

BOUNDED = """
from typing import Annotated, Literal
from qbench.method import Field, Method, Recipe

class Bounded(Method):
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    shares: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    paper_recipe = Recipe(optimizer="sgd", lr=0.1, epochs=9, batch_size=8)
"""

RUNNING = '''
"""Uniform levels: a learned scale for each group of weights, a running range of the inputs.

Weights, k bits, for each group, n = 2^(k-1) - 1, s learned from max|w| / n::

    w_q = s * clip([w/s], -n, n)

Activations, k bits, n = 2^k - 1, r a running mean of max(x)::

    x_q = r/n * clip([n x/r], 0, n)
"""

import torch
from torch import Tensor, nn

from qbench.functional import round_ste
from qbench.method import (
    Granularity, GranularityOption, Integers, Layer, Method, PerGroup, Quantizer,
)


class Running(Method):
    """A learned scale for each group, and a running range.

    Attributes:
        granularity: Weights that share a scale.
    """

    weights = Integers(bits=range(2, 9), symmetric=True)
    activations = Integers(bits=range(1, 9), signed=False)
    granularity: GranularityOption = PerGroup(64)

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        n = 2 ** (layer.weight_bits.bits - 1) - 1
        return LearnedScale(n, self.granularity, weight)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        return RunningRange(2**layer.activation_bits.bits - 1, sample.max())


class LearnedScale(nn.Module):
    def __init__(self, n: int, granularity: Granularity, weight: Tensor) -> None:
        super().__init__()
        self.n, self.granularity = n, granularity
        largest = granularity.reduce(weight.abs(), torch.amax)
        self.scale = nn.Parameter((largest / n).clamp(min=1e-8))

    def forward(self, w: Tensor) -> Tensor:
        # The scale of a group is repeated over it, and must stay the same there.
        s = self.granularity.reduce(self.scale.abs().to(w.dtype), torch.mean)
        return round_ste((w / s).clamp(-self.n, self.n)) * s


class RunningRange(Quantizer):
    def __init__(self, n: int, largest: Tensor) -> None:
        super().__init__()
        self.n = n
        self.register_buffer("largest", largest.clamp(min=1e-8))

    def forward(self, x: Tensor) -> Tensor:
        s = self.largest.to(x.dtype) / self.n
        return round_ste((x / s).clamp(0, self.n)) * s

    def observe(self, x: Tensor) -> None:
        self.largest.lerp_(x.max().clamp(min=1e-8).to(self.largest), 0.1)
'''

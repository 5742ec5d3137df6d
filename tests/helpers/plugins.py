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

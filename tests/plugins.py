"""Method files that do wrong, as text, for tests that hand them to the command line."""

GOOD = '''
import torch
from qbench.functional import sign, straight_through
from qbench.method import Method

class MedianSign(Method):
    """Binary weights, scaled by the median of their sizes."""
    title = "Median sign"
    quantizes = "weights, 1 bit"
    factor: float = 1.0

    def supports(self, bits, task):
        if bits.weights.bits != 1 or not bits.activations.is_float:
            return "weights of 1 bit only"

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
from qbench.method import Method

class Raises(Method):
    def weight_quantizer(self, layer, weight):
        raise RuntimeError("no such luck")

class NotFinite(Method):
    def weight_quantizer(self, layer, weight):
        return Times(float("nan"))

class WrongShape(Method):
    def weight_quantizer(self, layer, weight):
        return torch.nn.Flatten(0)

class TooManyLevels(Method):
    def weight_quantizer(self, layer, weight):
        return Times(1.0)

class Exits(Method):
    def weight_quantizer(self, layer, weight):
        sys.exit(3)

class Dies(Method):
    def weight_quantizer(self, layer, weight):
        os._exit(9)

class SupportsRaises(Method):
    def supports(self, bits, task):
        raise ValueError("cannot say")

class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, w):
        return w * self.factor
"""

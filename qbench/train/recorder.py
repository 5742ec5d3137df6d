"""Recording of weights in training: their distribution, levels and quantization function."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qbench.method import Layer
from qbench.quant.calibration import evaluation_mode
from qbench.spec.result import QuantizerCurve, WeightDistribution

_BINS = 100
_POINTS = 400
_CURVES = 6
_LOOKED_AT = 2**21


class WeightRecorder:
    """Recorder of the weights of a network in training.

    Args:
        layers: The quantized layers, with quantizers attached, before training.
        epochs: Number of epochs of the training.
        soft: Whether weight quantizers have a soft form and are the same function for every weight
            of a layer.

    Attributes:
        curves: Values of the soft function after some epochs, by epoch.
    """

    def __init__(self, layers: Sequence[Layer], epochs: int, soft: bool) -> None:
        self._layers = [layer for layer in layers if layer.weight_quantizer is not None]
        self._before = [layer.latent_weight.detach().cpu().clone() for layer in self._layers]
        self.curves: dict[int, list[float]] = {}
        self._epochs = _spread(epochs) if soft and self._layers else set()
        if self._epochs:
            reach = float(self._before[0].abs().max())
            self._x = torch.linspace(-reach, reach, _POINTS)

    @torch.no_grad()
    def after_epoch(self, epoch: int) -> None:
        """Record the soft function at the end of an epoch, counted from 1."""
        if epoch in self._epochs:
            self.curves[epoch] = self._values(training=True)

    @torch.no_grad()
    def weights(self) -> list[WeightDistribution]:
        """Return the distribution of each layer's weights. Call it before the model is hardened."""
        return [
            _distribution(layer, before)
            for layer, before in zip(self._layers, self._before, strict=True)
        ]

    @torch.no_grad()
    def curve(self) -> QuantizerCurve | None:
        """Return the function of the first layer, or None if the method has no soft form."""
        if not self._epochs:
            return None
        hard = self._values(training=False)
        return QuantizerCurve(
            layer=self._layers[0].name, x=self._x.tolist(), soft=self.curves, hard=hard
        )

    def _values(self, training: bool) -> list[float]:
        quantizer, weight = self._layers[0].weight_quantizer, self._layers[0].latent_weight
        assert quantizer is not None  # noqa: S101
        with evaluation_mode(quantizer):  # it restores the mode that the next line sets
            quantizer.train(training)
            values: list[float] = quantizer(self._x.to(weight)).float().cpu().tolist()
        return values


def _spread(epochs: int) -> set[int]:
    """Choose epochs from the first to the last, denser where the function changes most."""
    share = (epochs ** (i / (_CURVES - 1)) for i in range(_CURVES))
    return {round(epoch) for epoch in share}


def _distribution(layer: Layer, before: Tensor) -> WeightDistribution:
    quantizer = layer.weight_quantizer
    assert quantizer is not None  # noqa: S101
    after = layer.latent_weight.detach()
    with evaluation_mode(quantizer):
        quantized = quantizer(after)
    after, quantized = after.float().cpu().flatten(), quantized.float().cpu().flatten()
    before = before.float().flatten()
    both = torch.cat([before, after])
    low, high = float(both.min()), float(both.max())
    if not low < high:
        low, high = low - 1.0, high + 1.0
    every = -(-len(after) // _LOOKED_AT)  # sorting all of a large layer takes longer than training
    levels, thresholds = _levels(after[::every], quantized[::every], layer.weight_bits.count)
    return WeightDistribution(
        layer=layer.name,
        edges=torch.linspace(low, high, _BINS + 1).tolist(),
        before=before.histc(_BINS, low, high).int().tolist(),
        after=after.histc(_BINS, low, high).int().tolist(),
        levels=levels,
        thresholds=thresholds,
    )


def _levels(weights: Tensor, quantized: Tensor, most: int) -> tuple[list[float], list[float]]:
    """Return the levels of quantized weights, and the thresholds between them.

    Both are empty if there are more levels than the bits allow, as when filters have levels of
    their own. There are no thresholds if a larger weight has a smaller level.
    """
    levels = quantized.unique()
    if len(levels) > most:
        return [], []
    order = weights.argsort()
    ordered, given = weights[order], quantized[order]
    if (given.diff() < 0).any():
        return levels.tolist(), []
    first = torch.searchsorted(given, levels[1:])
    return levels.tolist(), ((ordered[first - 1] + ordered[first]) / 2).tolist()

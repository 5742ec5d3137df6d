"""What a quantized network costs to store and to run, counted from the network itself.

Conventions, those of the papers that print such columns:

- **Weights** are packed: codes of k bits each, and k numbers of 32 bits for each layer (or each
  filter, where levels are a filter's own) from which its 2^k levels are made, as many as learned
  bases have; evenly spaced levels take one or two of them. All other parameters, biases and
  normalisation included, have 32 bits; running statistics are folded into these.
- **Bit-operations** (BOPs) of a layer are its multiply-adds for one image × bits of its weight ×
  bits of its input, full precision being 32. Products of two activations count 32 × 32.

Networks are built on the meta device: no memory, no arithmetic. A detector's boxes depend on
values, so detectors are run once on a CPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qbench import registry
from qbench.data import Dataset
from qbench.method import Layer, Method, Scope
from qbench.quant.attach import prepare
from qbench.quant.layers import QUANTIZABLE
from qbench.spec.bits import FLOAT_BITS, FULL_PRECISION, Bits
from qbench.spec.trial import Trial


@dataclass(frozen=True)
class Cost:
    """What a network takes.

    Attributes:
        weight_bits: of all parameters, packed.
        bops: bit-operations of one image.
    """

    weight_bits: int
    bops: int

    @property
    def megabytes(self) -> float:
        """Of weights; a megabyte is 10^6 bytes."""
        return self.weight_bits / 8e6

    @property
    def gbops(self) -> float:
        """Bit-operations in 10^9."""
        return self.bops / 1e9


@dataclass(frozen=True)
class Footprint:
    """A trial's network: its cost, that of the same one in full precision, and its ends.

    Attributes:
        cost: as the trial quantizes it.
        full: of the model before a method changed it, in full precision.
        first_layer: widths ``W/A`` of its first conv or linear layer.
        last_layer: of its last.
    """

    cost: Cost
    full: Cost
    first_layer: str
    last_layer: str


@dataclass(frozen=True)
class MultiplyAdds:
    """How many multiply-adds a network takes for one image.

    Attributes:
        total: in all.
        by_layer: of each conv and linear layer, by name; 0 of one that is not run.
    """

    total: int
    by_layer: dict[str, int]


class Footprints:
    """Footprints of trials on one dataset, each network counted once.

    Args:
        dataset: whose images the networks take; its data may be missing.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._known: dict[str, Footprint | None] = {}
        self._plain: dict[str, tuple[MultiplyAdds, Cost]] = {}

    def of(self, trial: Trial) -> Footprint | None:
        """The footprint of a trial's network; None where it cannot be built or run."""
        same = (trial.method, trial.options, trial.model, trial.bits, trial.layers)
        what = json.dumps(same)
        if what not in self._known:
            try:
                self._known[what] = self._count(trial)
            except Exception:  # a plugin's mistake costs its own columns only
                self._known[what] = None
        return self._known[what]

    def _count(self, trial: Trial) -> Footprint:
        if trial.model not in self._plain:
            network = self._build(trial.model)
            counted = multiply_adds(network, self._dataset)
            self._plain[trial.model] = counted, cost(network, [], counted)
        counted, full = self._plain[trial.model]
        method = registry.build_method(trial.method, trial.options)
        bits = Bits.parse(trial.bits)
        with torch.device(self._device):
            model = prepare(self._build(trial.model), method, bits, trial.layers).eval()
        if type(method).prepare is not Method.prepare:
            counted = multiply_adds(model, self._dataset)
        names = [name for name, m in model.named_modules() if isinstance(m, QUANTIZABLE)]
        widths = {m.name: f"{m.weight_bits}/{m.input_bits}" for m in method.layers}
        return Footprint(
            cost(model, method.layers, counted, method.weight_scope),
            full,
            widths.get(names[0], str(FULL_PRECISION)),
            widths.get(names[-1], str(FULL_PRECISION)),
        )

    @property
    def _device(self) -> str:
        return "meta" if self._dataset.task == "classification" else "cpu"

    def _build(self, model: str) -> nn.Module:
        dataset = self._dataset
        with torch.device(self._device):
            built = registry.build_model(model, dataset.num_classes, dataset.image_shape[0])
        return built.eval()


def cost(
    model: nn.Module, layers: list[Layer], counted: MultiplyAdds, weight_scope: Scope = "layer"
) -> Cost:
    """Count what a network takes with some of its layers quantized.

    Args:
        model: the network, without quantizers attached.
        layers: those that are quantized, with their widths.
        counted: its multiply-adds.
        weight_scope: whether a weight's levels are the layer's or each filter's.
    """
    others = counted.total - sum(counted.by_layer[layer.name] for layer in layers)
    bops = FLOAT_BITS**2 * others
    weight_bits = FLOAT_BITS * sum(p.numel() for p in model.parameters())
    for layer in layers:
        k = layer.weight_bits.bits
        bops += counted.by_layer[layer.name] * k * layer.input_bits.bits
        if not layer.weight_bits.is_float:
            weight = layer.latent_weight
            groups = len(weight) if weight_scope == "filter" else 1
            weight_bits += weight.numel() * (k - FLOAT_BITS) + groups * k * FLOAT_BITS
    return Cost(weight_bits, bops)


def multiply_adds(model: nn.Module, dataset: Dataset) -> MultiplyAdds:
    """Count the multiply-adds of one image.

    Args:
        model: the network, in evaluation mode, on whatever device.
        dataset: whose images it takes.
    """
    device = next(model.parameters()).device
    image = torch.zeros(dataset.image_shape, device=device)
    images: Any = image[None] if dataset.task == "classification" else [image]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(images)
    root = type(model).__name__
    flops = counter.get_flop_counts()
    by_layer = {
        name: sum(flops.get(f"{root}.{name}", {}).values()) // 2
        for name, module in model.named_modules()
        if isinstance(module, QUANTIZABLE)
    }
    return MultiplyAdds(counter.get_total_flops() // 2, by_layer)

"""Cost of a quantized network: the size of its weights and its bit-operations.

Both are counted from the network itself, by the conventions of the papers that print such columns:

- **Weights** are packed, as `qbench deploy --to packed` writes them. Each weight is a code of k
  bits; the codes of a layer fill whole bytes. Each group of weights with levels of its own (a
  layer, a filter, or fewer weights) adds the 32-bit numbers from which its levels are computed: as
  many as the method declares. A weight that layers share counts once. All other parameters,
  including biases and normalisation, have 32 bits. Running statistics and quantizers of activations
  are left out.
- **Bit-operations** (BOPs) of a layer are its multiply-adds for one image × the bits of its weight
  × the bits of its input. Full precision counts as 32 bits. Products of two activations count as
  32 × 32, but for those of attention with quantized inputs, whose factors have the bits of these
  inputs. A product belongs to the layer whose weight enters it, whether the layer is called or
  another module reads its weight.

Networks run on the meta device, which takes no memory and no arithmetic. The few that cannot be
built there are built on a CPU and moved. The boxes of a detector depend on values, so detectors run
once on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from qbench import registry
from qbench.data import Dataset
from qbench.deployment.weights import packed_bytes
from qbench.method import Layer, Method
from qbench.quant.attach import prepare
from qbench.quant.exchange.modules import exchanged, is_attention
from qbench.quant.layers import QUANTIZABLE, attention_places
from qbench.quant.options import build_method
from qbench.quant.parametrizations import originals
from qbench.quant.preparation import prepare_as
from qbench.quant.products import Product, Products, count_products, plain_name
from qbench.report.problems import noted
from qbench.spec.bits import FLOAT_BITS, FULL_PRECISION, BitWidths
from qbench.spec.trial import FP32, Trial
from qbench.suite.grid import is_small


@dataclass(frozen=True)
class Cost:
    """Cost of a network.

    Attributes:
        weight_bits: Size of all parameters, packed, in bits.
        bops: Bit-operations for one image.
    """

    weight_bits: int
    bops: int

    @property
    def megabytes(self) -> float:
        """Size of the packed weights in megabytes of 10^6 bytes."""
        return self.weight_bits / 8e6

    @property
    def gbops(self) -> float:
        """Bit-operations for one image, in 10^9."""
        return self.bops / 1e9


@dataclass(frozen=True)
class Footprint:
    """Cost of a trial's network, with that in full precision and the widths of its end layers.

    Attributes:
        cost: Cost of the network as the trial quantizes it.
        full: Cost in full precision, of the model before the method changes it.
        first_layer: Bit-widths ``W/A`` of the first convolution or linear layer.
        last_layer: Bit-widths ``W/A`` of the last convolution or linear layer.
    """

    cost: Cost
    full: Cost
    first_layer: str
    last_layer: str


@dataclass(frozen=True)
class MultiplyAdds:
    """Number of multiply-adds of a network for one image.

    Attributes:
        total: Multiply-adds of the whole network.
        by_layer: Multiply-adds of each convolution and linear layer, by name. 0 for a layer whose
            weight is not used.
        by_attention: Multiply-adds of the two products of each attention, by its name.
    """

    total: int
    by_layer: dict[str, int]
    by_attention: dict[str, int] = field(default_factory=dict)


class Footprints:
    """Footprints of trials on one dataset. Each network is counted once.

    Args:
        dataset: Dataset whose images the networks take. Its files may be missing.

    Attributes:
        problems: Which networks could not be counted, and why.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._known: dict[str, Footprint | None] = {}
        self.problems: list[str] = []
        self._plain: dict[str, tuple[MultiplyAdds, Cost]] = {}
        self._devices: dict[str, str] = {}

    def of(self, trial: Trial) -> Footprint | None:
        """Return the footprint of a trial's network.

        Args:
            trial: The trial.

        Returns:
            The footprint, or None if the network cannot be built or run.
        """
        change = trial.prepared.model_dump() if trial.prepared else None
        network = (trial.model, trial.network, change)
        what = json.dumps((trial.method, trial.options, network, trial.bits, trial.layers))
        if what not in self._known:
            self._known[what] = None
            with noted(self.problems, f"the cost of {trial.method} on {trial.model}"):
                self._known[what] = self._count(trial)
        return self._known[what]

    def _count(self, trial: Trial) -> Footprint:
        if trial.model not in self._plain:
            network = self._build(trial.model)
            counted = multiply_adds(network, self._dataset)
            self._plain[trial.model] = counted, cost(network, [], counted)
        counted, full = self._plain[trial.model]
        method = build_method(trial.method, trial.options)
        bits = BitWidths.parse(trial.bits)
        base = trial.prepared if trial.method == FP32 else None
        with torch.device(self._device(trial.architecture)):
            model = self._build(trial.architecture)
            model = model if base is None else prepare_as(model, base)
            model = prepare(model, method, bits, trial.layers).eval()
        if trial.network or base is not None or type(method).prepare is not Method.prepare:
            counted = multiply_adds(model, self._dataset)
        names = [name for name, m in model.named_modules() if isinstance(m, QUANTIZABLE)]
        widths = {m.name: f"{m.weight_bits}/{m.activation_bits}" for m in method.layers}
        return Footprint(
            cost(model, method.layers, counted),
            full,
            widths.get(names[0], str(FULL_PRECISION)),
            widths.get(names[-1], str(FULL_PRECISION)),
        )

    def _device(self, model: str) -> str:
        """Return the device that a network is counted on."""
        if model not in self._devices:
            storage = self._dataset.task != "classification" or is_small(
                self._on(model, "meta"), self._dataset
            )
            self._devices[model] = "cpu" if storage else "meta"
        return self._devices[model]

    def _build(self, model: str) -> nn.Module:
        return self._on(model, self._device(model))

    def _on(self, model: str, device: str) -> nn.Module:
        shape = self._dataset.num_classes, self._dataset.image_shape[0]
        try:
            with torch.device(device):
                built = registry.build_model(model, *shape)
        except RuntimeError:  # it reads values while it is built
            with torch.device("cpu"):
                built = registry.build_model(model, *shape).to(device)
        return built.eval()


def cost(model: nn.Module, layers: list[Layer], counted: MultiplyAdds) -> Cost:
    """Count the cost of a network with some of its layers quantized.

    Args:
        model: The network, without attached quantizers.
        layers: The quantized layers, with their declared levels.
        counted: Multiply-adds of the network.

    Returns:
        The cost, by the conventions of this module.

    Raises:
        KeyError: A quantized layer or its attention is not among the counted ones.
    """
    priced = [
        (counted.by_layer[layer.name], layer.weight_bits.bits * layer.activation_bits.bits)
        for layer in layers
    ]
    inside = {p.consumers[0]: p.activation_bits.bits for p in attention_places(model, layers)}
    priced += [(counted.by_attention[name], bits**2) for name, bits in inside.items()]
    others = counted.total - sum(count for count, _ in priced)
    bops = FLOAT_BITS**2 * others + sum(count * bits for count, bits in priced)
    quantized = {originals(m.module)[0]: m for m in layers if m.weight_levels is not None}
    computed = {p for m in quantized.values() for p in originals(m.module)[1:]}
    weight_bits = sum(
        packed_bits(parameter, quantized.get(parameter))
        for parameter in model.parameters()
        if parameter not in computed
    )
    return Cost(weight_bits, bops)


def packed_bits(parameter: nn.Parameter, layer: Layer | None) -> int:
    """Return the packed size of a parameter in bits.

    Args:
        parameter: Parameter of a network, any shape.
        layer: Layer whose quantized weight it is; None if it stays at full precision.
    """
    if layer is None or layer.weight_levels is None:
        return FLOAT_BITS * parameter.numel()
    weight, levels = layer.latent_weight, layer.weight_levels
    groups = levels.granularity.groups(weight.shape)
    return 8 * packed_bytes(weight.numel(), groups, layer.weight_bits, levels)


def multiply_adds(model: nn.Module, dataset: Dataset) -> MultiplyAdds:
    """Count the multiply-adds of a network for one image.

    Args:
        model: The network, in evaluation mode, on any device. It runs once, on an image of zeros.
        dataset: Dataset whose images it takes. Its files are not read.

    Returns:
        The multiply-adds of the whole network, of each convolution and linear layer, and of the
        products of each attention.
    """
    device = next(model.parameters()).device
    image = torch.zeros(dataset.image_shape, device=device)
    images: Any = image[None] if dataset.task == "classification" else [image]
    with exchanged(model):
        return _by_layer(model, count_products(model, images))


def _by_layer(model: nn.Module, found: Products) -> MultiplyAdds:
    """Return the multiply-adds of each layer and attention of a model."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, QUANTIZABLE)}
    by_layer = dict.fromkeys(layers, 0)
    by_attention = {name: 0 for name, m in model.named_modules() if is_attention(m)}
    names = {parameter: name for name, parameter in model.named_parameters()}
    owners = {
        plain_name(names[original]): name
        for name, module in reversed(layers.items())  # a shared weight counts for the first
        for original in originals(module)
    }
    for product in found.products:
        if owner := _owner(product, by_layer, owners):
            by_layer[owner] += product.multiply_adds
        elif product.module in by_attention:
            by_attention[product.module] += product.multiply_adds
    return MultiplyAdds(found.multiply_adds, by_layer, by_attention)


def _owner(product: Product, layers: Container[str], owners: Mapping[str, str]) -> str | None:
    """Return the layer that a product belongs to: the one that computes it, or its weight's."""
    if product.parameters and product.module in layers:
        return product.module
    return next((owners[name] for name in sorted(product.parameters) if name in owners), None)

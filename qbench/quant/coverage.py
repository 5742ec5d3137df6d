"""Coverage: which share of a network's weights and multiply-adds is quantized.

It is measured in one forward pass of the model with its quantizers, or of the hardened model, and
does not rely on what attaching intended. Parameters of full precision that enter a product or a
convolution are named, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from torch import nn

from qbench.method import Layer
from qbench.quant.calibration import evaluation_mode
from qbench.quant.layers import quantizable_layers
from qbench.quant.parametrizations import originals
from qbench.quant.products import Product, Products, count_products, plain_name
from qbench.spec.bits import BitWidths
from qbench.spec.result import Shares


@dataclass(frozen=True)
class Promise:
    """What a layer policy promises to quantize.

    Attributes:
        bits: Requested bit-widths.
        float_weights: Names of layers whose weight may stay at full precision.
        float_inputs: Names of layers whose input may stay at full precision.
        others: Whether all that is no layer may stay so too, since layers are chosen by name.
    """

    bits: BitWidths
    float_weights: Set[str] = frozenset()
    float_inputs: Set[str] = frozenset()
    others: bool = False


@dataclass(frozen=True)
class LeftOut:
    """A parameter of full precision that enters a product or a convolution.

    Attributes:
        parameter: Its name.
        elements: Number of its elements.
        multiply_adds: Multiply-adds of its products. None if an operation is not known.
        why: Why it is not quantized.
    """

    parameter: str
    elements: int
    multiply_adds: int | None
    why: str


@dataclass(frozen=True)
class Coverage:
    """Shares of a network that are quantized. A share of nothing is 1.

    Attributes:
        weights: Share of the weights that enter products in evaluation.
        weight_operands: Share of the multiply-adds with a weight whose weight is quantized.
        activation_operands: Share of the multiply-adds all of whose activations are quantized.
        multiply_adds: Share of the multiply-adds both of whose factors are quantized.
        left_out: Parameters that enter products and are not quantized, in the order of the pass.
        float_inputs: Names of the modules that multiply activations of full precision.
        partly: What the layer policy promises and is not quantized, in a sentence; or empty.
    """

    weights: float
    weight_operands: float
    activation_operands: float
    multiply_adds: float
    left_out: tuple[LeftOut, ...]
    float_inputs: tuple[str, ...]
    partly: str

    @property
    def shares(self) -> Shares:
        """The shares as results store them."""
        names = ("weights", "weight_operands", "activation_operands", "multiply_adds", "partly")
        return Shares(**{name: getattr(self, name) for name in names})


def coverage_of(
    model: nn.Module,
    inputs: Any,
    layers: Sequence[Layer],
    quantizers: Collection[nn.Module],
    hardened: Iterable[Layer],
    promise: Promise,
) -> Coverage:
    """Measure the coverage of a model.

    Args:
        model: Model with quantizers, or hardened.
        inputs: A batch of its inputs.
        layers: Its quantized layers.
        quantizers: Its attached quantizers.
        hardened: Layers whose weights hold quantized values.
        promise: What the layer policy promises.

    Returns:
        The coverage of what runs in evaluation.
    """
    names = {parameter: plain_name(name) for name, parameter in model.named_parameters()}
    final = {names[originals(layer.module)[0]] for layer in hardened}
    with evaluation_mode(model):
        found = count_products(model, inputs, quantizers, final)
    return _Counts(model, layers, quantizers, found, promise).coverage()


class _Counts:
    """Counts over the products of a forward pass."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        quantizers: Collection[nn.Module],
        found: Products,
        promise: Promise,
    ) -> None:
        own = {p for quantizer in quantizers for p in quantizer.parameters()}
        named = model.named_parameters(remove_duplicate=False)
        self._sizes = {plain_name(name): p.numel() for name, p in named if p not in own}
        self._modules = dict(model.named_modules())
        self._layers = quantizable_layers(model)
        self._selected = {layer.name for layer in layers}
        self._found, self._promise = found, promise
        self._unknown = {name for each in found.opaque for name in each.parameters}
        self._opaque = {name: each for each in found.opaque for name in each.parameters}

    def coverage(self) -> Coverage:
        """Return the coverage."""
        products = self._found.products
        entering = dict.fromkeys(
            name
            for parameters in [
                *(product.parameters for product in products),
                *(each.parameters for each in self._found.opaque),
            ]
            for name in sorted(parameters & self._sizes.keys())
        )
        float_weights = {name for p in products for name in self._float_weights(p)}
        left = {name: self._left_out(name) for name in entering if name in float_weights}
        left |= {name: self._left_out(name) for name in entering if name in self._unknown}
        elements = sum(self._sizes[name] for name in entering)
        weighted = [p for p in products if p.parameters & self._sizes.keys()]
        return Coverage(
            1 - sum(each.elements for each in left.values()) / elements if elements else 1.0,
            _share(weighted, lambda p: not self._float_weights(p)),
            _share(products, lambda p: not _has_float_activation(p)),
            _share(products, lambda p: not (self._float_weights(p) or _has_float_activation(p))),
            tuple(left.values()),
            tuple(dict.fromkeys(p.module for p in products if _has_float_activation(p))),
            self._partly(left),
        )

    def _float_weights(self, product: Product) -> set[str]:
        operands = [each.parameters for each in product.operands if not each.quantized]
        return set().union(*operands) & self._sizes.keys()

    def _left_out(self, name: str) -> LeftOut:
        count = sum(p.multiply_adds for p in self._found.products if name in p.parameters)
        known = name not in self._opaque
        return LeftOut(name, self._sizes[name], count if known else None, self._why(name))

    def _why(self, name: str) -> str:
        if name in self._opaque:
            return f"{self._opaque[name].operation} computes with it in a way that is not known"
        owner = self._owner(name)
        if owner in self._selected:
            return "the method leaves it at full precision"
        if owner in self._layers:
            return "the layer policy leaves it out"
        kind = type(self._modules[owner]).__name__
        return f"it is of {kind}, which is no convolution, linear layer or attention"

    def _owner(self, name: str) -> str:
        """Return the name of the module that has a parameter."""
        return name.rpartition(".")[0]

    def _is_exempt(self, owners: Iterable[str], layers: Set[str]) -> bool:
        """Return whether what belongs to some modules may stay at full precision, as layers may."""
        found = set(owners)
        if self._promise.others and found.isdisjoint(self._selected):
            return True
        return not found.isdisjoint(layers)

    def _partly(self, left: dict[str, LeftOut]) -> str:
        bits, missing = self._promise.bits, []
        if not bits.weights.is_float:
            floats = self._promise.float_weights
            missing += [
                f"'{name}'" for name in left if not self._is_exempt([self._owner(name)], floats)
            ]
        if not bits.activations.is_float:
            floats = self._promise.float_inputs
            inputs = dict.fromkeys(
                p.module
                for p in self._found.products
                if _has_float_activation(p)
                and not self._is_exempt([p.module, *map(self._owner, p.parameters)], floats)
            )
            missing += [f"activations in '{name}'" for name in inputs]
        if not missing:
            return ""
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"{missing[0]}{more} in full precision"


def _has_float_activation(product: Product) -> bool:
    return any(not each.quantized and not each.parameters for each in product.operands)


def _share(products: Sequence[Product], fulfils: Callable[[Product], bool]) -> float:
    total = sum(product.multiply_adds for product in products)
    found = sum(product.multiply_adds for product in products if fulfils(product))
    return found / total if total else 1.0

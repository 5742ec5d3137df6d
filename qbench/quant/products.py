"""Matrix products and convolutions of a network, with the parameters that enter each.

One forward pass runs under a ``TorchDispatchMode``. It sees every operation, however the network
calls it: as a module, as a function on a bare parameter, or inside attention. Parameters are
followed by their storage. A tensor that is computed from parameters alone, such as a view, a cast,
a standardized or a quantized weight, still counts as these parameters. Multiply-adds follow from
the formulas of ``torch.utils.flop_counter``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Positions of the two factors among the arguments; of other operations, the first two tensors.
_FACTORS = {"addmm": (1, 2), "baddbmm": (1, 2)}
_ATTENTION = "scaled_dot_product"
# Operations that combine activations with parameters and are neither pointwise nor products.
_NO_PRODUCT = re.compile(
    r"(_?native_(layer|batch|group)_norm|_?(cudnn_|miopen_|)batch_norm|_fused_rms_norm"
    r"|_?prelu|_thnn_fused_(lstm|gru)_cell|_?embedding|cat$|stack$|copy|index|gather|scatter"
    r"|(slice|select)_scatter|_foreach|expand_as|view_as|reshape_as|(new|zeros|ones|empty|full|rand)_"
    r"|(zeros|ones|empty|full|rand|randn)_like)"
)
# Operations whose output has no other values than their input, zero aside. Views share a storage.
_KEEPS_VALUES = re.compile(
    r"(clone|_to_copy|cat|stack|\w+_pad\w*|relu_?|\w*max_pool\w*|index|index_select|gather|roll|flip"
    r"|_unsafe_view|_reshape_copy|\w+_copy|repeat|im2col|unfold|pixel_(un)?shuffle|channel_shuffle"
    r"|upsample_nearest\w*)$"
)
_PARAMETRIZED = re.compile(r"parametrizations\.(\w+)\.original\d*$")


@dataclass(frozen=True)
class Operand:
    """One factor of a product.

    Attributes:
        parameters: Names of the parameters that it is computed from. Empty for activations.
        quantized: Whether its values are those that a quantizer has returned.
    """

    parameters: frozenset[str] = frozenset()
    quantized: bool = False


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution.

    Attributes:
        module: Name of the innermost module that computes it.
        operation: Name of the operation, such as ``convolution``.
        operands: The two factors, in the order of the operation.
        multiply_adds: Number of multiply-adds.
    """

    module: str
    operation: str
    operands: tuple[Operand, Operand]
    multiply_adds: int

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters of both factors."""
        return self.operands[0].parameters | self.operands[1].parameters


@dataclass(frozen=True)
class Opaque:
    """An operation that takes parameters and activations in a way that is not known.

    Attributes:
        module: Name of the innermost module that computes it.
        operation: Name of the operation.
        parameters: Names of the parameters that it takes.
    """

    module: str
    operation: str
    parameters: frozenset[str]


@dataclass
class Products:
    """What one forward pass computes.

    Attributes:
        products: Matrix products and convolutions, in order.
        opaque: Operations that may be products, and that nothing is known of.
    """

    products: list[Product] = field(default_factory=list)
    opaque: list[Opaque] = field(default_factory=list)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all products."""
        return sum(product.multiply_adds for product in self.products)


@torch.no_grad()
def count_products(
    model: nn.Module,
    inputs: Any,
    quantizers: Iterable[nn.Module] = (),
    quantized: Collection[str] = (),
) -> Products:
    """Run a model once and list its matrix products and convolutions.

    Args:
        model: Any module, on any device, in the mode in which it is to be counted.
        inputs: Argument of the model.
        quantizers: Modules whose outputs are quantized. What they compute themselves is left out.
        quantized: Names of parameters that hold quantized values, as in a hardened model.

    Returns:
        The products. Parameters have their names in the model without parametrizations.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
        >>> found = count_products(model, torch.zeros(1, 1, 4, 4))
        >>> [(each.module, each.multiply_adds) for each in found.products]
        [('0', 72), ('2', 24)]
    """
    counter = _Counter(model, frozenset(quantized))
    with counter.following(model, set(quantizers)), _no_fused_layers(), counter:
        model(inputs)
    return counter.found


def plain_name(parameter: str) -> str:
    """Return the name that a parameter has without parametrizations.

    Example:
        >>> plain_name("layer1.parametrizations.weight.original")
        'layer1.weight'
    """
    return _PARAMETRIZED.sub(r"\1", parameter)


@dataclass(frozen=True)
class _Origin:
    """What a tensor is computed from: parameters, if not None, and a quantizer."""

    parameters: frozenset[str] | None = None
    quantized: bool = False


_UNKNOWN = _Origin()


class _Counter(TorchDispatchMode):
    """Mode that follows parameters and quantized values through the operations of a model."""

    def __init__(self, model: nn.Module, quantized: frozenset[str]) -> None:
        super().__init__()
        self.found = Products()
        self._origins: dict[int, _Origin] = {}
        self._alive: list[Tensor] = []  # so that no storage is used again for another tensor
        self._modules = [""]
        self._quantizing = 0
        names: dict[int, set[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(_storage(parameter), set()).add(plain_name(name))
        for storage, its in names.items():
            self._origins[storage] = _Origin(frozenset(its), bool(its & quantized))
        for buffer in model.buffers():
            self._origins.setdefault(_storage(buffer), _Origin(frozenset()))

    @contextmanager
    def following(self, model: nn.Module, quantizers: set[nn.Module]) -> Iterator[None]:
        """Context manager that follows which module runs."""
        named = dict(model.named_modules())
        unnamed = quantizers.difference(named.values())
        hooks = [self._follow(module, name) for name, module in named.items()]
        hooks += [self._mark(module) for module in (*quantizers, *unnamed)]
        try:
            yield
        finally:
            for remove in hooks:
                remove()

    def _follow(self, module: nn.Module, name: str) -> Callable[[], None]:
        def enter(*_: Any) -> None:
            self._modules.append(name)

        def leave(*_: Any) -> None:
            self._modules.pop()

        return _hooked(module, enter, leave)

    def _mark(self, quantizer: nn.Module) -> Callable[[], None]:
        def enter(*_: Any) -> None:
            self._quantizing += 1

        def leave(_: nn.Module, __: Any, output: Any) -> None:
            self._quantizing -= 1
            if isinstance(output, Tensor):
                self._set(output, _Origin(self._origin(output).parameters, True))

        return _hooked(quantizer, enter, leave)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # with True, torch imports its compiler on the first call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        output = func(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if packet in flop_registry:
            if not self._quantizing:
                flops = flop_registry[packet](*args, **kwargs, out_val=output)
                self._add(packet.__name__, args, tensors, flops // 2)
        elif not self._quantizing:
            self._note_opaque(func, tensors, output)
        self._propagate(func, tensors, output)
        return output

    def _add(self, name: str, args: Any, tensors: list[Tensor], multiply_adds: int) -> None:
        where = self._modules[-1]
        if _ATTENTION in name or "attention_forward" in name:
            query, key, value = (self._operand(t) for t in tensors[:3])
            scores, values = tensors[0].shape[-1], tensors[2].shape[-1]
            first = multiply_adds * scores // (scores + values)
            both = (query, key, first), (Operand(), value, multiply_adds - first)
            for left, right, count in both:
                self.found.products.append(Product(where, name, (left, right), count))
            return
        factors = [args[i] for i in _FACTORS[name]] if name in _FACTORS else tensors[:2]
        left, right = (self._operand(t) for t in factors)
        self.found.products.append(Product(where, name, (left, right), multiply_adds))

    def _note_opaque(self, func: Any, tensors: list[Tensor], output: Any) -> None:
        """Note an operation on parameters and activations that may be a product."""
        name = func._overloadpacket.__name__
        if torch.Tag.pointwise in func.tags or _NO_PRODUCT.match(name):
            return
        results = (t for t in tree_leaves(output) if isinstance(t, Tensor))
        origins = [self._origin(t) for t in tensors]
        parameters = frozenset[str]().union(*(o.parameters or () for o in origins))
        mixed = any(o.parameters is None for o in origins)
        if parameters and mixed and any(t.is_floating_point() for t in results):
            self.found.opaque.append(Opaque(self._modules[-1], name, parameters))

    def _propagate(self, func: Any, tensors: list[Tensor], output: Any) -> None:
        """Set the origin of what an operation returns."""
        mutable = func._schema.is_mutable
        origins = [self._origin(t) for t in tensors]
        given = {_storage(t) for t in tensors}
        # Scalars do not make a weight an activation: constants of functions are not known.
        relevant = [
            o for o, t in zip(origins, tensors, strict=True) if t.dim() or o is not _UNKNOWN
        ]
        parameters = None
        if all(origin.parameters is not None for origin in relevant):
            parameters = frozenset[str]().union(*(o.parameters or () for o in relevant))
        real = [o for o, t in zip(origins, tensors, strict=True) if t.is_floating_point()]
        keeps = _KEEPS_VALUES.match(func._overloadpacket.__name__) is not None
        origin = _Origin(parameters, keeps and bool(real) and all(o.quantized for o in real))
        for t in tree_leaves(output):
            if isinstance(t, Tensor) and (mutable or _storage(t) not in given):
                self._set(t, origin)

    def _operand(self, t: Tensor) -> Operand:
        origin = self._origin(t)
        return Operand(origin.parameters or frozenset(), origin.quantized)

    def _origin(self, t: Tensor) -> _Origin:
        return self._origins.get(_storage(t), _UNKNOWN)

    def _set(self, t: Tensor, origin: _Origin) -> None:
        if origin == _UNKNOWN:
            self._origins.pop(_storage(t), None)
        else:
            self._origins[_storage(t)] = origin
            self._alive.append(t)


def _storage(t: Tensor) -> int:
    return int(t.untyped_storage()._cdata)


def _hooked(
    module: nn.Module, enter: Callable[..., None], leave: Callable[..., None]
) -> Callable[[], None]:
    """Run functions before and after a module; return a function that removes them."""
    hooks = (
        module.register_forward_pre_hook(enter, prepend=True),
        module.register_forward_hook(leave, always_call=True),
    )

    def remove() -> None:
        for hook in hooks:
            hook.remove()

    return remove


@contextmanager
def _no_fused_layers() -> Iterator[None]:
    """Context manager in which attention and recurrent layers run operation by operation."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    backends = (torch.backends.mkldnn, torch.backends.cudnn)
    enabled = [backend.set_flags(_enabled=False)[0] for backend in backends]
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for backend, before in zip(backends, enabled, strict=True):
            backend.set_flags(_enabled=before)

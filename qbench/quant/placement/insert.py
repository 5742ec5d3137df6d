"""Insert activation quantizers at call sites, in place.

A quantizer behind the call of an ``nn.ReLU`` or of a pooling module is a submodule of that module,
and a forward hook runs it. If the module's owner calls it several times, a counter tells the calls
apart; the owner sets it to zero at the start of its own forward pass.

Where the owner calls a function or adds, the quantizer is a submodule of the owner, and the owner's
class is replaced by a subclass whose forward pass runs under a ``TorchFunctionMode``, much as
``torch.nn.utils.parametrize`` replaces classes. The mode counts the owner's own calls. Hooks on the
children of the owner tell it that a child is being called.

A quantizer at the input of a ReLU replaces it: it receives what the ReLU receives, and its output
is used in place of the ReLU's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from qbench import distributed
from qbench.method import Quantizer
from qbench.quant.exchange.classes import Exchanged, exchanged_class
from qbench.quant.placement.sites import CONTAINERS, TRANSPARENT, Point, Site, kind_of
from qbench.quant.state import PLACED

_SITES = ("relu", "max_pool", "add")  # kinds of calls that may get quantizers


def quantize(quantizer: nn.Module, x: Tensor, training: bool) -> Tensor:
    """Quantize a tensor in a forward pass, and let the quantizer observe it in training.

    Args:
        quantizer: The quantizer.
        x: The tensor, any shape.
        training: Whether the module that the tensor belongs to is in training mode.
    """
    y: Tensor = quantizer(x)
    if training and isinstance(quantizer, Quantizer):
        with torch.no_grad():
            quantizer.observe(distributed.gather(x.detach()))
    return y


class Insertion:
    """Quantizers that are inserted at the sites of a model.

    Args:
        model: The model. It is changed in place.
        sites: Every site of the model.
        quantizers: Quantizer of each point that gets one. Points may share a quantizer.

    Attributes:
        sites: As given.
        holders: By point, the module that the quantizer belongs to.
        seats: By point, the submodule that contains the quantizer, and its name there.
    """

    def __init__(
        self, model: nn.Module, sites: Iterable[Site], quantizers: Mapping[Point, nn.Module]
    ) -> None:
        self.sites = tuple(dict.fromkeys(sites))
        self.holders: dict[Point, nn.Module] = {}
        self.seats: dict[Point, tuple[nn.Module, str]] = {}
        self._hooks: list[RemovableHandle] = []
        self._changed: list[tuple[nn.Module, str]] = []  # attributes of modules, to delete
        self._exchanged: list[nn.Module] = []
        self._in_place: list[nn.Module] = []  # that worked in place before
        modules = dict(model.named_modules())
        holders = _holders(self.sites, quantizers)
        for point, quantizer in quantizers.items():
            name = holders.of(point.site)
            slot = self._slot(modules[name])
            hooked = point.site.owner not in holders.exchanged
            key = (
                str(point.site.turn) if hooked else _key(point.site.kind, point.site.n, point.part)
            )
            slot[key] = quantizer
            self.holders[point], self.seats[point] = modules[name], (slot, key)
        replaced = {p.site.via for p in quantizers if p.site.kind == "relu" and p.part == "input"}
        for via, (owner, calls) in holders.hooked.items():
            self._hook(modules[via], modules[owner], calls, via in replaced)
        for owner in holders.exchanged:
            self._exchange(modules[owner])

    def remove(self) -> None:
        """Remove all quantizers, and restore the modules."""
        for hook in self._hooks:
            hook.remove()
        for owner in self._exchanged:
            owner.__class__ = type(owner).__bases__[1]
        for module in self._in_place:
            module.inplace = True  # type: ignore[assignment]
        for module, name in self._changed:
            delattr(module, name)

    def _slot(self, holder: nn.Module) -> nn.ModuleDict:
        if not hasattr(holder, PLACED):
            self._set(holder, PLACED, nn.ModuleDict())
        slot = getattr(holder, PLACED)
        assert isinstance(slot, nn.ModuleDict)  # noqa: S101
        return slot

    def _set(self, module: nn.Module, name: str, value: Any) -> None:
        if not hasattr(module, name):
            self._changed.append((module, name))
        setattr(module, name, value)

    def _hook(self, module: nn.Module, owner: nn.Module, calls: int, replaced: bool) -> None:
        if replaced and getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
            self._in_place.append(module)
        if calls == 1:
            hook: Any = _replace if replaced else _quantize_output
            self._hooks.append(module.register_forward_hook(hook))
            return
        self._set(module, "quantized_calls", 0)
        hook = _replace_call if replaced else _quantize_output_of_call
        self._hooks.append(module.register_forward_hook(hook))
        name = next(name for name, each in owner.named_modules() if each is module)
        if not hasattr(owner, "counted_modules"):
            self._set(owner, "counted_modules", ())
            self._hooks.append(owner.register_forward_pre_hook(_start_counts, prepend=True))
        owner.counted_modules = (*owner.counted_modules, name)  # type: ignore[assignment, misc]

    def _exchange(self, owner: nn.Module) -> None:
        for child in _children(owner):
            if not hasattr(child, "calls_running"):
                self._set(child, "calls_running", 0)
                self._hooks += [
                    child.register_forward_pre_hook(_enter, prepend=True),
                    child.register_forward_hook(_leave, always_call=True),
                ]
        original: Any = type(owner)
        owner.__class__ = exchanged_class(_QuantizesItsCalls, original)
        self._exchanged.append(owner)


class _Holders:
    """Modules that quantizers are submodules of.

    Attributes:
        exchanged: Names of the owners whose class is exchanged.
        hooked: By name of the module that a hook is for, its owner and the number of its calls in
            a forward pass of the owner.
    """

    def __init__(self, exchanged: Sequence[str], hooked: Mapping[str, tuple[str, int]]) -> None:
        self.exchanged, self.hooked = exchanged, hooked

    def of(self, site: Site) -> str:
        """Return the name of the module that holds the quantizer of a site."""
        return site.owner if site.owner in self.exchanged else site.via


def _holders(sites: Sequence[Site], quantizers: Mapping[Point, nn.Module]) -> _Holders:
    owners: dict[str, set[str]] = {}
    for site in sites:
        if site.via:
            owners.setdefault(site.via, set()).add(site.owner)
    placed = list(dict.fromkeys(point.site for point in quantizers))
    exchanged = dict.fromkeys(
        site.owner for site in placed if not site.via or len(owners[site.via]) > 1
    )
    calls = Counter(site.via for site in sites)
    hooked = {
        site.via: (site.owner, calls[site.via]) for site in placed if site.owner not in exchanged
    }
    return _Holders(list(exchanged), hooked)


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that a module may call itself, but not those whose calls count as its."""
    for name, child in module.named_children():
        if name == PLACED:
            continue
        if isinstance(child, CONTAINERS):
            yield from _children(child)
        if not isinstance(child, (nn.ModuleList, nn.ModuleDict, *TRANSPARENT)):
            yield child


def _key(kind: str, n: int, part: str) -> str:
    return f"{kind}_{n}" if part == "output" else f"{kind}_{n}_{part}"


class _OwnCalls(TorchFunctionMode):
    """Quantizes at the sites of one module during its forward pass.

    Args:
        owner: The module.
    """

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self._training = owner.training
        self._quantizers: Any = owner._modules[PLACED]
        self._children = list(_children(owner))
        self._counts = dict.fromkeys(_SITES, 0)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        kind = kind_of(func, args, kwargs)
        if kind not in self._counts or self._a_child_runs():
            return func(*args, **kwargs)
        n = self._counts[kind]
        self._counts[kind] = n + 1
        if kind == "add":
            left = self._quantized(_key(kind, n, "left"), args[0])
            right = self._quantized(_key(kind, n, "right"), args[1])
            args = (left, right, *args[2:])
        if kind == "relu" and (key := _key(kind, n, "input")) in self._quantizers:
            return self._quantized(key, args[0])
        return self._quantized(_key(kind, n, "output"), func(*args, **kwargs))

    def _a_child_runs(self) -> bool:
        # A child that was replaced after the insertion, as by SyncBatchNorm, has no counter.
        return any(getattr(child, "calls_running", 0) for child in self._children)

    def _quantized(self, key: str, x: Tensor) -> Tensor:
        if key not in self._quantizers:
            return x
        return quantize(self._quantizers[key], x, self._training)


class _QuantizesItsCalls(Exchanged):
    """Mixin of the classes that modules with quantized calls of functions have."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward pass of the original class, and quantize at its sites."""
        with _OwnCalls(self):
            return super().forward(*args, **kwargs)


# Hooks are functions of this module, not closures, so that a model with them can be pickled.


def _quantize_output(module: Any, args: Any, output: Tensor) -> Tensor:
    return quantize(module._modules[PLACED]["0"], output, module.training)


def _quantize_output_of_call(module: Any, args: Any, output: Tensor) -> Tensor:
    return _quantize_in_turn(module, output, output)


def _replace(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return quantize(module._modules[PLACED]["0"], args[0], module.training)


def _replace_call(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return _quantize_in_turn(module, args[0], output)


def _quantize_in_turn(module: Any, x: Tensor, output: Tensor) -> Tensor:
    """Quantize ``x`` by the quantizer of the present call; ``output`` is returned without one."""
    call = str(module.quantized_calls)
    module.quantized_calls += 1
    quantizers = module._modules[PLACED]
    return quantize(quantizers[call], x, module.training) if call in quantizers else output


def _start_counts(owner: Any, args: Any) -> None:
    for name in owner.counted_modules:
        owner.get_submodule(name).quantized_calls = 0


def _enter(module: Any, args: Any) -> None:
    module.calls_running += 1


def _leave(module: Any, args: Any, output: Any) -> None:
    module.calls_running -= 1


__all__ = ["Insertion", "quantize"]

"""Record the calls of one forward pass: activations, additions, poolings, layers.

A site is a call that one module, its owner, makes itself: the n-th of its kind in a forward pass of
the owner. A call inside an ``nn.ReLU`` or a pooling module belongs to the module that called that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from qbench.quant.state import ATTACHED

Kind = Literal["relu", "max_pool", "avg_pool", "add", "cat", "keep", "layer", "other"]
Part = Literal["output", "input", "left", "right"]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that are iterated, so that they must not get further children."""

TRANSPARENT = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.AvgPool1d, nn.AvgPool2d,
    nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
"""Modules that make one call, which counts as that of the module that calls them."""

_ADD = ("add", "add_", "__add__", "__iadd__", "__radd__")
_CAT = ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack")
_KEEP = frozenset(
    {
        *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze"),
        *("unsqueeze", "permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims"),
        *("contiguous", "clone", "detach", "to", "type", "type_as", "float", "half", "bfloat16"),
        *("double", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "roll", "flip"),
        *("chunk", "split", "tensor_split", "unbind", "narrow", "select", "__getitem__", "index"),
        *("index_select", "gather", "take_along_dim", "dropout", "dropout1d", "dropout2d"),
        *("dropout3d", "feature_dropout", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
        *("native_channel_shuffle", "unfold", "cpu", "cuda", "requires_grad_", "__get__"),
    }
)


@dataclass(frozen=True)
class Site:
    """A call that a module makes in each of its forward passes.

    Attributes:
        owner: Name of the module that makes the call.
        kind: Kind of the call.
        n: Number of calls of the kind that the owner makes before it.
        via: Name of the module through which it makes it, such as an ``nn.ReLU``. Empty for a
            function.
        turn: Number of calls of that module that the owner makes before it.
    """

    owner: str
    kind: Kind
    n: int
    via: str = ""
    turn: int = 0

    @property
    def name(self) -> str:
        """Name of the site, such as ``features.1``, ``layer1.0.relu:1`` or ``layer1.0:add.0``."""
        if self.via:
            return f"{self.via}:{self.turn}" if self.turn else self.via
        return f"{self.owner}:{self.kind}.{self.n}"


@dataclass(frozen=True)
class Point:
    """A tensor at a site: its output, or one of its inputs.

    Attributes:
        site: The site.
        part: Which of its tensors: ``output``, the ``input`` of a pooling or of a ReLU that a
            quantizer replaces, or the ``left`` or the ``right`` input of an addition.
    """

    site: Site
    part: Part = "output"

    @property
    def name(self) -> str:
        """Name of the point, such as ``layer1.0:add.0.left``."""
        return self.site.name + ("" if self.part == "output" else f".{self.part}")


@dataclass(frozen=True)
class Call:
    """One call in a forward pass.

    Attributes:
        kind: Kind of the call. ``keep`` moves values and makes no new ones.
        inputs: Numbers of the calls that made its inputs, in the order of the pass. None for a
            tensor that no call made, such as an input of the model.
        site: Site of a ReLU, a pooling or an addition.
        layer: Name of the convolution or linear layer that is called.
        placeable: Whether a quantizer can be inserted at the site.
    """

    kind: Kind
    inputs: tuple[int | None, ...] = ()
    site: Site | None = None
    layer: str = ""
    placeable: bool = True


def kind_of(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Kind:
    """Return the kind of a call of a torch function.

    Args:
        func: The function, as a ``TorchFunctionMode`` receives it.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    name: str = getattr(func, "__name__", "")
    first = args[0] if args else None
    if name in ("relu", "relu_", "relu6", "hardtanh", "hardtanh_"):  # nn.ReLU6 calls hardtanh
        return "relu"
    if name in _ADD:
        return "add" if _is_residual(args) else "other"
    if name in _CAT:
        return "cat"
    if "max_pool" in name:
        return "max_pool"
    if "avg_pool" in name or (name == "mean" and isinstance(first, Tensor) and first.dim() > 2):
        return "avg_pool"
    nearest = name == "interpolate" and kwargs.get("mode", "nearest").startswith("nearest")
    zeros = name == "pad" and _pads_with_zeros(args, kwargs)
    return "keep" if name in _KEEP or nearest or zeros else "other"


def _is_residual(args: tuple[Any, ...]) -> bool:
    """Return whether an addition is of two feature maps of the same shape."""
    pair = args[:2]
    return (
        len(pair) == 2
        and all(isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 2 for x in pair)
        and pair[0].shape == pair[1].shape
    )


def _pads_with_zeros(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
    value = args[3] if len(args) > 3 else kwargs.get("value")
    return mode == "constant" and not value


def _pools_nothing(func: Callable[..., Any], given: Sequence[Tensor], output: Any) -> bool:
    """Return whether an adaptive pooling puts out its input, as to the 6×6 that it has already."""
    adaptive = getattr(func, "__name__", "").startswith("adaptive_")
    return adaptive and isinstance(output, Tensor) and output.shape == given[0].shape


@torch.no_grad()
def find_calls(model: nn.Module, layers: Mapping[str, nn.Module], batch: Any) -> list[Call]:
    """Run a model once and return the calls that it makes.

    Args:
        model: Model in evaluation mode, without quantizers.
        layers: Its convolutions and linear layers, by name. What they do inside is not recorded.
        batch: Input of the model.

    Returns:
        The calls, in their order.
    """
    with _Recorder(model, layers, (), _ignore) as recorder:
        model(batch)
    several = _called_by_several(call.site for call in recorder.calls if call.site is not None)
    modules = dict(model.named_modules())

    def is_placeable(site: Site) -> bool:
        hooked = site.via and site.via not in several and site.kind != "add"
        owner = modules[site.owner]
        return bool(hooked) or not (isinstance(owner, CONTAINERS) or "forward" in vars(owner))

    return [
        call
        if call.site is None or not call.placeable
        else Call(call.kind, call.inputs, call.site, call.layer, is_placeable(call.site))
        for call in recorder.calls
    ]


@contextmanager
def observed_points(
    model: nn.Module,
    layers: Iterable[nn.Module],
    points: Collection[Point],
    observe: Callable[[Point, Tensor], None],
) -> Iterator[None]:
    """Context manager that passes the tensors at points to a function.

    Args:
        model: Model that the sites belong to, with or without quantizers.
        layers: Its convolutions and linear layers.
        points: Points to observe.
        observe: Called with a point and its tensor, in every forward pass.
    """
    with _Recorder(model, {str(i): m for i, m in enumerate(layers)}, points, observe):
        yield


def _ignore(point: Point, x: Tensor) -> None:
    return None


def _called_by_several(sites: Iterable[Site]) -> set[str]:
    """Return the modules through which several owners call."""
    owners: dict[str, set[str]] = {}
    for site in sites:
        if site.via:
            owners.setdefault(site.via, set()).add(site.owner)
    return {via for via, found in owners.items() if len(found) > 1}


@dataclass
class _Frame:
    """A module that is being called, and the calls that it has made so far."""

    module: nn.Module
    counts: Counter[Kind] = field(default_factory=Counter)
    turns: Counter[nn.Module] = field(default_factory=Counter)


class _Recorder(TorchFunctionMode):
    """Records calls, and passes tensors at points to a function.

    Args:
        model: The model.
        layers: Layers by name.
        points: Points to observe.
        observe: Called with a point and its tensor.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        points: Collection[Point],
        observe: Callable[[Point, Tensor], None],
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._model, self._points, self._observe = model, frozenset(points), observe
        self._layers = {module: name for name, module in layers.items()}
        self._names = {module: name for name, module in model.named_modules()}
        self._frames: list[_Frame] = []
        self._closed = 0  # layers and quantizers that are being called
        self._made: Any = WeakIdKeyDictionary()  # tensor -> number of the call that made it
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> _Recorder:
        for module in self._model.modules():
            self._hooks += [
                module.register_forward_pre_hook(self._enter_module, prepend=True),
                module.register_forward_hook(self._leave_module, always_call=True),
            ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._is_closed(module):
            if not self._closed and module in self._layers:
                read = tuple(map(self._maker, args[:1]))
                self.calls.append(Call("layer", read, layer=self._layers[module]))
            self._closed += 1
        self._frames.append(_Frame(module))

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._frames.pop()
        if self._is_closed(module):
            self._closed -= 1
            if not self._closed and module in self._layers:
                self._note(output, self._last_of(self._layers[module]))

    def _is_closed(self, module: nn.Module) -> bool:
        return module in self._layers or hasattr(module, ATTACHED)

    def _last_of(self, layer: str) -> int:
        numbers = range(len(self.calls) - 1, -1, -1)
        return next(i for i in numbers if self.calls[i].layer == layer)

    def _maker(self, x: Any) -> int | None:
        found: int | None = self._made.get(x) if isinstance(x, Tensor) else None
        return found

    def _note(self, output: Any, number: int) -> None:
        for x in tree_leaves(output):
            if isinstance(x, Tensor):
                self._made[x] = number

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._closed or not self._frames:
            return func(*args, **kwargs)
        kind = kind_of(func, args, kwargs)
        given = [x for x in tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]
        read = [self._maker(x) for x in given]
        site = self._site(kind)
        if site is not None:
            self._pass(site, ("left", "right") if kind == "add" else ("input",), given)
        output = func(*args, **kwargs)
        made = args[0] if getattr(func, "__name__", "") == "__setitem__" else output
        if not any(isinstance(x, Tensor) for x in tree_leaves(made)):
            return output
        if kind == "keep":
            read = read[:1]  # further tensors are indices
        whole = isinstance(output, Tensor)
        if (kind == "max_pool" and not whole) or _pools_nothing(func, given, output):
            kind, site = "keep", None  # values and indices, or the input itself
        if site is not None:
            self._pass(site, ("output",), [output])
        self.calls.append(Call(kind, tuple(read), site, placeable=whole))
        self._note(made, len(self.calls) - 1)
        return output

    def _site(self, kind: Kind) -> Site | None:
        """Return the site of a call that is made now, and count it."""
        if kind not in ("relu", "max_pool", "avg_pool", "add"):
            return None
        inner = self._frames[-1].module
        through = len(self._frames) > 1 and isinstance(inner, TRANSPARENT)
        frame = self._frames[-2 if through else -1]
        n, turn = frame.counts[kind], frame.turns[inner]
        frame.counts[kind] += 1
        if through:
            frame.turns[inner] += 1
            return Site(self._names[frame.module], kind, n, self._names[inner], turn)
        return Site(self._names[frame.module], kind, n)

    def _pass(self, site: Site, parts: tuple[Part, ...], tensors: list[Tensor]) -> None:
        for part, x in zip(parts, tensors, strict=False):
            point = Point(site, part)
            if point in self._points:
                self._observe(point, x)

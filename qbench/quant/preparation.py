"""Find out whether a method changes a network before quantizers are attached.

Weights that were trained in another network are no start for a changed one. A changed network is
therefore trained in full precision too, and quantized trials start from that one. Networks that are
changed alike for several bit-widths share it: `preparation_of` notes what `Method.prepare` reads of
the bit-widths, and widths that agree in it lead to the same network.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from qbench.method import Method
from qbench.quant.options import build_method, determining_options
from qbench.spec.bits import FLOAT_BITS, BitWidth, BitWidths
from qbench.spec.trial import Preparation

_Path = tuple[str, ...]


def preparation_of(
    method: Method, bits: BitWidths, build: Callable[[], nn.Module]
) -> Preparation | None:
    """Return how a method changes a network, or None if weights of the unchanged network fit.

    Args:
        method: The method.
        bits: Bit-widths of the trial.
        build: Builds the network. It is called on the meta device, and on the CPU if the method
            needs values. The state of the random generators is kept.

    Returns:
        The preparation. Its bit-widths are the first pair that the method does not tell from
        `bits`.

    Raises:
        Exception: Whatever `Method.prepare` raises.
    """
    if type(method).prepare is Method.prepare or method.keeps_weights:
        return None
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                changed, read = _try(method, bits, build())
        except Exception:  # a method that looks at values cannot run without them
            changed, read = _try(method, bits, build())
    if not changed:
        return None
    alike = next(each for each in (*_all_widths(), bits) if _agree(each, read))
    return Preparation(method=method.name, options=determining_options(method), bits=str(alike))


def prepare_as(model: nn.Module, preparation: Preparation) -> nn.Module:
    """Change a network as a preparation says.

    Args:
        model: The network. It may be changed in place.
        preparation: The preparation.

    Returns:
        The changed network.
    """
    method = build_method(preparation.method, preparation.options)
    return method.prepare(model, BitWidths.parse(preparation.bits))


def _try(method: Method, bits: BitWidths, model: nn.Module) -> tuple[bool, dict[_Path, Any]]:
    """Prepare a network; return whether that changed it, and what was read of the bit-widths."""
    read: dict[_Path, Any] = {}
    before = list(_parts(model))
    with _Writes() as writes:
        prepared = method.prepare(model, cast(BitWidths, _Recorded(bits, (), read)))
    after = list(_parts(prepared))
    same = len(before) == len(after) and all(map(_same, before, after))
    return writes.found or not same, read


def _parts(model: nn.Module) -> Iterator[Any]:
    """Yield all that makes up a network: its modules in their order, and what each consists of."""
    for name, module in model.named_modules(remove_duplicate=False):
        yield from (name, module, type(module))
        for key, value in vars(module).items():
            if key == "training":  # a mode, which training sets
                continue
            yield key
            if isinstance(value, dict):
                yield from itertools.chain.from_iterable(value.items())
            elif isinstance(value, list | tuple | set):
                yield from value
            else:
                yield value
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            yield from (tensor.requires_grad, tensor.shape, tensor.untyped_storage()._cdata)


def _same(before: Any, after: Any) -> bool:
    """Return whether two parts are certainly the same."""
    plain = (bool, int, float, str, torch.Size)
    return before is after or (
        type(before) is type(after) and isinstance(before, plain) and before == after
    )


def _all_widths() -> Iterator[BitWidths]:
    every = [BitWidth(bits) for bits in (*range(1, 9), FLOAT_BITS)]
    return (BitWidths(*pair) for pair in itertools.product(every, every))


def _agree(bits: BitWidths, read: dict[_Path, Any]) -> bool:
    """Return whether bit-widths have the values that were read."""
    return all(functools.reduce(getattr, path, bits) == value for path, value in read.items())


class _Writes(TorchDispatchMode):
    """Context manager that notes whether a tensor is written to, also through ``.data``."""

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= func._schema.is_mutable
        return func(*args, **(kwargs or {}))


class _Recorded:
    """Stand-in for bit-widths that notes what is read of them.

    Args:
        value: The bit-widths.
        path: Names of the attributes that lead to them.
        read: Values by path, to which every read is added.
    """

    def __init__(self, value: Any, path: _Path, read: dict[_Path, Any]) -> None:
        object.__setattr__(self, "_own", (value, path, read))

    def __getattribute__(self, name: str) -> Any:
        value, path, read = object.__getattribute__(self, "_own")
        found = getattr(value, name)
        if isinstance(found, BitWidth):
            return _Recorded(found, (*path, name), read)
        read[*path, name] = found
        return found

    def __eq__(self, other: object) -> bool:
        return bool(_whole(self) == other)

    def __hash__(self) -> int:
        return hash(_whole(self))

    def __str__(self) -> str:
        return str(_whole(self))

    def __repr__(self) -> str:
        return repr(_whole(self))

    def __format__(self, spec: str) -> str:
        return format(_whole(self), spec)


def _whole(recorded: _Recorded) -> Any:
    """Return the recorded bit-widths, and note that all of them were read."""
    value, path, read = object.__getattribute__(recorded, "_own")
    read[path] = value
    return value

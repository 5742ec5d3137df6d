"""Tensors that claim to be on another device, to find device errors without an accelerator.

Their values are ordinary ones on the CPU, so that code that looks at values runs. Their device is
``meta``, which has no kernels of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from qbench.lab.check.promise import BrokenPromiseError

_HERE, _DEVICE = torch.device("cpu"), torch.device("meta")
_FROM_DATA = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
_ANY_DEVICE = ("copy_", "_to_copy", "index", "index_put_", "_index_put_impl_")  # PyTorch's own rule


class Elsewhere(Tensor):
    """Tensor on another device.

    Args:
        values: Its values, a tensor on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Elsewhere:
        """Make a tensor with the shape and dtype of ``values`` that is on another device."""
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=_DEVICE
        )
        made.held = values.detach()
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Compute an operation with the values."""
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = any(isinstance(each, Elsewhere) for each in tensors)
    name = func._schema.name.removeprefix("aten::")
    if away and name not in _ANY_DEVICE:
        for each in tensors:
            if not isinstance(each, Elsewhere) and each.dim():
                raise BrokenPromiseError(
                    f"forward computes {name} of a tensor on the layer's device and of one on the "
                    f"CPU of shape {tuple(each.shape)}: make it with device=x.device, or register "
                    "it as a buffer"
                )
    result = func(*tree_map(_bring, args), **tree_map(_bring, kwargs))
    if func._schema.is_mutable:
        return args[0]
    device = kwargs.get("device")
    if device is not None:
        away = torch.device(device) == _DEVICE
    return tree_map(_send, result) if away else result


def _bring(x: Any) -> Any:
    """Return the values of a tensor that is elsewhere, and this device for the other."""
    if isinstance(x, Elsewhere):
        return x.held
    return _HERE if isinstance(x, torch.device) else x


def _send(x: Any) -> Any:
    return Elsewhere(x) if isinstance(x, Tensor) else x


class _Operations(TorchDispatchMode):
    """Mode that makes tensors elsewhere where an operation asks for that device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _compute(func, args, kwargs or {})


class _Data(TorchFunctionMode):
    """Mode that makes tensors elsewhere from Python numbers."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func is Tensor.new_tensor and device is None:
            device = args[0].device
        if func not in _FROM_DATA or device is None or torch.device(device) != _DEVICE:
            return func(*args, **kwargs)
        return _send(func(*tree_map(_bring, args), **(kwargs | {"device": _HERE})))


@contextmanager
def elsewhere() -> Iterator[None]:
    """Context manager in which new tensors can be made on the other device."""
    with _Data(), _Operations():
        yield


def send(modules: Sequence[nn.Module]) -> None:
    """Move the parameters and buffers of modules to the other device.

    Args:
        modules: The modules; a tensor that they share stays shared.
    """
    sent: dict[Tensor, Tensor] = {}
    for module in dict.fromkeys(each for one in modules for each in one.modules()):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                fresh = nn.Parameter(Elsewhere(parameter.data), parameter.requires_grad)
                module._parameters[name] = sent.setdefault(parameter, fresh)  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = sent.setdefault(buffer, Elsewhere(buffer))

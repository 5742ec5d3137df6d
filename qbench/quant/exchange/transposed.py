"""Transposed convolutions whose weight has its output channels first.

torch stores the weight of a transposed convolution as (in, out / groups, …). Here it is
(out, in / groups, …), as that of a convolution, so that an output channel is a row for every method
and every granularity. States have torch's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def output_first(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight of a layer with its output channels first.

    Args:
        module: The layer.
        weight: Its weight as a state has it.

    Returns:
        (out, in / groups, …), also for a transposed convolution.

    Example:
        >>> layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
        >>> output_first(layer, layer.weight).shape
        torch.Size([6, 2, 3, 3])
    """
    return _swapped(weight, module.groups) if isinstance(module, _TRANSPOSED) else weight


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FUNCTIONS = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """Swap the channels of a weight within groups. Twice is the identity."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


class _OutputFirst(nn.Module):
    """Mixin of transposed convolutions whose weight has its output channels first."""

    def restore(self) -> None:
        """Make the module what it was."""
        weight: Any = self._parameters["weight"]
        weight.data = _swapped(weight.data, self.groups).contiguous()  # type: ignore[arg-type]
        weight.grad = None
        self.__class__ = type(self).__bases__[1]

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Apply the transposed convolution to ``x``, (N, in, …)."""
        layer: Any = self
        padding = layer._output_padding(
            *(x, output_size, layer.stride, layer.padding, layer.kernel_size),
            num_spatial_dims=len(layer.kernel_size),
            dilation=layer.dilation,
        )
        function: Callable[..., Tensor] = _FUNCTIONS[len(layer.kernel_size) - 1]
        weight = _swapped(layer.weight, layer.groups)
        settings = (layer.stride, layer.padding, padding, layer.groups, layer.dilation)
        return function(x, weight, layer.bias, *settings)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state with torch's shape of the weight."""
        state = super().state_dict(*args, **kwargs)
        name = f"{kwargs.get('prefix', '')}weight"
        if name in state:
            state[name] = _swapped(state[name], self.groups)  # type: ignore[arg-type]
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if (name := f"{prefix}weight") in state_dict:
            state_dict[name] = _swapped(state_dict[name], self.groups)  # type: ignore[arg-type]
        super()._load_from_state_dict(state_dict, prefix, *args)


class OutputFirst1d(_OutputFirst, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` whose weight has its output channels first."""


class OutputFirst2d(_OutputFirst, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` whose weight has its output channels first."""


class OutputFirst3d(_OutputFirst, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` whose weight has its output channels first."""


TRANSPOSED: tuple[type[_OutputFirst], ...] = (OutputFirst1d, OutputFirst2d, OutputFirst3d)
"""Classes of transposed convolutions that can be quantized."""
_EXCHANGED = dict(zip(_TRANSPOSED, TRANSPOSED, strict=True))


def accepts(module: nn.Module) -> bool:
    """Return whether a module is a transposed convolution with a plain weight."""
    return type(module) in _EXCHANGED and module._parameters.get("weight") is not None


def exchange(module: nn.Module) -> None:
    """Exchange the class of a transposed convolution, in place."""
    weight: Any = module._parameters["weight"]
    weight.data = _swapped(weight.data, module.groups).contiguous()  # type: ignore[arg-type]
    weight.grad = None
    module.__class__ = _EXCHANGED[type(module)]  # type: ignore[index]

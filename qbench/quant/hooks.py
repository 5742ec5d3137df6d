"""Forward hooks that observe a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from qbench.method import Layer


@contextmanager
def observed_inputs(
    layers: Iterable[Layer], observe: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Context manager that passes the input of each layer to a function.

    Hooks run in the order of their registration. So where a layer has an input quantizer,
    the function receives the quantized input.

    Args:
        layers: Layers to observe.
        observe: Called with a layer's name and its input, in every forward pass.
    """

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            observe(name, args[0])

        return hook

    hooks = [each.module.register_forward_pre_hook(hook_of(each.name)) for each in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

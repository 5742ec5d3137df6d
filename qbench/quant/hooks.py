"""Forward hooks that observe the modules of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from qbench.method import Layer


@contextmanager
def observed(
    modules: Mapping[str, nn.Module], observe: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """Context manager that passes the input and the output of modules to a function.

    Hooks run in the order of their registration. So the function receives the input and the output
    as the hooks that were registered before leave them.

    Args:
        modules: Modules to observe, by name.
        observe: Called with a module's name, its input and its output, in every forward pass.
    """

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            observe(name, args[0], output)

        return hook

    hooks = [module.register_forward_hook(hook_of(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def observed_inputs(
    layers: Iterable[Layer], observe: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Context manager that passes the input of each layer to a function.

    Where a layer has an activation quantizer, the function receives the quantized input.

    Args:
        layers: Layers to observe.
        observe: Called with a layer's name and its input, in every forward pass.
    """
    modules = {layer.name: layer.module for layer in layers}
    with observed(modules, lambda name, x, output: observe(name, x)):
        yield

"""Forward hooks that observe the modules of a model, or bypass quantizers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qbench.errors import QbenchError
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

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Flatten())
        >>> with observed({"relu": model[0]}, lambda name, x, y: print(name, x.sum(), y.sum())):
        ...     _ = model(torch.tensor([[-1.0, 2.0]]))
        relu tensor(1.) tensor(2.)
    """

    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            with torch._C.DisableTorchFunction():  # what it adds is no addition of the model
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


@contextmanager
def bypassed(
    layers: Sequence[Layer], *, weights: bool = True, activations: bool = True
) -> Iterator[None]:
    """Context manager in which layers compute with full-precision weights and inputs.

    Their quantizers stay attached. What they compute is replaced by their input.

    Args:
        layers: Layers whose quantizers to bypass.
        weights: Whether to bypass the quantizers of weights.
        activations: Whether to bypass the quantizers of inputs.

    Example:
        >>> from qbench.method import BitWidth
        >>> layer = Layer("fc", nn.Linear(2, 2), BitWidth(2), BitWidth(32))
        >>> layer.weight_quantizer = nn.Threshold(0.5, 0.0)
        >>> with bypassed([layer]):
        ...     layer.weight_quantizer(torch.tensor([0.2, 0.7]))
        tensor([0.2000, 0.7000])
    """
    quantizers = [layer.weight_quantizer for layer in layers if weights]
    quantizers += [layer.activation_quantizer for layer in layers if activations]
    hooks = [q.register_forward_hook(_return_input) for q in quantizers if q is not None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def batch_statistics(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context manager in which batch normalization uses the statistics of each batch.

    It does so in evaluation mode too, and its running statistics stay as they are.

    Args:
        modules: Modules of a model; those that are no batch normalization are left alone.

    Example:
        >>> norm = nn.BatchNorm1d(1).eval()
        >>> with batch_statistics([norm]):
        ...     norm(torch.tensor([[3.0], [5.0]])).round(decimals=2).flatten().tolist()
        [-1.0, 1.0]
    """
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    running = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, mean, variance in running:
            norm.running_mean, norm.running_var = mean, variance


@torch.no_grad()
def record(
    model: nn.Module,
    layer: Layer,
    batches: Iterable[Tensor],
    select: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Run a model and return what a function selects of a layer's inputs and outputs.

    Args:
        model: Model that contains the layer.
        layer: Layer to record.
        batches: Inputs of the model.
        select: Function from the input and the output of a forward pass to a tensor.

    Returns:
        The tensors of all passes, concatenated along the first dimension.

    Raises:
        QbenchError: The layer is called with inputs of several shapes, or for parts of its weight.

    Example:
        >>> from qbench.method import BitWidth
        >>> model = nn.Sequential(nn.ReLU(), nn.Flatten())
        >>> layer = Layer("0", model[0], BitWidth(32), BitWidth(32))
        >>> record(model, layer, [torch.tensor([[-1.0, 2.0]])], lambda x, y: y)
        tensor([[0., 2.]])
    """
    found: list[Tensor] = []
    calls: set[str] = set()

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        x, *others = args
        calls.add(repr((tuple(x.shape[1:]), others, kwargs)))
        found.append(select(x, output).clone())

    handle = layer.module.register_forward_hook(hook, with_kwargs=True)
    try:
        for batch in batches:
            model(batch)
    finally:
        handle.remove()
    check_calls(layer.name, calls)
    return torch.cat(found)


def check_calls(name: str, calls: Collection[str]) -> None:
    """Check that a layer was called in one way only.

    Args:
        name: Name of the layer.
        calls: Descriptions of its calls, each once.

    Raises:
        QbenchError: There are several.
    """
    if len(calls) > 1:
        raise QbenchError(
            f"'{name}' is called with inputs of several shapes or for parts of its weight, "
            "as in cross-attention, and the method calibrates it on calls of one kind; leave it "
            f"out with layers={['*', f'!{name}']}"
        )


def _return_input(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
    return args[0]

"""Blocks of a model, which post-training methods reconstruct one after the other.

A block is a part of a model that can be computed alone: a residual block, a block of a
transformer, or a single layer. A method learns its quantizers from what the block computes at full
precision, and from the input that it has in the quantized model::

    for block in find_blocks(self, model, batches[0]):
        with bypassed([*self.layers, *self.places]):
            _, target = block.record(model, batches)
        seen, _ = block.record(model, batches)
        …  # change the quantizers of block.layers and block.places: block(seen) is to be target
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qbench.method import Layer, Method
from qbench.quant.exchange.modules import is_attention
from qbench.quant.hooks import check_calls, observed
from qbench.quant.layers import quantizable_layers
from qbench.quant.placement.sites import Call, find_calls

_FOLLOWING = (
    _BatchNorm, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU,
    nn.Hardswish, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
)  # fmt: skip


@dataclass(eq=False)
class Block:
    """A part of a model that can be computed alone.

    Attributes:
        name: Name of its first module.
        modules: Modules that are called one after the other.
        layers: Its quantized layers.
        places: All in it that has an activation quantizer.
    """

    name: str
    modules: tuple[nn.Module, ...]
    layers: tuple[Layer, ...]
    places: tuple[Layer, ...]

    @property
    def channel_dim(self) -> int:
        """Dimension of the channels of its output: the last behind a linear layer, else 1."""
        return -1 if isinstance(self.layers[-1].module, nn.Linear) else 1

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the block.

        Args:
            x: Input of the block, (images, …).

        Returns:
            Its output, (images, …).
        """
        for module in self.modules:
            x = module(x)
        return x

    @torch.no_grad()
    def record(self, model: nn.Module, batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
        """Run a model and return the inputs and the outputs of the block.

        Args:
            model: Model that contains the block.
            batches: Inputs of the model.

        Returns:
            Inputs, before a quantizer at the input of its first layer, and outputs, (images, …)
            each.

        Raises:
            QbenchError: The block is called with inputs of several shapes, or for parts of its
                weight.
        """
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        calls: set[str] = set()

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x, *others = args
            calls.add(repr((tuple(x.shape[1:]), others, kwargs)))
            inputs.append(x.clone())

        def leave(_: nn.Module, args: Any, output: Tensor) -> None:
            outputs.append(output.clone())

        first, last = self.modules[0], self.modules[-1]
        hooks = [
            first.register_forward_pre_hook(enter, prepend=True, with_kwargs=True),
            last.register_forward_hook(leave),
        ]
        try:
            for batch in batches:
                model(batch)
        finally:
            for hook in hooks:
                hook.remove()
        check_calls(self.name, calls)
        return torch.cat(inputs), torch.cat(outputs)


def find_blocks(method: Method, model: nn.Module, batch: Any) -> list[Block]:
    """Divide the quantized layers of a model into blocks.

    A module that adds feature maps of one shape is a residual block, and so are the other modules
    of its class; of nested ones, the innermost. Each other layer is a block of its own, with the
    normalization, the activation function and the max-pooling that follow it in an
    ``nn.Sequential``. A residual block that is not called once, with one tensor, is divided into
    its layers.

    Args:
        method: Method that is attached to the model.
        model: The model, in evaluation mode.
        batch: Inputs of the model.

    Returns:
        Blocks with a quantized layer, in the order of their first layers in a forward pass. Layers
        that the pass does not call are in none.

    Example:
        >>> from qbench.quant.attach import attach
        >>> from qbench.quant.options import build_method
        >>> layers = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        >>> model, method = nn.Sequential(*layers), build_method("twn", {})
        >>> handle = attach(model, method, bits="2/32", layers="all")
        >>> [len(block.modules) for block in find_blocks(method, model, torch.ones(2, 4))]
        [2, 2, 1]
    """
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items()}
    calls = find_calls(model, quantizable_layers(model), batch)
    block_of = {
        inner: module
        for module in _residual_blocks(model, modules, calls, batch)
        for inner in module.modules()
    }
    members: dict[nn.Module, list[Layer]] = defaultdict(list)
    layers = {layer.name: layer for layer in method.layers}
    for called in dict.fromkeys(call.layer for call in calls):
        if called in layers:
            module = layers[called].module
            members[block_of.get(module, module)].append(layers[called])
    blocks = []
    for module, inside in members.items():
        chain = (module,) if module in block_of else (module, *_following(module, modules, names))
        contained = {each for part in chain for each in part.modules()}
        places = tuple(place for place in method.places if place.module in contained)
        blocks.append(Block(names[module], chain, tuple(inside), places))
    return blocks


@torch.no_grad()
def _residual_blocks(
    model: nn.Module, modules: Mapping[str, nn.Module], calls: Sequence[Call], batch: Any
) -> list[nn.Module]:
    """Return the innermost residual blocks that are called once, with one tensor."""
    adding = {modules[c.site.owner] for c in calls if c.kind == "add" and c.site is not None}
    adding -= {inner for m in model.modules() if is_attention(m) for inner in m.modules()} | {model}
    kinds = {_kind(module) for module in adding}
    found = {m for m in model.modules() if m is not model and _kind(m) in kinds}
    innermost = [m for m in found if found.isdisjoint(set(m.modules()) - {m})]
    accepted: dict[nn.Module, list[bool]] = defaultdict(list)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
        one = len(args) == 1 and not kwargs
        accepted[module].append(one and all(isinstance(x, Tensor) for x in (*args, output)))

    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in innermost]
    try:
        model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [module for module in innermost if accepted[module] == [True]]


def _kind(module: nn.Module) -> str:
    """Return the name of a module's class, which inserted quantizers keep."""
    return type(module).__name__


def _following(
    layer: nn.Module, modules: Mapping[str, nn.Module], names: Mapping[nn.Module, str]
) -> list[nn.Module]:
    """Return what follows a layer in its ``nn.Sequential``, up to what a block does not contain."""
    parent = modules[names[layer].rpartition(".")[0]]
    if not isinstance(parent, nn.Sequential):
        return []
    siblings = list(parent)
    found: list[nn.Module] = []
    for module in siblings[siblings.index(layer) + 1 :]:
        if not isinstance(module, _FOLLOWING):
            break
        found.append(module)
    return found


def norm_readers(
    model: nn.Module, layers: Sequence[Layer], batch: Any
) -> list[tuple[nn.LayerNorm, Layer]]:
    """Return the layer normalizations that a single quantized layer reads, with that layer.

    Between both there may be what moves values alone, such as the division into windows, but no
    padding.

    Args:
        model: The model, in evaluation mode.
        layers: Its quantized layers.
        batch: Inputs of the model.

    Returns:
        Pairs in the order of a forward pass.

    Example:
        >>> from qbench.method import BitWidth
        >>> model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
        >>> layer = Layer("1", model[1], BitWidth(4), BitWidth(4))
        >>> [reader.name for _, reader in norm_readers(model, [layer], torch.ones(2, 4))]
        ['1']
    """
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    quantized = {layer.name: layer for layer in layers}
    sizes: dict[str, int] = {}  # of the output of a normalization, of the input of a layer

    def note(name: str, x: Tensor, y: Tensor) -> None:
        sizes[name] = (y if name in norms else x).numel()

    readers_of = {name: layer.module for name, layer in quantized.items()}
    with observed({**norms, **readers_of}, note):
        calls = find_calls(model, {**quantizable_layers(model), **norms}, batch)
    times = Counter(call.layer for call in calls if call.layer)
    origin: dict[int, int] = {}  # of a call that only moves values: what it reads of
    readers: dict[int, set[int]] = defaultdict(set)
    for number, call in enumerate(calls):
        for read in call.inputs:
            source = None if read is None else origin.get(read, read)
            if source is not None and call.kind == "keep":
                origin[number] = source
            elif source is not None:
                readers[source].add(number)
    found = []
    for number, call in enumerate(calls):
        following = [calls[reader].layer for reader in readers[number]]
        if call.layer not in norms or len(following) != 1 or following[0] not in quantized:
            continue
        pair = (call.layer, following[0])
        if all(times[name] == 1 for name in pair) and len({sizes[name] for name in pair}) == 1:
            found.append((norms[pair[0]], quantized[pair[1]]))
    return found


__all__ = ["Block", "find_blocks", "norm_readers"]

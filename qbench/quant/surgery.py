"""Change the layers of a network before it is quantized, for `Method.prepare`.

The functions change the model in place and return it. `relu_channels` only looks at it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

RELU = (nn.ReLU, nn.ReLU6)
"""Activation functions whose output is never negative, so that its sign is always +1."""

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

MakeActivation = Callable[[int], nn.Module]
"""Builds an activation function for a number of channels."""


def replace_modules(
    model: nn.Module,
    kind: type[nn.Module] | tuple[type[nn.Module], ...],
    new: type[nn.Module],
    **options: Any,
) -> nn.Module:
    """Replace every submodule of a class by a new module.

    Args:
        model: Model to change, in place.
        kind: Class to replace, or several; subclasses are replaced too. `RELU` are ReLU and ReLU6.
        new: Class of the new modules.
        options: Keyword arguments for `new`.

    Returns:
        The same model.

    Example:
        >>> from torch import nn
        >>> replace_modules(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), RELU, nn.Hardtanh)[1]
        Hardtanh(min_val=-1.0, max_val=1.0)
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, new(**options))
    return model


def relu_channels(model: nn.Module) -> dict[str, int]:
    """Return the number of channels of each ReLU, by name, where it can be told.

    It is that of the last convolution or batch normalization before, in the order of the modules.
    Behind a linear layer without normalization it cannot be told.

    Args:
        model: The model.

    Example:
        >>> relu_channels(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()))
        {'1': 8}
    """
    found: dict[str, int] = {}
    channels = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            channels = module.out_channels
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            channels = module.num_features
        elif isinstance(module, nn.Linear):
            channels = None
        elif isinstance(module, RELU) and channels is not None:
            found[name] = channels
    return found


def pass_signs(model: nn.Module) -> nn.Module:
    """Replace ReLUs by hard tanhs, so that signs reach the next layer.

    A ReLU stays where its output is not quantized by sign: where a normalization follows, or only
    the classifier, which the networks of Rastegari et al. (ECCV 2016) and Wan et al. (ECCV 2018)
    leave at full precision.

    Args:
        model: Model to change, in place. What follows a ReLU is read from the order of
            ``modules()``: a convolution, a linear layer or a normalization.

    Returns:
        The same model.

    Example:
        >>> from torch import nn
        >>> layers = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        >>> [type(module).__name__ for module in pass_signs(nn.Sequential(*layers))]
        ['Linear', 'Hardtanh', 'Linear', 'ReLU', 'Linear']
    """
    layers = [m for m in model.modules() if isinstance(m, (*_LAYERS, *_NORMS, *RELU))]
    last = next((m for m in reversed(layers) if isinstance(m, _LAYERS)), None)
    following: nn.Module | None = None
    kept = set()
    for module in reversed(layers):
        if not isinstance(module, RELU):
            following = module
        elif following is last or isinstance(following, _NORMS):
            kept.add(module)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, RELU) and child not in kept:
                setattr(parent, name, nn.Hardtanh())
    return model


def pool_before_norm(model: nn.Module) -> nn.Module:
    """Move every max-pooling before the normalization that it follows.

    Normalization, ReLU, max-pooling becomes max-pooling, normalization, ReLU, so that the input of
    the next layer has just been normalized. Methods that take the sign of an input need that: the
    maximum of normalized values is nearly always above 0, so its sign carries little information
    (Rastegari et al., ECCV 2016, Section 3.2).

    Args:
        model: Model to change, in place. Only ``nn.Sequential`` containers are reordered, because
            only there the order of layers is known. Each module keeps its name. Pooling that a
            normalization follows stays in its place.

    Returns:
        The same model.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        >>> [type(module).__name__ for module in pool_before_norm(model)]
        ['MaxPool2d', 'BatchNorm2d', 'ReLU']
    """
    for block in model.modules():
        if isinstance(block, nn.Sequential):
            parts = list(block._modules.items())
            for i in range(len(parts) - 2):
                norm, activation, pool, *following = (part for _, part in parts[i : i + 4])
                if (
                    isinstance(norm, nn.BatchNorm2d)
                    and isinstance(activation, RELU)
                    and isinstance(pool, nn.MaxPool2d)
                    and not any(isinstance(part, nn.BatchNorm2d) for part in following)
                ):
                    parts[i : i + 3] = [parts[i + 2], parts[i], parts[i + 1]]
            block._modules.clear()
            block._modules.update(parts)
    return model


def add_shortcuts(model: nn.Module, after: MakeActivation) -> nn.Module:
    """Add a shortcut around every convolution but the first, and remove ReLUs.

    This is the block of Bi-Real Net (Liu et al., ECCV 2018, arXiv:1808.00278). Convolutions of size
    1×1 get no shortcut, and one that no batch normalization follows gets none either.

    Args:
        model: Network of ``nn.Sequential`` blocks (convolution, normalization, ReLU) or of
            torchvision's basic residual blocks. It is changed in place.
        after: Builds the module that follows a sum, from its number of channels.

    Returns:
        The same model.

    Example:
        >>> from torch import nn
        >>> blocks = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3),
        ...     nn.Conv2d(8, 8, 3, padding=1),
        ...     nn.BatchNorm2d(8),
        ...     nn.ReLU(),
        ... )
        >>> model = add_shortcuts(blocks, lambda channels: nn.PReLU(channels))
        >>> [type(module).__name__ for module in model]
        ['Conv2d', 'Shortcut', 'Identity', 'Identity']
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            parts = ("conv1", "bn1", "conv2", "bn2", "downsample")
            if all(hasattr(child, part) for part in parts) and not hasattr(child, "conv3"):
                setattr(parent, name, _two_shortcuts(child, after))
    for parent in list(model.modules()):
        if isinstance(parent, nn.Sequential) and not isinstance(parent, _Shortcuts):
            _wrap_convolutions(parent, first, after)
    return replace_modules(model, RELU, nn.Identity)


def widen(model: nn.Module, factor: int) -> nn.Module:
    """Multiply the channels of every layer and initialize all layers randomly.

    This is how WRPN (Mishra et al., ICLR 2018, arXiv:1709.01134) regains accuracy.

    Args:
        model: Network of convolutions, linear layers and batch normalizations. It is changed in
            place.
        factor: Factor on the number of channels, at least 1. The inputs of the first layer and the
            outputs of the last one keep their number.

    Returns:
        The same model.

    Example:
        >>> from torch import nn
        >>> widen(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), 2)
        Sequential(
          (0): Linear(in_features=4, out_features=16, bias=True)
          (1): Linear(in_features=16, out_features=2, bias=True)
        )
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        inputs = 1 if layer is layers[0] else factor
        outputs = 1 if layer is layers[-1] else factor
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1:
                layer.groups *= factor
            layer.in_channels *= inputs
            layer.out_channels *= outputs
            shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
        else:
            layer.in_features *= inputs
            layer.out_features *= outputs
            shape = (layer.out_features, layer.in_features)
        layer.weight = nn.Parameter(layer.weight.new_empty(shape))
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.new_empty(shape[0]))
        layer.reset_parameters()
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.num_features *= factor
        for name in ("weight", "bias"):
            setattr(norm, name, nn.Parameter(norm.get_parameter(name).repeat(factor)))
        for name in ("running_mean", "running_var"):
            setattr(norm, name, norm.get_buffer(name).repeat(factor))
        norm.reset_parameters()
    return model


class Shortcut(nn.Module):
    """Convolution and normalization with a shortcut around both.

    Args:
        convolution: The convolution.
        norm: Its normalization, after pooling if there is any.
        after: Module that follows the sum.
        downsample: Shortcut where shapes differ. If None, the shortcut is averaged over the stride
            and its channels are repeated.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        norm: nn.Module,
        after: nn.Module,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.convolution, self.norm, self.after = convolution, norm, after
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the shape that the convolution gives it."""
        y: Tensor = self.norm(self.convolution(x))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        if shortcut.shape[2:] != y.shape[2:]:
            shortcut = F.adaptive_avg_pool2d(shortcut, (y.shape[2], y.shape[3]))
        if shortcut.shape[1] != y.shape[1]:
            times = -(-y.shape[1] // shortcut.shape[1])
            shortcut = shortcut.repeat(1, times, 1, 1)[:, : y.shape[1]]
        passed: Tensor = self.after(y + shortcut)
        return passed


class FloatConvolution(nn.Module):
    """1×1 convolution that stays at full precision, because no layer policy selects it.

    Args:
        convolution: Convolution whose weight and bias to use.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = convolution.weight
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` with stride 1."""
        return F.conv2d(x, self.weight, self.bias)


class _Shortcuts(nn.Sequential):
    """Residual block that was turned into two shortcuts."""


def _two_shortcuts(block: nn.Module, after: MakeActivation) -> _Shortcuts:
    """Turn a basic residual block of torchvision into two convolutions with a shortcut each."""
    halves = []
    for number, (convolution, norm) in enumerate(
        ((block.conv1, block.bn1), (block.conv2, block.bn2))
    ):
        assert isinstance(convolution, nn.Conv2d)  # noqa: S101
        assert isinstance(norm, nn.Module)  # noqa: S101
        downsample = None
        if number == 0 and isinstance(block.downsample, nn.Sequential):
            one, its_norm = block.downsample[0], block.downsample[1]
            assert isinstance(one, nn.Conv2d)  # noqa: S101
            pool = nn.AvgPool2d(one.stride, ceil_mode=True)  # type: ignore[arg-type]
            downsample = nn.Sequential(pool, FloatConvolution(one), its_norm)
        halves.append(Shortcut(convolution, norm, _build_after(convolution, after), downsample))
    return _Shortcuts(*halves)


def _wrap_convolutions(
    block: nn.Sequential, first: nn.Module | None, after: MakeActivation
) -> None:
    """Wrap each convolution of a sequence, with its pooling and normalization, in a shortcut."""
    parts = list(block.named_children())
    for i, (name, convolution) in enumerate(parts):
        square = isinstance(convolution, nn.Conv2d) and convolution.kernel_size != (1, 1)
        if not square or convolution is first:
            continue
        assert isinstance(convolution, nn.Conv2d)  # noqa: S101
        pools = itertools.takewhile(lambda part: isinstance(part[1], nn.MaxPool2d), parts[i + 1 :])
        following = parts[i + 1 : i + 2 + len(list(pools))]
        if following and isinstance(following[-1][1], nn.BatchNorm2d):
            modules = [part for _, part in following]
            norm = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
            setattr(block, name, Shortcut(convolution, norm, _build_after(convolution, after)))
            for other, _ in following:
                setattr(block, other, nn.Identity())


def _build_after(convolution: nn.Conv2d, after: MakeActivation) -> nn.Module:
    """Build what follows a convolution's sum, on its device and in its dtype."""
    return after(convolution.out_channels).to(convolution.weight)


__all__ = [
    "RELU",
    "FloatConvolution",
    "MakeActivation",
    "Shortcut",
    "add_shortcuts",
    "pass_signs",
    "pool_before_norm",
    "replace_modules",
    "widen",
]

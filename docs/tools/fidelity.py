"""Writes `docs/fidelity.md`: one tensor through qbench's methods and other codes' versions of them.

    python docs/tools/fidelity.py [--output FOLDER]

qbench's values come through its plugin interface, as a trial gets them. Every other value comes
from a transcription in this file, written from the code that the page links to and sharing nothing
with qbench. Every number on the page is computed here.

w is a weight or an activation, q its quantized value, n a number of steps, [·] rounding.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor, nn

from qbench.method import Layer, Method
from qbench.registry import build_method
from qbench.report.figures.style import COLORS, STYLE
from qbench.spec.bits import FLOAT_BITS, Width

Function = Callable[[Tensor], Tensor]
Rows = list[list[str]]

SHAPE = (32, 16, 3, 3)  # filters, input channels, kernel; or images, channels, pixels
SCALE = 0.05
SAME = 1e-6  # values closer than this are the same

STAIRS: dict[str, Any] = {"color": COLORS[0], "linewidth": 1.8}
OTHER: dict[str, Any] = {"color": COLORS[1], "linewidth": 1.8, "linestyle": (0, (3, 1.5))}
THIRD: dict[str, Any] = {"color": COLORS[2], "linewidth": 1.8, "linestyle": (0, (1, 1))}
THRESHOLD: dict[str, Any] = {"color": "0.3", "linestyle": ":", "linewidth": 1.2}
TENSOR: dict[str, Any] = {"color": "0.86"}
BEHIND: dict[str, Any] = {**TENSOR, "linewidth": 7, "solid_capstyle": "butt"}
END: dict[str, Any] = {"color": COLORS[0], "linestyle": "none", "marker": "o", "markersize": 4}
PANEL = (2.5, 2.05)  # inches


@dataclass(frozen=True)
class Code:
    """A file in which a formula was read.

    Attributes:
        repository: owner and name.
        path: the file.
        commit: at which it was read.
    """

    repository: str
    path: str
    commit: str

    @property
    def label(self) -> str:
        """What links to the file are labelled with."""
        names = Path(self.path).with_suffix("").parts[-2:]
        return "-".join([self.repository.split("/")[1], *names])

    @property
    def definition(self) -> str:
        """Markdown that says where links of that label lead."""
        url = f"https://github.com/{self.repository}/blob/{self.commit}/{self.path}"
        return f"[{self.label}]: {url}"

    def link(self, text: str) -> str:
        """Markdown that links to the file."""
        return f"[{text}][{self.label}]"


COMMITS = {
    "tensorpack/tensorpack": "1547a54e8546494614ca31c984a1bfd1d0e24b77",
    "IntelLabs/distiller": "d859fc85a3c9c3048442a4ccd9b98ac45f1e0dc4",
    "666DZY666/micronet": "c31cdd28ed72376e861704addf718ac485919621",
    "KwangHoonAn/PACT": "342414c29444e0ce0a5d13456c8a09226d04c67b",
    "ModelTC/MQBench": "00f477d58ef67c1c1bbe71d14312731fd3a4960d",
    "zhutmost/lsq-net": "1f644e9b45925354503f2e2d070c56ae8b552202",
    "hustzxd/LSQuantization": "86cf51193ec197ec607d271acaa488fd9a8ff60e",
    "zhaoweicai/hwgq": "ebc706bee3e2d145de1da4be446ce8de8740738f",
    "zhaoweicai/EdMIPS": "690a7c650ea468f8e9273aceb833f1849f980ff9",
    "allenai/XNOR-Net": "4006d594fe0349a5ed4a5ba6795641d9eecb3aac",
    "jiecaoyu/XNOR-Net-PyTorch": "ebccb503b2f9ebc96187a75b6daa63d95b61d110",
    "fengfu-chris/caffe-twns": "51916a4b661ab4153287ca15f677f96dd11b3374",
}


def _at(repository: str, *paths: str) -> list[Code]:
    return [Code(repository, path, COMMITS[repository]) for path in paths]


TENSORPACK, TENSORPACK_NETWORK = _at(
    "tensorpack/tensorpack",
    "examples/DoReFa-Net/dorefa.py",
    "examples/DoReFa-Net/alexnet-dorefa.py",
)
DISTILLER, DISTILLER_PARAMETERS, DISTILLER_DOCUMENTS = _at(
    "IntelLabs/distiller",
    "distiller/quantization/clipped_linear.py",
    "distiller/quantization/q_utils.py",
    "docs-src/docs/algo_quantization.md",
)
MICRONET, MICRONET_BINARY = _at(
    "666DZY666/micronet",
    "micronet/compression/quantization/wqaq/dorefa/quantize.py",
    "micronet/compression/quantization/wbwtab/quantize.py",
)
(KWANGHOONAN,) = _at("KwangHoonAn/PACT", "module.py")
MQBENCH, MQBENCH_LSQ, MQBENCH_OBSERVER, MQBENCH_SCHEME, MQBENCH_GUIDE = _at(
    "ModelTC/MQBench",
    "mqbench/fake_quantize/dorefa.py",
    "mqbench/fake_quantize/lsq.py",
    "mqbench/observer.py",
    "mqbench/scheme.py",
    "docs/source/user_guide/algorithm/algorithm.rst",
)
LSQ_NET, LSQ_NET_FUNCTION, LSQ_NET_DEFAULT, LSQ_NET_EXAMPLE, LSQ_NET_README = _at(
    "zhutmost/lsq-net",
    "quan/quantizer/lsq.py",
    "quan/func.py",
    "config.yaml",
    "examples/lsq/resnet18_a2w3_imagenet.yaml",
    "README.md",
)
(LSQUANTIZATION,) = _at("hustzxd/LSQuantization", "lsq.py")
HWGQ, HWGQ_WEIGHTS, HWGQ_NETWORK = _at(
    "zhaoweicai/hwgq",
    "src/caffe/layers/quant_layer.cpp",
    "src/caffe/layers/binary_conv_layer.cpp",
    "examples/imagenet/res18-hwgq-3ne-clip-poly-320k/train_val.prototxt",
)
(EDMIPS,) = _at("zhaoweicai/EdMIPS", "models/quant_module.py")
XNOR_NET, XNOR_NET_TRAIN, XNOR_NET_INPUT, XNOR_NET_MODEL = _at(
    "allenai/XNOR-Net",
    "util.lua",
    "train.lua",
    "newLayers/BinActiveZ.lua",
    "models/alexnetxnor.lua",
)
(XNOR_PYTORCH,) = _at("jiecaoyu/XNOR-Net-PyTorch", "ImageNet/networks/util.py")
(CAFFE_TWN,) = _at("fengfu-chris/caffe-twns", "src/caffe/blob.cpp")
READ = [value for value in list(globals().values()) if isinstance(value, Code)]


def tensor(seed: int = 0) -> Tensor:
    """A seeded Gaussian tensor of unit variance, shaped like a conv layer's weight.

    Args:
        seed: of numpy's generator, whose stream does not depend on the machine.
    """
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(SHAPE)).float()


# Versions of a method ------------------------------------------------------------------------


@dataclass(frozen=True)
class Version:
    """One code's version of a method, and what it makes of the tensor.

    Attributes:
        name: as in tables, with a link.
        rule: its gradient, in words.
        values: the tensor, quantized.
        slopes: ∂q/∂w of every element but the largest, what its layer's elements share held fixed.
        function: from one value to its quantized value, with the tensor's statistics; None where
            filters have statistics of their own.
    """

    name: str
    rule: str
    values: Tensor
    slopes: Tensor
    function: Function | None = None


def by_value(name: str, rule: str, function: Function, x: Tensor) -> Version:
    """A version that is one function of all elements."""
    return Version(name, rule, function(x).detach(), _slopes(function, x), function)


def by_filter(name: str, rule: str, quantize: Function, x: Tensor) -> Version:
    """A version with statistics for each filter, which ``quantize`` holds fixed."""
    leaf = x.clone().requires_grad_()
    values = quantize(leaf)
    (slopes,) = torch.autograd.grad(values.sum(), leaf)
    return Version(name, rule, values.detach(), slopes.flatten())


def of_qbench(method: str, bits: int, rule: str, x: Tensor, kind: str, **options: Any) -> Version:
    """The version of qbench, built as a trial builds it.

    Its function is read off by handing the quantizer the tensor with more values behind it. That
    changes no statistic as long as these are constants or a maximum that the values stay below.

    Args:
        method: name.
        bits: width.
        rule: its gradient, in words.
        x: the tensor.
        kind: ``weight`` or ``input``.
        options: of the method.
    """
    built = build_method(method, options)
    quantizer = built_quantizer(built, layer_of(bits, kind), x, kind)

    def function(more: Tensor) -> Tensor:
        both: Tensor = quantizer(torch.cat([x.flatten(), more.flatten()]))
        return both[x.numel() :].view_as(more)

    name = named(method, options)
    return Version(name, rule, quantizer(x).detach(), _slopes(function, x), function)


def layer_of(bits: int, kind: str, shape: Sequence[int] = SHAPE) -> Layer:
    """A convolution as a method sees it, its weight or its input of some width.

    Args:
        bits: width.
        kind: ``weight`` or ``input``; the other stays full precision.
        shape: of its weight.
    """
    outputs, inputs, height, width = shape
    widths = {"weight": Width(FLOAT_BITS), "input": Width(FLOAT_BITS), kind: Width(bits)}
    conv = nn.Conv2d(inputs, outputs, (height, width))
    return Layer("conv", conv, widths["weight"], widths["input"])


def built_quantizer(method: Method, layer: Layer, x: Tensor, kind: str) -> nn.Module:
    """A method's quantizer, in evaluation mode.

    Args:
        method: of qbench.
        layer: whose.
        x: the tensor that it is built from.
        kind: ``weight`` or ``input``.

    Raises:
        ValueError: the method leaves that at full precision.
    """
    build = method.weight_quantizer if kind == "weight" else method.input_quantizer
    quantizer = build(layer, x)
    if quantizer is None:
        raise ValueError(f"{method.name} does not quantize a layer's {kind}")
    return quantizer.eval()


def named(method: str, options: Mapping[str, Any]) -> str:
    """A method of qbench with its options, as in tables."""
    words = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in options.items()}
    chosen = ", ".join(f"{name}: {word}" for name, word in words.items())
    return f"**qbench** `{method}`" + (f", `{chosen}`" if chosen else "")


def _slopes(function: Function, x: Tensor) -> Tensor:
    """∂q/∂w, without the largest element, on which a maximum depends."""
    leaf = x.flatten()[x.flatten().abs() < x.abs().max()].clone().requires_grad_()
    (slopes,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return slopes


def steps(function: Function, low: float, high: float) -> tuple[list[float], list[float]]:
    """Thresholds of a staircase between two values, by bisection, and its levels around them.

    Args:
        function: from values to quantized values.
        low: where to start.
        high: where to end.

    Returns:
        Thresholds, ascending, and one level more.
    """
    with torch.no_grad():
        x = torch.linspace(low, high, 8001)
        y = function(x)
        index = ((y[1:] - y[:-1]).abs() > SAME).nonzero().flatten()
        left, right, below = x[index], x[index + 1], y[index]
        for _ in range(20):
            middle = (left + right) / 2
            still = (function(middle) - below).abs() <= SAME
            left, right = torch.where(still, middle, left), torch.where(still, right, middle)
        levels = [*y[index].tolist(), float(y[-1])]
    return right.tolist(), levels


def distinct(values: Tensor) -> list[float]:
    """The values that a tensor takes, ascending."""
    found: list[float] = []
    for value in values.unique().tolist():
        if not found or value - found[-1] > SAME:
            found.append(value)
    return found


def squared_error(values: Tensor, x: Tensor, scaled: bool = False) -> float:
    """Mean squared error over the tensor's mean square; 1 is what zeros have.

    Args:
        values: the quantized tensor.
        x: the tensor.
        scaled: multiply ``values`` by the factor that makes the error smallest first.
    """
    q, w = values.double(), x.double()
    if scaled:
        square = float((q * q).sum())
        q = q * float((q * w).sum()) / square if square > 0 else q
    return float(((q - w) ** 2).mean() / (w**2).mean())


def differing(values: Tensor, ours: Tensor) -> float:
    """Share of elements that get another value."""
    return float(((values - ours).abs() > SAME).double().mean())


# Words and tables ----------------------------------------------------------------------------


def number(value: float, digits: int = 4) -> str:
    """A number with at most so many decimals, or in powers of ten where it is huge."""
    if abs(value) >= 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} · 10^{int(exponent)}"
    text = f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "0") else text.replace("-", "−")


def percent(share: float) -> str:
    """A share, in percent."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{number(100 * share, 1)} %"


def numbers(values: Iterable[float], digits: int = 4) -> str:
    """Numbers in a row."""
    return ", ".join(number(value, digits) for value in values)


def span(values: Tensor) -> str:
    """The smallest and the largest of some numbers, or the one that all are."""
    low, high = number(float(values.min()), 3), number(float(values.max()), 3)
    return low if low == high else f"{low} … {high}"


def table(head: Sequence[str], rows: Rows) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def versions_table(versions: Sequence[Version], x: Tensor, reach: tuple[float, float]) -> str:
    """What every version makes of a tensor; the first is what the others are compared with.

    Args:
        versions: qbench's first.
        x: what errors are measured from.
        reach: where to look for thresholds.
    """
    rows = []
    for version in versions:
        levels = distinct(version.values)
        if version.function is None:
            each = [len(distinct(values)) for values in version.values]
            count = f"{min(each)}" if min(each) == max(each) else f"{min(each)} to {max(each)}"
            top = version.values.flatten(1).amax(1)
            what = f"{count} for each filter, the largest {span(top)}"
            thresholds = "by filter"
        else:
            what = f"{len(levels)}: {numbers(levels)}"
            thresholds = numbers(steps(version.function, *reach)[0])
        rows.append(
            [
                version.name,
                what,
                thresholds or "none",
                number(squared_error(version.values, x)),
                number(squared_error(version.values, x, scaled=True)),
                version.rule,
                span(version.slopes),
                percent(differing(version.values, versions[0].values)),
            ]
        )
    head = ["version", "levels", "thresholds", "error", "error, scaled"]
    return table([*head, "gradient", "∂q/∂w", "differs"], rows)


# Transcriptions ------------------------------------------------------------------------------


class _Rounded(torch.autograd.Function):
    """Rounding with the identity's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, away: bool) -> Tensor:
        return x.sign() * (x.abs() + 0.5).floor() if away else x.round()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


class _Clipped(torch.autograd.Function):
    """Clipping, with gradient 1 at the bounds too: torch's own depends on its version there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return g * inside, None, None


class _Chosen(torch.autograd.Function):
    """One tensor going forward, the identity to another going backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, chosen: Tensor) -> Tensor:
        return chosen.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


def rounded(x: Tensor, away: bool = False) -> Tensor:
    """[x], ties to even or away from zero, gradient straight through."""
    return _Rounded.apply(x, away)


def clipped(x: Tensor, low: float, high: float) -> Tensor:
    """clip(x, low, high), gradient 1 where low ≤ x ≤ high."""
    return _Clipped.apply(x, low, high)


def chosen(x: Tensor, values: Tensor) -> Tensor:
    """``values``, with the gradient handed to ``x`` unchanged."""
    return _Chosen.apply(x, values.detach())


def tensorpack_weight(bits: int, weight: Tensor) -> Function:
    """DoReFa weights in tensorpack's example."""
    largest, n = weight.tanh().abs().max(), 2**bits - 1
    return lambda w: 2 * rounded((w.tanh() / largest * 0.5 + 0.5) * n) / n - 1


def distiller_weight(bits: int, weight: Tensor) -> Function:
    """DoReFa weights in distiller: an unsigned linear quantizer of [0, 1] between two lines."""
    largest = weight.tanh().abs().max()
    scale, zero = (2**bits - 1) / 1.0, 0.0
    unit: Function = lambda w: w.tanh() / (2 * largest) + 0.5  # noqa: E731
    return lambda w: 2 * (rounded(scale * unit(w) - zero) + zero) / scale - 1


def micronet_weight(bits: int, weight: Tensor) -> Function:
    """DoReFa weights in micronet: ties go away from zero."""
    largest, step = weight.tanh().abs().max(), 1 / (2**bits - 1)
    unit: Function = lambda w: w.tanh() / 2 / largest + 0.5  # noqa: E731
    return lambda w: 2 * (rounded(unit(w) / step, away=True) * step) - 1


def kwanghoonan_weight(bits: int, weight: Tensor) -> Function:
    """DoReFa weights in KwangHoonAn/PACT: nothing of the formula is differentiated."""
    forward = tensorpack_weight(bits, weight)
    return lambda w: chosen(w, forward(w))


def mqbench_weight(bits: int, weight: Tensor, symmetric: bool) -> Function:
    """DoReFa weights in MQBench: tanh-normalised, then an integer grid from their range.

    Args:
        bits: width.
        weight: the tensor that the observer has seen.
        symmetric: codes around zero, or from zero with a zero point.
    """
    largest = weight.tanh().abs().max() + 1e-5
    unit: Function = lambda w: w.tanh() / largest  # noqa: E731
    seen = unit(weight)
    low, high = seen.min().clamp(max=0), seen.max().clamp(min=0)
    if symmetric:
        first, last, zero = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, torch.tensor(0.0)
        step = torch.maximum(-low, high) / ((last - first) / 2)
    else:
        first, last = 0, 2**bits - 1
        step = (high - low) / (last - first)
        zero = (first - (low / step).round()).clamp(first, last)
    # The largest weight lies on a threshold: without its last bits it does so on every machine.
    fine: Function = lambda w: rounded(unit(w) / step * 2**16) / 2**16  # noqa: E731
    return lambda w: (clipped(rounded(fine(w)) + zero, first, last) - zero) * step


def tensorpack_input(bits: int) -> Function:
    """DoReFa activations in tensorpack's example; distiller's are the same."""
    n = 2**bits - 1
    return lambda x: rounded(clipped(x, 0, 1) * n) / n


def micronet_input(bits: int) -> Function:
    """DoReFa activations in micronet: a tenth of the input is quantized and not scaled back."""
    step = 1 / (2**bits - 1)
    return lambda x: rounded(clipped(x * 0.1, 0, 1) / step, away=True) * step


def wrpn_paper(bits: int) -> Function:
    """WRPN weights as the paper has them, k − 1 bits beside the sign."""
    n = 2 ** (bits - 1) - 1
    return lambda w: rounded(clipped(w, -1, 1) * n) / n


def wrpn_distiller(bits: int) -> Function:
    """WRPN weights in distiller: half of 2^k − 1 steps on either side, and no clip of codes."""
    n = (2**bits - 1) / 2
    return lambda w: rounded(n * clipped(w, -1, 1)) / n


def lsq_clipped(low: int, top: int, step: Tensor) -> Function:
    """LSQ: clip, then round."""
    return lambda v: rounded(clipped(v / step, low, top)) * step


def lsq_mqbench(low: int, top: int, step: Tensor) -> Function:
    """LSQ in MQBench, torch's learnable fake quantization: round, then clip."""
    return lambda v: clipped(rounded(v / step), low, top) * step


def hwgq_caffe(centers: Sequence[float], clip: float) -> Function:
    """HWGQ activations in the Caffe release.

    Args:
        centers: levels above zero, ascending.
        clip: where the gradient ends.
    """
    bounds = [(a + b) / 2 for a, b in itertools.pairwise(centers)]

    def function(x: Tensor) -> Tensor:
        level = torch.full_like(x, centers[0])
        for bound, center in zip(bounds, centers[1:], strict=True):
            level = torch.where(x > bound, center, level)
        level = torch.where(x > 0, level, 0.0)
        passing = ((x > 0) & (x <= clip)).to(x.dtype)
        return chosen(x * passing.detach(), level)

    return function


EDMIPS_BINARY = 1.596  # step of its 1-bit weights, in standard deviations
EDMIPS_STEPS = {1: 0.799, 2: 0.538, 3: 0.3217, 4: 0.185}


def hwgq_edmips(bits: int) -> Function:
    """HWGQ activations in EdMIPS: a rounded multiple of the step."""
    step = EDMIPS_STEPS[bits]
    return lambda x: rounded(clipped(x, 0, step * (2**bits - 1)) / step) * step


@dataclass(frozen=True)
class Binary:
    """A version of binary weights.

    Attributes:
        name: as in tables, with a link.
        values: the tensor, quantized.
        gradient: ∂C/∂w for the upstream gradient of the table.
        at_zero: what a weight of 0 becomes, over α.
        rule: its gradient, in words.
    """

    name: str
    values: Tensor
    gradient: Tensor
    at_zero: float
    rule: str


def mean_size(w: Tensor) -> Tensor:
    """Mean |w| of each filter."""
    return w.abs().mean((1, 2, 3), keepdim=True)


def centred(w: Tensor) -> Tensor:
    """Without the mean over input channels, clipped to [−1, 1]."""
    return (w - w.mean(1, keepdim=True)).clamp(-1, 1)


def binary_sign(w: Tensor) -> Tensor:
    """−1 below zero, else +1."""
    return 1 - 2 * (w < 0).to(w.dtype)


def lua_factor(w: Tensor, optimiser: str) -> Tensor:
    """What the released Lua code multiplies a gradient with.

    Args:
        w: centred and clipped weights.
        optimiser: ``sgd`` or ``adam``.
    """
    n, inputs = w[0].numel(), w.shape[1]
    inside = (w.abs() < 1).to(w.dtype)
    factor = (mean_size(w) * inside + 1 / n) * (1 - 1 / inputs)
    return factor * n if optimiser == "sgd" else factor * 1e9


def exact_gradient(w: Tensor, g: Tensor) -> Tensor:
    """Of α(w)·sign(w), the sign's derivative taken as 1 where |w| ≤ 1."""
    inside = (w.abs() <= 1).to(w.dtype)
    shared = (g * w.sign()).sum((1, 2, 3), keepdim=True)
    return mean_size(w) * inside * g + w.sign() * shared / w[0].numel()


def ternary(w: Tensor, dims: tuple[int, ...]) -> Tensor:
    """TWN: α·{−1, 0, 1} with statistics over some dimensions.

    Args:
        w: weights.
        dims: over which the threshold and α are taken.
    """
    threshold = 0.7 * w.abs().mean(dims, keepdim=True)
    codes = (w > threshold).to(w.dtype) - (w < -threshold).to(w.dtype)
    return codes * (codes * w).sum(dims, keepdim=True) / (codes**2).sum(dims, keepdim=True)


# Figures -------------------------------------------------------------------------------------


def draw_staircase(
    axes: Axes, version: Version, x: Tensor, reach: tuple[float, float], ends: bool = False
) -> None:
    """Draw a quantizer, its thresholds, and behind it how the tensor's values are distributed.

    Args:
        axes: where.
        version: one with a function.
        x: the tensor.
        reach: from where to where.
        ends: mark what the smallest and the largest value become.
    """
    function = version.function
    if function is None:
        raise ValueError(f"{version.name} is not one function")
    draw_tensor(axes, x, reach)
    thresholds, levels = steps(function, *reach)
    for threshold in thresholds:
        axes.axvline(threshold, zorder=2, **THRESHOLD)
    axes.stairs(levels, [reach[0], *thresholds, reach[1]], baseline=None, zorder=3, **STAIRS)
    if ends:
        outermost = torch.stack([x.min(), x.max()])
        axes.plot(outermost, function(outermost), zorder=4, **END)
    margin = 0.04 * (reach[1] - reach[0])
    axes.set_xlim(reach[0] - margin, reach[1] + margin)


def draw_tensor(axes: Axes, x: Tensor, reach: tuple[float, float]) -> None:
    """Draw the tensor's histogram behind a panel, up to half its height."""
    values = x.flatten().numpy()
    behind = axes.twinx()
    behind.hist(values, bins=48, range=reach, histtype="stepfilled", zorder=0, **TENSOR)
    behind.set_ylim(0, 2.2 * behind.get_ylim()[1])
    behind.set_yticks([])
    for spine in behind.spines.values():
        spine.set_visible(False)
    behind.grid(visible=False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.grid(visible=False)
    axes.axhline(0, color="0.75", linewidth=0.8, zorder=1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def figure_of(rows: int, columns: int, share: bool = False) -> tuple[Figure, Any]:
    """A figure and its panels.

    Args:
        rows: of panels.
        columns: of panels.
        share: whether panels side by side share their vertical axis.
    """
    size = (0.5 + PANEL[0] * columns, 0.7 + PANEL[1] * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey="row" if share else "none")


def legend(figure: Figure, lines: dict[str, dict[str, Any]], columns: int = 4) -> None:
    """Name what panels have in common, below them.

    Args:
        figure: the figure.
        lines: looks by name; thresholds and the tensor are added.
        columns: of names.
    """
    named = {**lines, "threshold": THRESHOLD, "distribution of the tensor": BEHIND}
    keys = [Line2D([], [], label=name, **look) for name, look in named.items()]
    rows = -(-len(keys) // columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * (rows - 1))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns, frameon=False)


def save(figure: Figure, name: str, folder: Path) -> None:
    """Write a figure as SVG, the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


# The page ------------------------------------------------------------------------------------


def dorefa_weights(folder: Path) -> str:
    """DoReFa weights: five codes with one function, MQBench with others."""
    w = SCALE * tensor()
    reach = float(w.abs().max())
    full = "straight through [·]; tanh and max are differentiated"
    masked = "the same, 0 where the code is clipped"
    figure, panels = figure_of(2, 3)
    parts, counts, gains = [], {}, Tensor()
    for bits, row in zip((2, 3), panels, strict=True):
        fake = [
            by_value(
                f"{MQBENCH.link('MQBench')}, {kind} grid for the layer",
                masked,
                mqbench_weight(bits, w, symmetric),
                w,
            )
            for kind, symmetric in (("symmetric", True), ("affine", False))
        ]
        versions = [
            of_qbench("dorefa", bits, full, w, "weight"),
            by_value(
                f"{TENSORPACK.link('tensorpack')}, the paper's official code",
                full,
                tensorpack_weight(bits, w),
                w,
            ),
            by_value(DISTILLER.link("distiller"), full, distiller_weight(bits, w), w),
            by_value(MICRONET.link("micronet"), full, micronet_weight(bits, w), w),
            by_value(
                KWANGHOONAN.link("KwangHoonAn/PACT"),
                "the identity, past tanh and max too",
                kwanghoonan_weight(bits, w),
                w,
            ),
            *fake,
        ]
        parts += [f"### {bits} bits", versions_table(versions, w, (-reach, reach))]
        gains = versions[0].slopes
        counts[bits] = int((fake[0].values < -1 - SAME).sum())
        titles = ("qbench, tensorpack and 3 more", "MQBench, symmetric", "MQBench, affine")
        for axes, version, title in zip(row, (versions[0], *fake), titles, strict=True):
            draw_staircase(axes, version, w, (-reach, reach), ends=True)
            axes.set_title(f"{title}, {bits} bits")
            axes.set_ylim(-1.5, 1.25)
        row[0].set_ylabel("quantized weight")
    for axes in panels[-1]:
        axes.set_xlabel("weight")
    legend(figure, {"quantized weight": STAIRS, "smallest and largest weight": END})
    save(figure, "dorefa", folder)
    return "\n\n".join(
        [
            "## DoReFa-Net: weights",
            "w goes to q = 2 [n (tanh w / (2 max|tanh w|) + ½)] / n − 1 with n = 2^k − 1 "
            "(arXiv:1606.06160, Eq. 9–10).",
            *parts,
            "![DoReFa weights](fidelity/dorefa.svg)",
            "The first five versions are one function, threshold for threshold. KwangHoonAn/PACT "
            "departs in the gradient: it takes the whole formula for the identity. On this tensor "
            f"its gradient is {number(float(gains.median()), 1)} times smaller than the paper's; "
            "the factor is about one over the layer's largest weight, so it also changes from "
            "layer to layer and in the course of training.",
            "MQBench normalises as the paper does, then lays an integer grid over the result. The "
            "symmetric grid is that of two's complement, −2^(k−1) to 2^(k−1) − 1, with a step of "
            "2 / (2^k − 1) and a level at zero; its lowest code begins where normalised weights "
            f"end. Of {w.numel()} weights {counts[2]} at 2 bits and {counts[3]} at 3 bits have "
            "that code, so that 2-bit weights are ternary in all but name. The affine grid "
            "rounds its zero point, so it has a level at zero too, and at 2 bits two levels on one "
            "side of it and one on the other. Its "
            f"{MQBENCH_GUIDE.link('guide')} describes it so; it is another quantizer than "
            "DoReFa-Net's all the same.",
        ]
    )


def dorefa_inputs(folder: Path) -> str:
    """DoReFa activations: micronet's are scaled by a tenth."""
    x = tensor()
    reach = (-1.0, 9.5)
    rule = "1 where 0 ≤ x ≤ 1"
    versions = [
        of_qbench("dorefa", 2, rule, x, "input"),
        by_value(
            f"{TENSORPACK_NETWORK.link('tensorpack')}, and {DISTILLER.link('distiller')}",
            rule,
            tensorpack_input(2),
            x,
        ),
        by_value(MICRONET.link("micronet"), "0.1 where 0 ≤ x ≤ 10", micronet_input(2), x),
    ]
    zero = [float((version.values[x > 0] == 0).double().mean()) for version in versions]
    figure, panels = figure_of(1, 2)
    titles = ("qbench, tensorpack, distiller", "micronet")
    for axes, version, title in zip(panels[0], (versions[0], versions[2]), titles, strict=True):
        draw_staircase(axes, version, x, reach)
        axes.set_title(f"{title}, 2 bits")
        axes.set_xlabel("input of the layer")
        axes.set_ylim(-0.1, 1.25)
    panels[0, 0].set_ylabel("quantized input")
    legend(figure, {"quantized input": STAIRS})
    save(figure, "dorefa_inputs", folder)
    return "\n\n".join(
        [
            "## DoReFa-Net: activations",
            "x goes to q = [n clip(x, 0, 1)] / n. The tensor is the one above with unit variance, "
            "as batch normalisation leaves it.",
            versions_table(versions, x.clamp(min=0), reach),
            "![DoReFa activations](fidelity/dorefa_inputs.svg)",
            "micronet quantizes a tenth of the input, against clipping as its comment says, and "
            "does not multiply by ten again: levels end at an input of ten. Errors are measured "
            "from max(x, 0). Of this tensor's "
            f"positive values {percent(zero[2])} become 0, {percent(zero[0])} in the paper's "
            "function.",
        ]
    )


def wrpn(folder: Path) -> str:
    """WRPN weights: distiller's two levels too many."""
    small, w = SCALE * tensor(), 10 * SCALE * tensor()
    reach = (-1.25, 1.25)
    rule = "1 where abs(w) ≤ 1"
    figure, panels = figure_of(2, 2)
    parts, zeros = [], []
    for bits, row in zip((2, 3), panels, strict=True):
        versions = [
            of_qbench("wrpn", bits, rule, w, "weight"),
            by_value(
                f"the paper, as distiller's {DISTILLER_DOCUMENTS.link('documentation')} prints it",
                rule,
                wrpn_paper(bits),
                w,
            ),
            by_value(f"{DISTILLER.link('distiller')}, its code", rule, wrpn_distiller(bits), w),
        ]
        parts += [f"### {bits} bits", versions_table(versions, w, reach)]
        for axes, version, title in zip(
            row, (versions[0], versions[2]), ("qbench, the paper", "distiller"), strict=True
        ):
            draw_staircase(axes, version, w, reach)
            axes.set_title(f"{title}, {bits} bits")
            axes.set_ylim(-1.5, 1.5)
        row[0].set_ylabel("quantized weight")
    for bits in (2, 3, 4):
        each = [
            float((function(bits)(small) == 0).double().mean())
            for function in (wrpn_paper, wrpn_distiller)
        ]
        zeros.append([str(bits), *map(percent, each)])
    for axes in panels[-1]:
        axes.set_xlabel("weight")
    legend(figure, {"quantized weight": STAIRS})
    save(figure, "wrpn", folder)
    return "\n\n".join(
        [
            "## WRPN: weights",
            "w goes to q = [n clip(w, −1, 1)] / n with n = 2^(k−1) − 1 (arXiv:1709.01134). The "
            f"tensor is ten times the one above, of standard deviation {number(10 * SCALE)}, so "
            "that the levels are reached.",
            *parts,
            "![WRPN weights](fidelity/wrpn.svg)",
            "distiller departs from its own documentation: its code asks for the symmetric "
            f"quantizer's parameters ({DISTILLER_PARAMETERS.link('`restrict_qrange`')} is off), "
            "which gives (2^k − 1) / 2 steps on either side, and does not clip the codes. So 2 "
            "bits have five levels, which take three bits to store, and weights that are clipped "
            "to 1 become larger than 1.",
            "Neither has a scale. Of the tensor as it was above, with a standard deviation of "
            f"{number(SCALE)}, both make most or all weights 0, as a user of distiller "
            "[reported](https://github.com/IntelLabs/distiller/issues/308):",
            table(["bits", "zeros, the paper", "zeros, distiller"], zeros),
        ]
    )


def lsq(folder: Path) -> str:
    """LSQ: step sizes at the start, their gradient and its scale."""
    w = SCALE * tensor()
    reach = float(w.abs().max())
    parts: list[str] = []
    drawn: list[Version] = []
    rule = "1 inside the clip"
    for bits in (2, 3):
        top = 2 ** (bits - 1) - 1
        step = 2 * w.abs().mean() / math.sqrt(top)
        steps_by_filter = 2 * w.abs().mean((1, 2, 3), keepdim=True) / math.sqrt(top)
        versions = [
            of_qbench("lsq", bits, rule, w, "weight"),
            by_value(
                f"the paper, from a description ({LSQ_NET_README.link('README of lsq-net')})",
                rule,
                lsq_clipped(-top - 1, top, step),
                w,
            ),
            by_value(
                LSQUANTIZATION.link("hustzxd/LSQuantization"),
                rule,
                lsq_clipped(-top - 1, top, step),
                w,
            ),
            by_filter(
                f"{LSQ_NET.link('zhutmost/lsq-net')}, its {LSQ_NET_DEFAULT.link('default')}: a "
                "step for each filter",
                rule,
                lsq_clipped(-top - 1, top, steps_by_filter),
                w,
            ),
            by_value(
                f"{LSQ_NET.link('zhutmost/lsq-net')}, its {LSQ_NET_EXAMPLE.link('ResNet-18')}: "
                "symmetric",
                rule,
                lsq_clipped(-top, top, step),
                w,
            ),
            by_value(
                f"{MQBENCH_LSQ.link('MQBench')}, symmetric grid for the layer",
                "1 up to half a step outside the clip",
                lsq_mqbench(-top - 1, top, step),
                w,
            ),
        ]
        parts += [f"### Weights, {bits} bits", versions_table(versions, w, (-reach, reach))]
        if bits == 2:
            drawn = [versions[0], versions[4]]
    band = [_between(w, bits) for bits in (2, 3)]
    _lsq_figure(w, drawn, folder)
    rows, batch = _lsq_inputs()
    return "\n\n".join(
        [
            "## LSQ: step sizes at the start, and their gradient",
            "v goes to q = s [clip(v / s, −Q_N, Q_P)], s learned. Weights: Q_N = 2^(k−1), "
            "Q_P = 2^(k−1) − 1; activations: Q_N = 0, Q_P = 2^k − 1. s starts at "
            "2 mean|v| / √Q_P, and its gradient is multiplied by g = 1 / √(N Q_P) "
            "(arXiv:1902.08153).",
            *parts,
            "![LSQ weights](fidelity/lsq.svg)",
            "lsq-net's default has a step for each filter, where the paper has one for the layer, "
            "and multiplies the gradient of each with the whole layer's g. Its example for "
            "ResNet-18, the one with a published result, leaves out the lowest code: at 2 bits "
            "that is a ternary network.",
            "MQBench has the paper's values but not its gradients. It calls torch's learnable fake "
            "quantization, which rounds before it clips: from Q_P to Q_P + ½ a weight still has a "
            "gradient, and ∂q/∂s is Q_P − v/s, at most 0, where the paper has Q_P; below −Q_N "
            f"likewise. At the start {percent(band[0])} of 2-bit weights and {percent(band[1])} of "
            "3-bit ones lie in these bands. Of these codes, qbench's among them, MQBench's alone "
            "keeps s positive, by taking its absolute value.",
            "### Activations, 2 bits",
            f"The tensor with unit variance after a ReLU, a batch of {batch}.",
            table(
                ["version", "s at the start", "levels", "error", "N", "g", "g / the paper's"], rows
            ),
            "The paper's N is the number of features of a layer, which qbench takes for those of "
            "one sample; `activation_count: numel` is what the three ports do. They count the "
            "batch too, so that the gradient of their activation steps is √batch times smaller. "
            "lsq-net starts these steps at 1 whatever the data are, as its "
            f"{LSQ_NET_README.link('README')} says.",
        ]
    )


def _between(w: Tensor, bits: int) -> float:
    """Share of weights, LSQ's step at its start, that are clipped by less than half a step."""
    top = 2 ** (bits - 1) - 1
    codes = w / (2 * w.abs().mean() / math.sqrt(top))
    above = (codes > top) & (codes < top + 0.5)
    below = (codes < -top - 1) & (codes > -top - 1.5)
    return float((above | below).double().mean())


def _lsq_inputs() -> tuple[Rows, int]:
    """Rows of the table of activation steps, and the batch."""
    x = tensor().clamp(min=0)
    top, batch = 3, len(x)
    start = 2 * x.abs().mean() / math.sqrt(top)
    features = x[0].numel()
    quantizer = built_quantizer(build_method("lsq", {}), layer_of(2, "input"), x, "input")
    (step,) = quantizer.parameters()
    upstream = tensor(seed=1)
    (gradient,) = torch.autograd.grad((quantizer(x) * upstream).sum(), step)
    plain = step.detach().clone().requires_grad_()
    (unscaled,) = torch.autograd.grad((lsq_clipped(0, top, plain)(x) * upstream).sum(), plain)
    ours = float(gradient / unscaled)
    versions: list[tuple[str, float, float]] = [
        ("**qbench** `lsq`", step.item(), ours),
        ("the paper, from a description", float(start), 1 / math.sqrt(features * top)),
        *[
            (link, at, 1 / math.sqrt(x.numel() * top))
            for link, at in (
                (LSQUANTIZATION.link("hustzxd/LSQuantization"), float(start)),
                (LSQ_NET.link("zhutmost/lsq-net"), 1.0),
                (MQBENCH_LSQ.link("MQBench"), float(start)),
            )
        ],
    ]
    paper = versions[1][2]
    rows = []
    for name, at, g in versions:
        values = lsq_clipped(0, top, torch.tensor(at))(x)
        counted = 1 / (g * g * top)
        rows.append(
            [
                name,
                number(at),
                numbers(distinct(values)),
                number(squared_error(values, x)),
                number(counted, 0),
                number(g, 5),
                number(g / paper, 3),
            ]
        )
    return rows, batch


def _lsq_figure(w: Tensor, drawn: Sequence[Version], folder: Path) -> None:
    """LSQ at 2 bits: two staircases, and the two gradients of the paper and of MQBench."""
    reach = float(w.abs().max())
    figure, panels = figure_of(2, 2)
    titles = ("qbench, the paper and 2 more", "lsq-net, ResNet-18")
    for axes, version, title in zip(panels[0], drawn, titles, strict=True):
        draw_staircase(axes, version, w, (-reach, reach))
        axes.set(title=title, xlabel="weight", ylim=(-0.2, 0.12))
    panels[0, 0].set_ylabel("quantized weight")
    v = torch.linspace(-3, 2.2, 2081)
    rules = ((lsq_clipped, STAIRS), (lsq_mqbench, OTHER))
    for rule, look in rules:
        leaf, step = v.clone().requires_grad_(), torch.ones(len(v), requires_grad=True)
        to_v, to_s = torch.autograd.grad(rule(-2, 1, step)(leaf).sum(), (leaf, step))
        for axes, slope in zip(panels[1], (to_s, to_v), strict=True):
            axes.plot(v, slope.numpy(), zorder=3, **look)
    for axes, what in zip(
        panels[1], ("∂q/∂s; dotted: the clip", "∂q/∂w; dotted: the clip"), strict=True
    ):
        draw_tensor(axes, w / (2 * w.abs().mean()), (-3.0, 2.2))
        axes.set(xlabel="weight / s", title=what, xlim=(-3, 2.2))
        for end in (-2, 1):
            axes.axvline(end, zorder=2, **THRESHOLD)
    legend(figure, {"the paper": STAIRS, "MQBench": OTHER}, columns=2)
    save(figure, "lsq", folder)


def hwgq(folder: Path) -> str:
    """HWGQ activations: with and without a dead zone."""
    x = tensor()
    reach = (-1.5, 3.0)
    centers = (0.538, 1.076, 1.614)
    versions = [
        of_qbench("hwgq", 2, "1 where 0 < x ≤ q_m", x, "input"),
        by_value(
            f"{HWGQ.link('Caffe release')}, as {HWGQ_NETWORK.link('its ResNet-18')} sets it",
            "1 where 0 < x ≤ q_m",
            hwgq_caffe(centers, centers[-1]),
            x,
        ),
        by_value(EDMIPS.link("EdMIPS"), "1 where 0 ≤ x ≤ q_m", hwgq_edmips(2), x),
        of_qbench("hwgq", 2, "1 where 0 < x ≤ q_m", x, "input", dead_zone=True),
    ]
    zero = float((versions[2].values[x > 0] == 0).double().mean())
    best = [
        [str(bits), number(step), *(number(best_step(bits, rule)) for rule in (False, True))]
        for bits, step in EDMIPS_STEPS.items()
    ]
    figure, panels = figure_of(1, 2, share=True)
    titles = ("qbench, Caffe release", "EdMIPS, qbench with dead_zone")
    for axes, version, title in zip(panels[0], (versions[0], versions[2]), titles, strict=True):
        draw_staircase(axes, version, x, reach)
        axes.set(title=title, xlabel="input of the layer")
    panels[0, 0].set_ylabel("quantized input")
    legend(figure, {"quantized input": STAIRS})
    save(figure, "hwgq", folder)
    return "\n\n".join(
        [
            "## HWGQ: activations",
            "After batch normalisation x is about N(0, 1). x ≤ 0 becomes 0, x > 0 the nearest of "
            "q_1 … q_m = Δ, 2Δ, …, mΔ, m = 2^k − 1 (arXiv:1702.00953). The tensor is the one above "
            "with unit variance.",
            versions_table(versions, x.clamp(min=0), reach),
            "![HWGQ activations](fidelity/hwgq.svg)",
            "Errors are measured from max(x, 0). The authors' Caffe release gives every positive "
            "input at least q_1. EdMIPS, later code by the same author, rounds x / Δ with the same "
            f"Δ: what lies below Δ / 2 becomes 0, {percent(zero)} of this tensor's positive "
            "values. That is another quantizer, which `dead_zone: true` gives, and its error would "
            "be smallest with other steps: the Δ of both codes are those that suit the first rule.",
            table(
                [
                    "bits",
                    "Δ of both codes",
                    "Δ of the smallest error, every x > 0 at least Δ",
                    "Δ of the smallest error, rounding x / Δ",
                ],
                best,
            ),
        ]
    )


def best_step(bits: int, dead_zone: bool) -> float:
    """The step that suits a half-wave Gaussian, by search over a dense sum.

    Args:
        bits: width.
        dead_zone: round to a multiple of the step, 0 included; else to one above 0.
    """
    x = (np.arange(12_000) + 0.5) / 2000  # up to 6
    density = np.exp(-x * x / 2)

    def error(step: float) -> float:
        codes = np.clip(np.round(x / step), 0 if dead_zone else 1, 2**bits - 1)
        return float((density * (codes * step - x) ** 2).sum())

    low, high = 0.05, 2.5
    for points in (99, 41, 41):
        grid = np.linspace(low, high, points)
        found = float(grid[np.argmin([error(float(step)) for step in grid])])
        width = 2 * (high - low) / (points - 1)
        low, high = max(found - width, 0.01), found + width
    return round(found, 3)


def bwn(folder: Path) -> str:
    """Binary weights with a scale: released Lua code, ports, the paper's gradient."""
    w, g = SCALE * tensor(), tensor(seed=1)
    versions = [*_bwn_of_qbench(w, g), *_bwn_elsewhere(w, g)]
    ours, paper = versions[0], _bwn_paper(w, g).gradient
    rows = []
    for version in versions:
        sizes = version.values.abs().amax((1, 2, 3))
        rows.append(
            [
                version.name,
                f"±α, α = {span(sizes)}",
                {1.0: "α", 0.0: "0", -1.0: "−α"}[version.at_zero],
                number(squared_error(version.values, w)),
                version.rule,
                number(float(version.gradient.norm() / paper.norm()), 2),
                number(_cosine(version.gradient, paper), 3),
                percent(differing(version.values, ours.values)),
            ]
        )
    exact = exact_gradient(w, g)
    longer = number(float(exact.norm() / paper.norm()), 1)
    flipped = float((centred(w).sign() != w.sign()).double().mean())
    edge = "leaves it out too" if _lua_leaves_out_one() else "has the paper's, which does not"
    _bwn_figure(w, folder)
    head = ["version", "levels", "0 becomes", "error", "gradient", "length", "cosine", "differs"]
    return "\n\n".join(
        [
            "## BWN and XNOR-Net: weights",
            "Each filter of n weights goes to α sign(w), α = mean|w|. The paper's gradient is "
            "∂C/∂w = g (1/n + α 1[|w| ≤ 1]), g the gradient of q (arXiv:1603.05279, from a "
            "description). *length* and *cosine* compare each version's ∂C/∂w with the paper's, "
            "for a Gaussian g. The threshold is 0 everywhere.",
            table(head, rows),
            "![BWN weights and gradients](fidelity/bwn.svg)",
            "The released Lua code does two things beyond the paper's equations. Before every "
            f"forward pass {XNOR_NET_TRAIN.link('it takes')} from the weights their mean over "
            "input channels and clips them to [−1, 1], for good: "
            f"{percent(flipped)} of this tensor's weights change their sign. And it multiplies the "
            "gradient: for SGD by n (1 − 1/I), I the input channels, which is a learning rate that "
            "differs from layer to layer; for Adam by 10^9 (1 − 1/I), which cancels there, except "
            "that Adam's ε and weight decay lose their effect. Its window 1[·] leaves out "
            f"|w| = 1, where clipping puts weights; qbench's `gradient: lua` {edge}. Of XNOR-Net's "
            f"activations it has [the sign][{XNOR_NET_INPUT.label}] alone: "
            f"{XNOR_NET_MODEL.link('its network')} does not have the paper's K, which qbench's "
            "`xnor` has as `scale_map: true`.",
            "jiecaoyu/XNOR-Net-PyTorch and micronet differentiate α in full, as `gradient: exact` "
            f"does. For this g that is {longer} times the length of the paper's gradient, with a "
            f"cosine of {number(_cosine(exact, paper), 2)} to it: the two train differently. hwgq "
            "hands g on as it is.",
            "Two more take one scale for the layer. EdMIPS, by HWGQ's author, has "
            f"±{number(EDMIPS_BINARY / 2)} standard deviations, the best scale for a Gaussian. "
            "tensorpack's 1-bit weights are DoReFa-Net's, not BWN's as their comment says.",
        ]
    )


def _cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two tensors."""
    return float((a.double() * b).sum() / a.double().norm() / b.double().norm())


def _lua_leaves_out_one() -> bool:
    """Whether qbench's ``gradient: lua`` takes |w| = 1 for outside, as the Lua code does."""
    w = torch.ones(1, 2, 1, 1, requires_grad=True)
    method, layer = build_method("bwn", {"gradient": "lua"}), layer_of(1, "weight", w.shape)
    quantizer = built_quantizer(method, layer, w.detach(), "weight")
    (gradient,) = torch.autograd.grad(quantizer(w).sum(), w)
    return bool((gradient - lua_factor(w.detach(), "sgd")).abs().max() < SAME)


def _bwn_paper(w: Tensor, g: Tensor) -> Binary:
    """The paper's binary weights."""
    inside = (w.abs() <= 1).to(w.dtype)
    gradient = g * (1 / w[0].numel() + mean_size(w) * inside)
    values = mean_size(w) * binary_sign(w)
    return Binary("the paper, from a description", values, gradient, 1.0, "g (1/n + α 1[·])")


def _bwn_of_qbench(w: Tensor, g: Tensor) -> list[Binary]:
    """Binary weights of qbench, with options."""
    versions = []
    for options, rule in (
        ({}, "g (1/n + α 1[·])"),
        ({"gradient": "exact"}, "α g 1[·] + sign(w)/n Σ g sign(w)"),
        ({"gradient": "lua", "centre": True}, "g (1/n + α 1[·]) n (1 − 1/I)"),
    ):
        method, layer = build_method("bwn", options), layer_of(1, "weight")
        layer.latent_weight.data.copy_(w)
        method.layers = [layer]
        method.on_epoch_start(1, 1)
        leaf = layer.latent_weight.detach().clone().requires_grad_()
        quantizer = built_quantizer(method, layer, leaf.detach(), "weight")
        values = quantizer(leaf)
        (gradient,) = torch.autograd.grad(values, leaf, g)
        changed = leaf.detach().clone()
        changed[0, 0, 0, 0] = 0
        at_zero = float(quantizer(changed)[0, 0, 0, 0].sign())
        name = named("bwn", options)
        versions.append(Binary(name, values.detach(), gradient, at_zero, rule))
    return versions


def _bwn_elsewhere(w: Tensor, g: Tensor) -> list[Binary]:
    """Other codes' binary weights."""
    c, n, inputs = centred(w), w[0].numel(), w.shape[1]
    lua = mean_size(c) * c.sign()
    scale = EDMIPS_BINARY * w.std()
    edmips = ((w / scale + 0.5).round() - 0.5) * scale
    return [
        _bwn_paper(w, g),
        *[
            Binary(
                f"{XNOR_NET.link('allenai/XNOR-Net')}, {name}",
                lua,
                g * lua_factor(c, name.lower()),
                0.0,
                rule,
            )
            for name, rule in (
                ("SGD", "g (1/n + α 1[·]) n (1 − 1/I)"),
                ("Adam", "g (1/n + α 1[·]) (1 − 1/I) 10^9"),
            )
        ],
        Binary(
            XNOR_PYTORCH.link("jiecaoyu/XNOR-Net-PyTorch"),
            lua,
            exact_gradient(c, g) * (1 - 1 / inputs) * n * 1e9,
            0.0,
            "(α g 1[·] + sign(w)/n Σ g sign(w)) (1 − 1/I) n 10^9",
        ),
        Binary(
            MICRONET_BINARY.link("micronet"),
            mean_size(c) * binary_sign(c),
            exact_gradient(c, g),
            1.0,
            "α g + sign(w)/n Σ g sign(w)",
        ),
        Binary(
            HWGQ_WEIGHTS.link("hwgq, Caffe release"), mean_size(w) * binary_sign(w), g, 1.0, "g"
        ),
        Binary(EDMIPS.link("EdMIPS"), edmips.clamp(-scale / 2, scale / 2), g, -1.0, "g"),
        Binary(
            f"{TENSORPACK.link('tensorpack')}, 1 bit",
            w.abs().mean() * binary_sign(w),
            g,
            1.0,
            "g",
        ),
    ]


def _bwn_figure(w: Tensor, folder: Path) -> None:
    """One filter with and without centring, and what a gradient is multiplied with."""
    figure, panels = figure_of(1, 2)
    left, right = panels[0]
    one, c = w[:1], centred(w)[:1]
    reach = 0.12
    draw_tensor(left, w, (-reach, reach))
    for values, look in (
        (mean_size(one) * one.sign(), {**STAIRS, "marker": "o", "markerfacecolor": "none"}),
        (mean_size(c) * c.sign(), {**OTHER, "marker": "x"}),
    ):
        points = {**look, "linestyle": "none", "markersize": 4.5, "markeredgewidth": 1}
        left.plot(one.flatten(), values.flatten(), zorder=3, **points)
    left.axvline(0, zorder=2, **THRESHOLD)
    left.set(title="one filter", xlabel="weight", ylabel="quantized weight")
    left.set(xlim=(-reach, reach), ylim=(-0.062, 0.062))
    v = torch.linspace(-1.4, 1.4, 2801)
    alpha, n, inputs = float(mean_size(one)), one[0].numel(), one.shape[1]
    paper = 1 / n + alpha * (v.abs() <= 1)
    right.plot(v, paper, **STAIRS)
    right.plot(v, paper * n * (1 - 1 / inputs), **OTHER)
    right.plot(v, torch.ones_like(v), **THIRD)
    right.set(title="what multiplies g", xlabel="weight", yscale="log", xlim=(-1.4, 1.4))
    right.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    right.yaxis.set_minor_locator(NullLocator())
    legend(figure, {"the paper": STAIRS, "Lua code, SGD": OTHER, "hwgq": THIRD}, columns=3)
    save(figure, "bwn", folder)


def twn(folder: Path) -> str:
    """TWN: one threshold and scale for the layer, or for each filter."""
    w, g = SCALE * tensor(), tensor(seed=1)
    everything, of_filter = (0, 1, 2, 3), (1, 2, 3)
    rows: Rows = []
    versions: list[tuple[str, Tensor, Tensor, str]] = []
    for options in ({}, {"scope": "filter"}):
        layer_seen = layer_of(2, "weight")
        quantizer = built_quantizer(build_method("twn", options), layer_seen, w, "weight")
        leaf = w.clone().requires_grad_()
        values = quantizer(leaf)
        (gradient,) = torch.autograd.grad(values, leaf, g)
        versions.append((named("twn", options), values.detach(), gradient, "g"))
    layer, filters = ternary(w, everything), ternary(w, of_filter)
    codes = filters.sign()
    kept = (codes**2).sum(of_filter, keepdim=True)
    alpha = filters.abs().amax(of_filter, keepdim=True)
    shared = (g * codes).sum(of_filter, keepdim=True)
    versions += [
        (f"{CAFFE_TWN.link('Caffe release')}, by the paper's authors", layer, g, "g"),
        (
            MICRONET_BINARY.link("micronet"),
            filters,
            alpha * g + codes * shared / kept,
            "α g + t / #{t ≠ 0} · Σ g t",
        ),
    ]
    first = versions[0][1]
    for name, values, gradient, rule in versions:
        sizes = values.abs().amax(of_filter)
        bounds = torch.stack([_threshold(w[i], values[i]) for i in range(len(w))])
        if len(distinct(values)) == 3:
            bounds = _threshold(w, values)[None]
        rows.append(
            [
                name,
                f"0, ±α, α = {span(sizes)}",
                f"±{span(bounds)}",
                number(squared_error(values, w)),
                rule,
                number(_cosine(gradient, g), 3),
                percent(differing(values, first)),
            ]
        )
    _twn_figure(w, layer, filters, folder)
    head = ["version", "levels", "thresholds", "error", "gradient", "cosine with g", "differs"]
    return "\n\n".join(
        [
            "## TWN: weights",
            "w goes to α t, t = ±1 where |w| > Δ and else 0, Δ = 0.7 mean|w|, α = mean|w| over "
            "|w| > Δ (arXiv:1605.04711).",
            table(head, rows),
            "![TWN weights](fidelity/twn.svg)",
            "micronet takes Δ and α for each filter, where the authors' code takes them over the "
            "layer, and differentiates α. `scope: filter` gives its values, not its gradient. One "
            f"layer then has {SHAPE[0]} scales in place of one, and a lower error: a result of "
            "either says little of the other.",
        ]
    )


def _twn_figure(w: Tensor, layer: Tensor, filters: Tensor, folder: Path) -> None:
    """Every weight of the tensor, with one scale for the layer and with one for each filter."""
    figure, panels = figure_of(1, 2, share=True)
    reach = 1.05 * float(w.abs().max())
    look: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 2.5}
    both = ((layer, "qbench, Caffe release"), (filters, "micronet"))
    for axes, (values, title) in zip(panels[0], both, strict=True):
        draw_tensor(axes, w, (-reach, reach))
        bounds = {float(_threshold(a, b)) for a, b in zip(w, values, strict=True)}
        if values is layer:
            bounds = {float(_threshold(w, layer))}
        for bound in sorted(bounds):
            for side in (-bound, bound):
                axes.axvline(side, zorder=2, **{**THRESHOLD, "linewidth": 0.5})
        axes.plot(w.flatten(), values.flatten(), rasterized=True, color=COLORS[0], **look)
        axes.set(title=title, xlabel="weight", xlim=(-reach, reach))
    panels[0, 0].set_ylabel("quantized weight")
    legend(figure, {"weights of the tensor": {**look, "color": COLORS[0], "markersize": 7}})
    save(figure, "twn", folder)


def _threshold(w: Tensor, values: Tensor) -> Tensor:
    """The middle between the largest weight that becomes 0 and the smallest that does not."""
    return (w.abs()[values == 0].max() + w.abs()[values != 0].min()) / 2


def sources() -> str:
    """The files that were read."""
    rows = [
        [code.repository, code.link(f"`{code.path}`"), f"`{code.commit[:12]}`"] for code in READ
    ]
    return "\n\n".join(
        [
            "## What was read",
            "The papers' own equations for WRPN, LSQ and BWN are taken from descriptions; all else "
            "from these files.",
            table(["repository", "file", "commit"], rows),
            "\n".join(code.definition for code in READ),
        ]
    )


def introduction() -> str:
    """What the page shows, and how to read it."""
    count = math.prod(SHAPE)
    shape = " × ".join(map(str, SHAPE))
    return "\n\n".join(
        [
            "# Is this the method of the paper?",
            "Codes that carry the name of one method often hold different ones. This page puts one "
            "tensor through qbench's version of a method and through those of well-known "
            "libraries, and names every difference.",
            f"The tensor is Gaussian, seeded, {shape} = {count} values with standard deviation "
            f"{number(SCALE)}, like a convolution's weight. qbench's values come out of its plugin "
            "interface, as in a trial. The others come from transcriptions in "
            "[`fidelity.py`](tools/fidelity.py), which were written from the linked files and "
            "share "
            "nothing with qbench. `python docs/tools/fidelity.py` computes every number here and "
            "writes "
            "this page; a test checks that it still says the same.",
            "- *levels*: the values that the tensor takes, and how many.\n"
            "- *thresholds*: where one level ends and the next begins.\n"
            "- *error*: mean squared error over the tensor's mean square, so that 1 is what zeros "
            "have. *error, scaled*: after the one factor for the layer that makes it smallest, "
            "because a batch normalisation behind the layer absorbs a factor.\n"
            "- *gradient* and *∂q/∂w*: the rule that stands in for the derivative, and its "
            "smallest and largest value over the tensor.\n"
            "- *differs*: share of the tensor that gets another value than from the table's first "
            "row.",
        ]
    )


def write(output: Path) -> Path:
    """Write the page and its figures.

    Args:
        output: a folder.

    Returns:
        The page.
    """
    folder = output / "fidelity"
    sections = [dorefa_weights, dorefa_inputs, wrpn, lsq, hwgq, bwn, twn]
    with mpl.rc_context(STYLE):
        parts = [introduction(), *(section(folder) for section in sections), sources()]
    page = output / "fidelity.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write docs/fidelity.md and its figures.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1], help="a folder")
    write(parser.parse_args(arguments).output)


if __name__ == "__main__":
    main()

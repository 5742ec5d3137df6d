"""Blocks that post-training methods reconstruct."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qbench.errors import QbenchError
from qbench.method import Integers, Layer, Method
from qbench.models.tiny import ConvNetTiny, ResNetTiny
from qbench.quant.attach import attach
from qbench.quant.blocks import Block, find_blocks, norm_readers
from qbench.quant.hooks import bypassed
from tests.helpers.transformers import tiny_swin, tiny_vit


class Eighths(nn.Module):
    """Round to eighths."""

    def forward(self, x: Tensor) -> Tensor:
        return (8 * x).round() / 8


class ToEighths(Method):
    """Weights and activations rounded to eighths."""

    weights = Integers(scales=0)
    activations = Integers(scales=0)
    trains = False

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        return Eighths()

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        return Eighths()


def blocks_of(
    model: nn.Module, x: Tensor, bits: str = "8/32", placement: str | None = None
) -> tuple[Method, list[Block]]:
    method = ToEighths()
    attach(
        model.eval(), method, bits=bits, layers="all", calibration=[x],
        placement=placement,  # type: ignore[arg-type]
    )  # fmt: skip
    return method, find_blocks(method, model, x)


def shape(blocks: list[Block]) -> dict[str, list[str]]:
    return {block.name: [layer.name for layer in block.layers] for block in blocks}


def test_layers_of_a_chain_are_blocks_with_their_normalization_activation_and_pooling() -> None:
    model, x = ConvNetTiny(10, 1), torch.randn(2, 1, 8, 8)
    _, blocks = blocks_of(model, x)
    assert list(shape(blocks)) == ["0", "3", "7", "10", "15"]
    kinds = [[type(module).__name__ for module in block.modules] for block in blocks]
    assert kinds[1][1:] == ["BatchNorm2d", "ReLU", "MaxPool2d"]
    assert kinds[3][1:] == ["BatchNorm2d", "ReLU"]
    assert len(kinds[4]) == 1
    assert [block.channel_dim for block in blocks] == [1, 1, 1, 1, -1]


@pytest.mark.parametrize("placement", ["layer_inputs", "after_activation_and_add"])
def test_a_residual_block_is_one_block(placement: str) -> None:
    model, x = ResNetTiny(10, 1), torch.randn(2, 1, 8, 8)
    _, blocks = blocks_of(model, x, "8/8", placement)
    assert shape(blocks) == {
        "0": ["0"],
        "3": ["3.body.0", "3.body.3"],
        "4": ["4.body.0", "4.body.3", "4.shortcut.0"],
        "5": ["5.body.0", "5.body.3", "5.shortcut.0"],
        "8": ["8"],
    }


def test_blocks_of_transformers_are_blocks() -> None:
    _, blocks = blocks_of(tiny_vit(), torch.randn(2, 3, 8, 8))
    one, two = (f"encoder.layers.encoder_layer_{i}" for i in (0, 1))
    assert list(shape(blocks)) == ["conv_proj", one, two, "heads.head"]
    inside = ("self_attention.in_proj", "self_attention.out_proj", "mlp.0", "mlp.3")
    assert shape(blocks)[one] == [f"{one}.{name}" for name in inside]
    assert blocks[1].channel_dim == -1
    _, blocks = blocks_of(tiny_swin(), torch.randn(2, 3, 16, 16))
    assert list(shape(blocks)) == ["features.0.0", "features.1.0", "features.1.1", "head"]


class Inverted(nn.Module):
    """Two layers, and a shortcut if shapes allow it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, 8, 1), nn.Conv2d(8, outputs, 1)
        self.adds = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return x + y if self.adds else y


class TwoInputs(Inverted):
    """A residual block that is called with two tensors."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        y: Tensor = self.second(self.first(x)) + other
        return y


class Several(nn.Module):
    """A block of each kind, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Inverted(4, 4), Inverted(4, 6)
        self.both, self.twice = TwoInputs(6, 6), Twice()

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x))
        y: Tensor = self.twice(self.twice(self.both(x, x)))
        return y + x


class Twice(nn.Module):
    """A residual block that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + x
        return y


def test_modules_of_a_class_are_blocks_if_one_adds_and_others_are_divided() -> None:
    _, blocks = blocks_of(Several(), torch.randn(2, 4, 3, 3))
    assert list(shape(blocks)) == ["one", "two", "both.first", "both.second", "twice.layer"]


def test_a_block_computes_alone_what_it_computes_in_the_model() -> None:
    torch.manual_seed(0)
    model, batches = ResNetTiny(10, 1), [torch.randn(4, 1, 8, 8), torch.randn(3, 1, 8, 8)]
    method, blocks = blocks_of(model, batches[0], "8/8", "after_activation")
    everything = [*method.layers, *method.places]
    for block in blocks:
        inside = {inner for module in block.modules for inner in module.modules()}
        assert {place.module for place in block.places} <= inside
        seen, y = block.record(model, batches)
        assert len(seen) == len(y) == 7
        with torch.no_grad():
            torch.testing.assert_close(block(seen), y)
            with bypassed(everything):
                x, target = block.record(model, batches)
                torch.testing.assert_close(block(x), target)
    assert not torch.equal(seen, x)
    first, _ = blocks[0].record(model, batches)
    assert torch.equal(first, torch.cat(batches)), "before the quantizer of the first layer"


def test_quantizers_of_weights_and_of_activations_are_bypassed_apart() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4, bias=False)), torch.randn(8, 4)
    w = model[0].get_parameter("weight").detach().clone()
    method, _ = blocks_of(model, x, "8/8")
    eighths = Eighths()
    with torch.no_grad():
        with bypassed(method.layers, weights=False):
            torch.testing.assert_close(model(x), x @ eighths(w).t())
        with bypassed(method.layers, activations=False):
            torch.testing.assert_close(model(x), eighths(x) @ w.t())


class Pyramid(nn.Module):
    """A layer that is called with inputs of two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x).mean() + self.layer(x[..., 1:]).mean()
        return y


def test_a_layer_that_is_called_with_several_shapes_cannot_be_recorded() -> None:
    model, x = Pyramid(), torch.randn(2, 1, 4, 4)
    _, (block,) = blocks_of(model, x)
    with pytest.raises(QbenchError, match="'layer' is called with inputs of several shapes"):
        block.record(model, [x])


def test_layers_that_alone_read_a_layer_normalization_are_found() -> None:
    x = torch.randn(2, 3, 8, 8)
    model = tiny_vit()
    method, _ = blocks_of(model, x)
    names = {module: name for name, module in model.named_modules()}
    found = [(names[norm], layer.name) for norm, layer in norm_readers(model, method.layers, x)]
    assert found == [
        (f"encoder.layers.encoder_layer_{i}.{norm}", f"encoder.layers.encoder_layer_{i}.{layer}")
        for i in (0, 1)
        for norm, layer in (("ln_1", "self_attention.in_proj"), ("ln_2", "mlp.0"))
    ]


@pytest.mark.parametrize(("size", "count"), [(16, 4), (18, 2)])
def test_windows_may_lie_between_both_but_not_padding(size: int, count: int) -> None:
    model, x = tiny_swin(), torch.randn(2, 3, size, size)
    method, _ = blocks_of(model, x)
    assert len(norm_readers(model, method.layers, x)) == count

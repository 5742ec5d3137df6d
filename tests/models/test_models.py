"""The models: their layers, in which order, how many weights, how they start."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from qbench import registry
from qbench.models.cifar_resnet import PaddedShortcut
from qbench.models.network import ImageSizeError, Network
from qbench.models.preact_resnet import PreActBlock
from qbench.quant.layers import select_layers
from qbench.spec.bits import Bits
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite

SIZES = {
    "alexnet_bn": 64,
    "preact_resnet18": 64,
    "resnet20": 32,
    "resnet32": 32,
    "resnet44": 32,
    "resnet56": 32,
    "vgg_small": 32,
}
DEPTHS = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def build(name: str, classes: int = 10, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.build_model(name, classes, channels)


def images(name: str, count: int = 4, channels: int = 3) -> Tensor:
    size = SIZES[name]
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(count))


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def calls(model: nn.Module, x: Tensor, watch: Callable[[nn.Module, Tensor], None]) -> None:
    """Run a model, telling which layer is given what."""
    hooks = [
        module.register_forward_pre_hook(lambda m, args: watch(m, args[0]))
        for module in model.modules()
        if not any(module.children())
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()


def order(model: nn.Module, x: Tensor) -> list[str]:
    """The classes of a model's layers, as they are called."""
    found: list[str] = []
    calls(model, x, lambda module, _: found.append(type(module).__name__))
    return found


# Of every model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_gives_every_image_a_score_for_every_class(name: str, channels: int) -> None:
    model = build(name, classes=7, channels=channels)
    assert model(images(name, 2, channels)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *[("alexnet_bn", 6), ("preact_resnet18", 19), ("vgg_small", 5)],
        *[("resnet20", 18), ("resnet32", 30), ("resnet44", 42), ("resnet56", 54)],
        *[("resnet18", 19), ("resnet34", 35), ("resnet50", 52)],
    ],
)
def test_all_layers_but_the_first_and_the_last_are_quantized(name: str, count: int) -> None:
    model = build(name)
    kinds = (nn.Conv2d, nn.Linear)
    weighted = [n for n, module in model.named_modules() if isinstance(module, kinds)]
    layers = select_layers(model, "skip_first_last", Bits.parse("2/2"))
    assert [layer.name for layer in layers] == weighted[1:-1]
    assert len(layers) == count


@pytest.mark.parametrize("name", SIZES)
def test_every_quantized_layer_is_given_what_a_relu_returned(name: str) -> None:
    model = build(name)
    quantized = {
        layer.module for layer in select_layers(model, "skip_first_last", Bits.parse("2/2"))
    }
    least: dict[nn.Module, float] = {}
    share: dict[nn.Module, float] = {}

    def watch(module: nn.Module, x: Tensor) -> None:
        if module in quantized:
            least[module] = float(x.min())
            share[module] = float((x > 0).float().mean())

    calls(model, images(name), watch)
    assert least.keys() == quantized
    assert set(least.values()) == {0.0}
    assert all(0.2 < value < 1 for value in share.values())


@pytest.mark.parametrize("name", SIZES)
def test_every_layer_but_the_last_is_normalised_before_anything_else_but_pooling(name: str) -> None:
    found = [kind for kind in order(build(name), images(name)) if kind != "MaxPool2d"]
    weighted = [i for i, kind in enumerate(found) if kind in ("Conv2d", "Linear")]
    assert all(found[i + 1].startswith("BatchNorm") for i in weighted[:-1])
    assert weighted[-1] == len(found) - 1


@pytest.mark.parametrize("name", SIZES)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    model = build(name)
    nn.functional.cross_entropy(model(images(name)), torch.arange(4)).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("name", [*SIZES, "convnet_tiny", "resnet_tiny", "resnet18"])
def test_a_seed_determines_the_first_weights(name: str) -> None:
    first, again, other = (build(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    weights = [k for k, value in first.items() if value.dim() > 1]
    assert weights
    assert not any(torch.equal(first[k], other[k]) for k in weights)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *[("alexnet_bn", "in"), ("vgg_small", "in")],
        *[("preact_resnet18", "out"), ("resnet20", "out")],
    ],
)
def test_weights_start_with_hes_variance_and_biases_at_0(name: str, mode: str) -> None:
    for module in build(name, classes=100).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            inputs_count = isinstance(module, nn.Linear) or mode == "in"
            fan = weight[0].numel() if inputs_count else weight[:, 0].numel()
            assert float(weight.square().mean()) == pytest.approx(2 / fan, rel=0.12)
            assert module.bias is None or not module.bias.any()


# Images that a model cannot take ------------------------------------------------------------------


@pytest.mark.parametrize(("name", "least"), [("alexnet_bn", 63), ("vgg_small", 8)])
def test_images_that_are_too_small_are_named(name: str, least: int) -> None:
    model = build(name).eval()
    assert model(torch.randn(1, 3, least, least)).shape == (1, 10)
    with pytest.raises(RuntimeError):
        nn.Sequential.forward(model, torch.randn(1, 3, least - 1, least + 8))  # type: ignore[arg-type]
    message = f"at least {least} × {least}, not {least - 1} × {least + 8}"
    with pytest.raises(ImageSizeError, match=message):
        model(torch.randn(1, 3, least - 1, least + 8))


@pytest.mark.parametrize(
    ("name", "least"), [("preact_resnet18", 33), ("resnet20", 5), ("vgg_small", 16)]
)
def test_an_image_alone_in_a_training_batch_is_refused_where_nothing_is_left_to_normalise(
    name: str, least: int
) -> None:
    model = build(name)
    assert model(torch.randn(1, 3, least, least)).shape == (1, 10)
    small = torch.randn(1, 3, least - 1, least - 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.Sequential.forward(model, small)  # type: ignore[arg-type]
    with pytest.raises(ImageSizeError, match="choose a batch_size"):
        model(small)
    assert model(small.repeat(2, 1, 1, 1)).shape == (2, 10)
    assert model.eval()(small).shape == (1, 10)


def test_alexnets_hidden_linear_layers_never_take_an_image_alone() -> None:
    model = build("alexnet_bn")
    with pytest.raises(ImageSizeError, match="a training batch of one 64 × 64 image"):
        model(images("alexnet_bn", 1))
    assert model.eval()(images("alexnet_bn", 1)).shape == (1, 10)


def test_a_suite_refuses_a_model_whose_images_are_too_small(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: s\ndataset: digits\nmodels: [alexnet_bn, vgg_small]\nbits: 2/2\nmethods: [dorefa]\n"
        "seeds: [0]\n"
    )
    reasons = {planned.trial.model: planned.unsupported for planned in expand(load_suite(path))}
    assert reasons["alexnet_bn"].startswith("alexnet_bn cannot take images of 1×8×8")
    assert reasons["alexnet_bn"].endswith("at least 63 × 63, not 8 × 8")
    assert not reasons["vgg_small"]


# AlexNet ------------------------------------------------------------------------------------------

ALEXNET = [  # inputs, outputs, kernel (1: linear)
    *[(3, 96, 11), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3)],
    *[(256 * 6 * 6, 4096, 1), (4096, 4096, 1)],
]


def test_alexnets_parameters_are_those_of_its_table() -> None:
    weights = sum(i * o * k * k for i, o, k in ALEXNET) + 4096 * 1000
    norms_and_bias = sum(2 * o for _, o, _ in ALEXNET) + 1000
    assert parameters(build("alexnet_bn", classes=1000)) == weights + norms_and_bias == 62_387_912


def test_alexnets_layers_are_in_the_papers_order() -> None:
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    pool, resized = ["MaxPool2d"], ["AdaptiveAvgPool2d", "Flatten"]
    expected = [*block, *pool, *block, *pool, *block, *block, *block, *pool, *resized]
    expected += [*hidden, *hidden, "Linear"]
    assert order(build("alexnet_bn"), images("alexnet_bn")) == expected


def test_alexnets_feature_maps_are_the_papers_at_224_and_need_no_resizing() -> None:
    seen: list[Tensor] = []
    model = build("alexnet_bn").eval()
    kinds = (nn.Conv2d, nn.AdaptiveAvgPool2d, nn.Flatten)
    calls(
        model,
        torch.randn(1, 3, 224, 224),
        lambda module, x: seen.append(x) if isinstance(module, kinds) else None,
    )
    assert [x.shape[-1] for x in seen] == [224, 27, 13, 13, 13, 6, 6]
    assert torch.equal(seen[-1], seen[-2])


# ResNets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_cifar_resnets_have_the_papers_layers_and_parameters(depth: int) -> None:
    model = build(f"resnet{depth}")
    kinds = (nn.Conv2d, nn.Linear)
    assert sum(isinstance(m, kinds) for m in model.modules()) == depth
    assert f"{parameters(model) / 1e6:.2f}" == DEPTHS[depth]
    stages = [x for x in (16, 32, 64) for _ in range((depth - 2) // 3)]
    weights = 3 * 16 * 9 + sum(i * o * 9 for i, o in itertools.pairwise([16, *stages]))
    norms_and_linear = 2 * (16 + sum(stages)) + 64 * 10 + 10
    assert parameters(model) == weights + norms_and_linear


def test_an_option_a_shortcut_takes_every_second_pixel_and_appends_zeros() -> None:
    x = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4)
    y = PaddedShortcut(3)(x)
    assert y.shape == (2, 6, 3, 2)
    assert torch.equal(y[:, :3], x[:, :, [0, 2, 4]][..., [0, 2]])
    assert not y[:, 3:].any()


def test_cifar_resnets_halve_the_image_twice() -> None:
    model = build("resnet20")
    sides: list[int] = []
    calls(
        model,
        images("resnet20"),
        lambda module, x: sides.append(x.shape[-1]) if isinstance(module, nn.Conv2d) else None,
    )
    assert sides == [32] * 8 + [16] * 6 + [8] * 5


def test_preact_resnet18_has_resnet18s_weights_and_the_norms_of_its_activations() -> None:
    plain = build("resnet18", classes=1000)
    preact = build("preact_resnet18", classes=1000)
    shapes = [
        sorted(tuple(p.shape) for p in model.parameters() if p.dim() > 1)
        for model in (plain, preact)
    ]
    assert shapes[0] == shapes[1]
    more = 2 * 2 * (64 + 128 + 256 + 512)  # scale and shift, in each stage's second block and end
    assert parameters(preact) == parameters(plain) + more


def test_a_preact_block_without_weights_is_its_shortcut() -> None:
    block = PreActBlock(8, 8, 1, activated=False)
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_where_a_preact_resnet_changes_shape_both_paths_start_from_one_activation() -> None:
    model = build("preact_resnet18")
    inputs: dict[nn.Module, Tensor] = {}
    calls(model, images("preact_resnet18"), inputs.__setitem__)
    for stage in ("layer2", "layer3", "layer4"):
        first = model.get_submodule(f"{stage}.0.body.0")
        shortcut = model.get_submodule(f"{stage}.0.shortcut.0")
        assert torch.equal(inputs[first], inputs[shortcut])


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "mobilenet_v2", "vgg16_bn"])
def test_torchvisions_models_are_reachable_by_name_with_their_published_size(name: str) -> None:
    with torch.device("meta"):
        model = registry.build_model(name, 1000, 3)
    assert parameters(model) == get_model_weights(name).DEFAULT.meta["num_params"]


# VGG-small ----------------------------------------------------------------------------------------


def test_vgg_smalls_parameters_are_those_of_its_table() -> None:
    channels = [3, 128, 128, 256, 256, 512, 512]
    weights = sum(i * o * 9 for i, o in itertools.pairwise(channels))
    norms_and_linear = 2 * sum(channels[1:]) + 512 * 4 * 4 * 10 + 10
    assert parameters(build("vgg_small")) == weights + norms_and_linear == 4_660_106


def test_vgg_small_pools_between_convolution_and_normalisation() -> None:
    single = ["Conv2d", "BatchNorm2d", "ReLU"]
    pooled = ["Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"]
    expected = [*(single + pooled) * 3, "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert order(build("vgg_small"), images("vgg_small")) == expected


# The tiny ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "last"), [("convnet_tiny", 0.129625), ("resnet_tiny", 0.092186)])
def test_the_tiny_networks_start_from_the_weights_that_results_were_made_with(
    name: str, last: float
) -> None:
    weights = [p.detach() for p in build(name, channels=1).parameters()]
    assert weights[0].flatten()[:2].tolist() == pytest.approx([-0.0024956, 0.1788145], abs=1e-6)
    assert float(weights[-1][-1]) == pytest.approx(last, abs=1e-6)


def test_the_tiny_networks_are_where_they_were() -> None:
    import qbench.models as package

    assert type(build("convnet_tiny")) is package.ConvNetTiny
    assert type(build("resnet_tiny")) is package.ResNetTiny
    assert not issubclass(package.ConvNetTiny, Network)

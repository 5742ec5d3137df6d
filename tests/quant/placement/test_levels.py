"""What arrives at quantized layers, identity addends and poolings has no more than 2^k values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from qbench import registry
from qbench.method import Integers, Layer, Method, Place
from qbench.quant.attach import attach
from qbench.quant.audit import audit
from qbench.quant.handle import Handle
from qbench.quant.layers import quantizable_layers
from qbench.quant.placement.sites import Call, find_calls
from qbench.spec.placement import Placement
from qbench.spec.result import LevelCount

FAST = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5")
IMAGE = torch.randn(2, 3, 33, 33, generator=torch.Generator().manual_seed(0))
SIZES = {"inception_v3": 96, "maxvit_t": 224}


class Rounded(Method):
    """Activations rounded to 2^k levels over the range of the sample."""

    activations = Integers(scales=2, offset=True, bits=range(1, 9), signed=False)

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        return Levels(sample, layer.activation_bits.count)


class Levels(nn.Module):
    def __init__(self, sample: Tensor, count: int) -> None:
        super().__init__()
        low, high = sample.aminmax()
        self.register_buffer("levels", torch.linspace(float(low), float(high), count))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.levels, Tensor)
        middle = (self.levels[1:] + self.levels[:-1]) / 2
        return self.levels[torch.bucketize(x, middle)]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, "aux_logits": False}
    model: nn.Module = models.get_model(name, weights=None, **options)
    return model.eval()


def attached(model: nn.Module, x: Any, placement: Placement, bits: str = "32/2") -> Handle:
    # Layers that attention reads by their weight are never called.
    called = {c.layer for c in find_calls(model, quantizable_layers(model), x) if c.layer}
    inner = [name for name in quantizable_layers(model) if name in called][1:-1]
    batches = [(x, None)]  # inputs and targets; those of a detector are lists
    return attach(
        model, Rounded(), bits=bits, layers=inner, calibration=batches, placement=placement
    )


def check_levels(name: str, model: nn.Module, x: Any, placement: Placement) -> None:
    """Attach, and check that everything that descends from a ReLU arrives on levels."""
    wanted = _fed_by_relus(find_calls(model, quantizable_layers(model), x))
    handle = attached(model, x, placement)
    layers = list(handle.layers)
    handle.harden()
    counts = audit(layers, model.state_dict(), model, x, handle.places, handle.arrivals)
    assert {c.layer for c in counts if c.tensor == "input"} == {m.name for m in layers}
    assert max((c.levels for c in counts), default=0) <= 4, [str(c) for c in counts if not c.holds]
    arriving = {each.point.name for each in handle.arrivals}
    assert wanted <= arriving, wanted - arriving


def _fed_by_relus(calls: list[Call]) -> set[str]:
    """Return the inputs of additions and poolings whose values all come from ReLUs.

    Max-poolings are not among them: the output of one that alone reads a ReLU is quantized.
    """
    descends: list[bool] = []
    found: set[str] = set()
    for call in calls:
        fed = [made is not None and descends[made] for made in call.inputs]
        keeps = call.kind in ("keep", "max_pool") and fed[:1] == [True]
        relu = call.kind == "relu" and call.placeable
        descends.append(relu or keeps or (call.kind == "cat" and all(fed)))
        if call.site is None or call.kind not in ("add", "avg_pool"):
            continue
        parts = ("left", "right") if call.kind == "add" else ("input",)
        found |= {
            f"{call.site.name}.{part}" for part, each in zip(parts, fed, strict=False) if each
        }
    return found


@pytest.mark.parametrize("name", FAST)
def test_a_network_receives_levels_everywhere(name: str) -> None:
    check_levels(name, build(name), IMAGE, "after_activation")


def test_a_network_receives_levels_where_additions_are_quantized() -> None:
    check_levels("mobilenet_v2", build("mobilenet_v2"), IMAGE, "after_activation_and_add")


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_classifier_of_torchvision_receives_levels(name: str) -> None:
    model = build(name)
    size = SIZES.get(name, 224 if "vit" in name else 64)
    check_levels(name, model, torch.randn(2, 3, size, size), "after_activation")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"])
def test_both_ssds_receive_levels(name: str) -> None:
    model = registry.build_model(name, 4, 3).eval()
    size = int("".join(c for c in name.split("_")[0] if c.isdigit()))
    # Two images: normalizations without statistics take those of the batch.
    check_levels(name, model, [torch.rand(3, size, size) for _ in range(2)], "after_activation")


@pytest.mark.slow
def test_a_retinanet_receives_levels() -> None:
    torch.manual_seed(0)
    model = models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64
    ).eval()
    check_levels("retinanet", model, [torch.rand(3, 64, 64)], "after_activation")


def counts_of(model: nn.Module, x: Tensor, placement: Placement) -> list[LevelCount]:
    handle = attached(model, x, placement)
    layers = list(handle.layers)
    handle.harden()
    return audit(layers, model.state_dict(), model, x, handle.places, handle.arrivals)


def test_resnet18_has_the_papers_seventeen_quantizers() -> None:
    handle = attached(build("resnet18"), IMAGE, "after_activation")
    assert len(handle.places) == 17
    assert all(isinstance(place, Place) for place in handle.places)
    addends = [each for each in handle.arrivals if each.point.site.kind == "add"]
    assert len(addends) == 5  # the other three blocks add a normalization
    assert [each.point.name for each in handle.arrivals if each not in addends] == ["avgpool.input"]


def test_both_addends_of_every_addition_are_on_levels_where_additions_are_quantized() -> None:
    counts = counts_of(build("resnet18"), IMAGE, "after_activation_and_add")
    assert len([c for c in counts if c.tensor == "addend"]) == 2 * 8


def test_the_published_alexnet_has_six_quantizers() -> None:
    model = registry.build_model("alexnet_bn", 10, 3)
    handle = attached(model, torch.randn(2, 3, 224, 224), "after_activation")
    assert [place.name for place in handle.places] == [
        "pool1", "pool2", "relu3", "relu4", "pool5", "relu6",
    ]  # fmt: skip


def test_the_release_of_quantization_networks_leaves_the_stem_unquantized() -> None:
    def attach_qn(compat: str) -> Handle:
        return attach(
            build("resnet18"),
            "quantization_networks",
            bits="2/2",
            calibration=[IMAGE],
            compat=compat,
        )

    paper, official = attach_qn("paper"), attach_qn("official")
    assert [p.name for p in paper.places] == ["maxpool", *(p.name for p in official.places)]
    assert len(official.places) == 16
    layers = list(official.layers)
    official.harden()
    counts = audit(layers, official.model.state_dict(), official.model, IMAGE, official.places)
    broken = {count.layer for count in counts if count.tensor == "input" and not count.holds}
    assert broken == {"layer1.0.conv1"}

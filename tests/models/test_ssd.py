"""Single-shot detectors: what they take, what the paper quantizes of them, and every method."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.errors import QbenchError
from qbench.models.ssd import (
    ssd300_vgg16,
    ssd_tiny,
    ssdlite320_mobilenet_v3_large,
    start_from_vgg16,
)
from qbench.quant.attach import attach
from qbench.quant.audit import audit
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from qbench.tasks import detection
from tests.helpers.detectors import TINY, batch
from tests.helpers.methods import FEW, NAMES
from tests.helpers.quantizers import start_step

DETECTORS = {
    "ssd300_vgg16": ssd300_vgg16,
    "ssdlite320_mobilenet_v3_large": ssdlite320_mobilenet_v3_large,
    "ssd_tiny": ssd_tiny,
}
# Quantization Networks, Section 4.2: VGG16 but for its first convolution and the last, 1×1 (fc7).
PAPER = [
    *(f"backbone.features.{i}" for i in (2, 5, 7, 10, 12, 14, 17, 19, 21)),
    *(f"backbone.extra.0.{i}" for i in ("1", "3", "5", "7.1")),
]
WIDTHS = ["3(±4)/32", "2/32", "3(±4)/8", "1/32", "1/1", "1/2", "32/4"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


# What they are -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [("ssd300_vgg16", 300), ("ssdlite320_mobilenet_v3_large", 320), ("ssd_tiny", 96)],
)
@pytest.mark.parametrize("given", [64, 350])
def test_a_detector_stretches_images_to_its_own_size(name: str, size: int, given: int) -> None:
    torch.manual_seed(0)
    model: Any = registry.build_model(name, 6, 3).eval()
    seen: list[torch.Size] = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.inference_mode():
        found = model(batch(given, 1)[0])[0]
    assert seen == [(1, 3, size, size)]
    assert found["boxes"].shape == (len(found["scores"]), 4)
    assert ((found["labels"] > 0) & (found["labels"] < 6)).all()
    assert found["boxes"].max() <= given


def test_default_boxes_are_centred_on_the_cells_of_feature_maps() -> None:
    model = ssd300_vgg16(2)
    with torch.inference_mode():
        features = list(model.backbone(torch.zeros(1, 3, 300, 300)).values())
        images, _ = model.transform(torch.zeros(1, 3, 300, 300))
        boxes = model.anchor_generator(images, features)[0]
    assert features[0].shape[-1] == 38
    x = (boxes[: 4 * 38 : 4, 0] + boxes[: 4 * 38 : 4, 2]) / 2
    torch.testing.assert_close(x, 8 * (torch.arange(38) + 0.5))


@pytest.mark.parametrize("name", ["ssd_tiny", "ssdlite320_mobilenet_v3_large"])
def test_a_grey_image_is_three_channels_alike(name: str) -> None:
    torch.manual_seed(0)
    model = DETECTORS[name](num_classes=3, in_channels=1).eval()
    grey = batch(96, 1)[0][:, :1]
    with torch.inference_mode():
        one, three = model(grey)[0], model(grey.expand(-1, 3, -1, -1))[0]
    assert all(torch.equal(one[key], three[key]) for key in one)


def test_under_autocast_boxes_are_where_they_are() -> None:
    torch.manual_seed(0)
    model, data = ssd_tiny(6).train(), batch()
    seen: list[Tensor] = []
    model.anchor_generator.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    exact = model(*data)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(*data)
    assert torch.equal(*seen)
    for name, loss in rounded.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.03, atol=0.03)


def test_images_of_four_channels_are_refused() -> None:
    for build in DETECTORS.values():
        with pytest.raises(QbenchError, match="3 channels, or 1, not 4"):
            build(num_classes=2, in_channels=4)


def test_vgg16s_weights_are_taken_from_a_classifier_or_its_features() -> None:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(1)
    features = make_layers(cfgs["D"]).state_dict()
    whole = {f"features.{name}": value for name, value in features.items()}
    whole["classifier.0.weight"] = torch.zeros(1)
    theirs = [value for name, value in features.items() if name.endswith("weight")]
    for given in (features, whole):
        model = ssd300_vgg16(2)
        assert start_from_vgg16(model, given).keys() == features.keys()
        mine = [m.weight for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
        assert len(theirs) == 13
        assert all(map(torch.equal, mine[:13], theirs))
    assert torch.equal(model.backbone.extra[0][5].bias, features["28.bias"])


def test_other_weights_than_vgg16s_are_refused() -> None:
    with pytest.raises(QbenchError, match=r"has a 0\.weight of .*, these weights none"):
        start_from_vgg16(ssd300_vgg16(2), {"conv1.weight": torch.zeros(1)})
    wrong = {"0.weight": torch.zeros(64, 3, 5, 5), "0.bias": torch.zeros(64)}
    with pytest.raises(QbenchError, match=r"\(64, 3, 3, 3\), these weights \(64, 3, 5, 5\)"):
        start_from_vgg16(ssd300_vgg16(2), wrong)


# What is quantized -------------------------------------------------------------------------------


def test_the_paper_quantizes_vgg16_but_its_first_and_last_convolution() -> None:
    model = ssd300_vgg16(21)
    backbone = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    vgg16 = backbone[:15]  # conv1_1 to conv5_3, fc6, fc7
    assert model.get_submodule(vgg16[-1]).kernel_size == (1, 1)
    assert vgg16[1:-1] == PAPER
    handle = attach(model, "twn", bits="2/32", layers=PAPER, task="detection")
    assert [layer.name for layer in handle.layers] == PAPER


def test_the_tiny_detectors_backbone_is_named() -> None:
    names = [n for n, m in ssd_tiny(6).named_modules() if isinstance(m, nn.Conv2d)]
    assert [name for name in names if name.startswith("backbone")][1:] == TINY


@pytest.mark.parametrize(
    "name", ["ste", pytest.param("quantization_networks", marks=pytest.mark.slow)]
)
def test_a_detector_of_separable_convolutions_takes_a_step(name: str) -> None:
    model = ssdlite320_mobilenet_v3_large(6)
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and name.startswith("backbone")
    ][1:]
    take_a_step(model, name, "4/4", layers, batch(96, 4))


def take_a_step(
    model: nn.Module, name: str, bits: str, layers: list[str], data: detection.DetectionBatch
) -> None:
    """Attach, train a step in each of three epochs, evaluate soft, harden, evaluate and audit."""
    method = build_method(name, FEW.get(name, {}))
    torch.manual_seed(0)
    handle = attach(
        model, method, bits=bits, layers=layers, calibration=[data[0]], task="detection"
    )
    model = handle.model
    before = [layer.latent_weight.detach().clone() for layer in handle.layers]
    groups = handle.parameter_groups(lr=1e-3, weight_decay=1e-4)
    optimizer = torch.optim.SGD(groups, lr=1e-3, momentum=0.9)
    for epoch in range(1, 4 if method.trains else 1):
        handle.on_epoch_start(epoch, 3, steps=1)
        model.train()
        start_step(handle, 1, 1)
        loss = detection.loss(model, data) + handle.regularization_loss()
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 10)
        handle._before_optimizer_step()
        optimizer.step()
        handle._after_optimizer_step()
    after = [layer.latent_weight.detach() for layer in handle.layers]
    assert method.trains != all(map(torch.equal, before, after))
    model.eval()
    for quantizer in handle.quantizers:
        quantizer.train(method.soft)
    evaluated = detection.evaluate(model, [data])
    assert all(0 <= value <= 100 for value in evaluated.values())
    model.eval()
    quantized = list(handle.layers)
    with torch.inference_mode():
        expected = model(data[0])
    handle.harden()
    with torch.inference_mode():
        found: list[dict[str, Tensor]] = model(data[0])
    for mine, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    counts = audit(quantized, model.state_dict(), model, data[0])
    assert len({count.layer for count in counts}) == len(layers)
    assert not [count for count in counts if count.levels > count.promised]


def accepted(name: str) -> list[str]:
    """Widths for a method: those of the paper's table, or the first of others that it takes."""
    method = build_method(name, {})
    taken = [b for b in WIDTHS if method.supports(BitWidths.parse(b), "detection") is None]
    return [b for b in taken if b in WIDTHS[:3]] or taken[:1]


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    """A tiny detector whose normalisation has seen images."""
    torch.manual_seed(0)
    model = ssd_tiny(6)
    with torch.no_grad():
        detection.loss(model.train(), batch(count=4))
    return model


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        pytest.param(name, bits, marks=[pytest.mark.slow] if name == "obq" else [])
        for name in NAMES
        for bits in accepted(name)
    ],
)
def test_every_method_trains_a_detector(tiny: nn.Module, name: str, bits: str) -> None:
    take_a_step(copy.deepcopy(tiny), name, bits, TINY, batch())


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["2/32", "3(±4)/32", "3(±4)/8"])
def test_the_papers_method_trains_the_papers_detector(bits: str) -> None:
    torch.manual_seed(0)
    take_a_step(ssd300_vgg16(21), "quantization_networks", bits, PAPER, batch(300, 1))

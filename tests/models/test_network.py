"""Initial weights, and images that are too small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from qbench.models.network import ImageSizeError
from qbench.suite.grid import expand
from qbench.suite.suite import load_suite
from tests.helpers.networks import build


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

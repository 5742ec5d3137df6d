"""Inputs of binary and ternary activations at the start: a normalisation stands before each.

The sign of an input that is nearly always positive says nothing. Every method is measured on the
network that it declares for a model, in training, on random images.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from qbench import registry
from qbench.method import Layer, Method
from qbench.quant.attach import prepare
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths

SIZES = {
    **{"convnet_tiny": 8, "resnet_tiny": 8, "resnet20": 32, "vgg_small": 16},
    **{"alexnet_bn": 95, "resnet18": 64, "resnet34": 64, "resnet50": 64, "preact_resnet18": 64},
}
IMAGES = 16


def inputs(method: Method, model: str, bits: str) -> Iterator[tuple[Layer, Tensor]]:
    """Yield the quantized layers with their inputs before these are quantized."""
    torch.manual_seed(0)
    widths = BitWidths.parse(bits)
    network = registry.build_model(method.network_for(model, widths), 10, 3)
    network = prepare(network, method, widths, "skip_first_last").train()
    seen: dict[str, Tensor] = {}
    for layer in method.layers:
        layer.module.register_forward_pre_hook(
            lambda module, args, name=layer.name: seen.setdefault(name, args[0])
        )
    with torch.no_grad():
        network(torch.randn(IMAGES, 3, SIZES[model], SIZES[model]))
    assert seen.keys() == {layer.name for layer in method.layers}
    for layer in method.layers:
        yield layer, seen[layer.name]


@pytest.mark.parametrize("model", SIZES)
@pytest.mark.parametrize("name", ["bnn", "binary_connect", "xnor", "abc_net"])
def test_about_half_of_the_inputs_of_every_binary_layer_are_plus_one(name: str, model: str) -> None:
    method = build_method(name, {})
    for layer, x in inputs(method, model, "1/1"):
        quantizer = method.activation_quantizer(layer, x)
        assert quantizer is not None
        quantized = quantizer(x)
        assert len(quantized.unique()) == 2
        share = float((quantized == quantized.max()).float().mean())
        assert 0.35 < share < 0.65, layer.name


@pytest.mark.parametrize("model", SIZES)
def test_a_fifth_of_the_inputs_of_every_layer_of_tbn_is_zero_and_both_signs_are_alike(
    model: str,
) -> None:
    method = build_method("tbn", {})
    for layer, x in inputs(method, model, "1/2"):
        quantizer = method.activation_quantizer(layer, x)
        assert quantizer is not None
        negative, zero, positive = (float((quantizer(x) == v).float().mean()) for v in (-1, 0, 1))
        assert 0.15 < zero < 0.3, layer.name
        assert 0.35 < negative < 0.45, layer.name
        assert 0.35 < positive < 0.45, layer.name


@pytest.mark.parametrize("model", SIZES)
def test_half_of_the_inputs_of_every_layer_of_hwgq_is_zero_and_few_are_at_the_top(
    model: str,
) -> None:
    method = build_method("hwgq", {})
    for layer, x in inputs(method, model, "1/2"):
        quantizer = method.activation_quantizer(layer, x)
        assert quantizer is not None
        quantized = quantizer(x)
        assert 0.45 < float((quantized == 0).float().mean()) < 0.56, layer.name
        top = float((quantized == quantized.max()).float().mean())
        assert 0.07 < top < 0.11, layer.name  # of a Gaussian: 8.9 %

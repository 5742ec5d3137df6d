"""Negative inputs that a quantizer clips are counted when it is calibrated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qbench.quant.attach import Handle, attach
from qbench.quant.calibration import clipped_text


def images() -> Tensor:
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def attached(name: str, activation: nn.Module) -> Handle:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3))
    return attach(model, name, bits="4/4", layers=["2", "4"], calibration=[images()])


@pytest.mark.parametrize("name", ["dorefa", "pact", "wrpn"])
def test_a_quantizer_from_zero_clips_the_negative_inputs_of_silu(name: str) -> None:
    handle = attached(name, nn.SiLU())
    with torch.no_grad():
        share = float((handle.model[1](handle.model[0](images())) < 0).double().mean())  # type: ignore[index]
    assert handle.layers[0].clipped_share == pytest.approx(share)
    assert share > 0.2
    text = clipped_text(handle.layers)
    assert text.startswith("2 of 2 quantized inputs lose their negative values, ")
    assert f"{100 * share:.0f}" in text


@pytest.mark.parametrize(
    "name", ["lsq", "lsq_plus", "ste", "jacob", "dsq", "ewgs", "quantization_networks"]
)
def test_a_quantizer_that_tells_negative_inputs_apart_clips_none(name: str) -> None:
    assert clipped_text(attached(name, nn.SiLU()).layers) == ""


@pytest.mark.parametrize("name", ["dorefa", "pact", "quantization_networks"])
def test_after_a_relu_nothing_is_clipped(name: str) -> None:
    assert clipped_text(attached(name, nn.ReLU()).layers) == ""

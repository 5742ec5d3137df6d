"""Negative inputs that a quantizer clips are counted when it is calibrated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.quant.calibration import clipped_text
from qbench.quant.handle import Handle


def images() -> Tensor:
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


def attached(name: str, activation: nn.Module) -> Handle:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 8), activation, nn.Linear(8, 3))
    return attach(model, name, bits="4/4", layers=["2", "4"], calibration=[images()])


@pytest.mark.parametrize("name", ["dorefa", "pact", "wrpn", "ewgs"])
def test_a_quantizer_from_zero_clips_or_shifts_the_negative_inputs_of_silu(name: str) -> None:
    handle = attached(name, nn.SiLU())
    with torch.no_grad():
        share = float((handle.model[1](handle.model[0](images())) < 0).double().mean())  # type: ignore[index]
    assert handle.layers[0].clipped_share == pytest.approx(share)
    assert share > 0.2
    text = clipped_text(handle.layers)
    assert text.startswith("2 of 2 quantized inputs lose the sign of their negative values, ")
    assert f"{100 * share:.0f}" in text


@pytest.mark.parametrize(
    "name", ["lsq", "lsq_plus", "ste", "jacob", "dsq", "quantization_networks"]
)
def test_a_quantizer_with_negative_levels_clips_none(name: str) -> None:
    assert clipped_text(attached(name, nn.SiLU()).layers) == ""


@pytest.mark.parametrize("name", ["dorefa", "pact", "quantization_networks"])
def test_after_a_relu_nothing_is_clipped(name: str) -> None:
    assert clipped_text(attached(name, nn.ReLU()).layers) == ""


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            torch.zeros(2, 1, 8, 8),
            "shape (2, 1, 8, 8), torch.float32; its first layer takes 3 channels",
        ),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "shape (2, 3, 8, 8), torch.uint8"),
        (torch.zeros(2, 3, 1, 1), "shape (2, 3, 1, 1), torch.float32"),
        (3, "a batch that is a int, not a tensor"),
        (torch.full((2, 3, 8, 8), float("nan")), "the input of '2' has values that are not finite"),
    ],
)
def test_calibration_that_does_not_fit_is_named(batch: object, message: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten()
    )
    with pytest.raises(QbenchError) as error:
        attach(model, "ste", bits="2/2", layers=["2"], calibration=[batch])
    assert str(error.value).startswith("calibration: ")
    assert message in str(error.value)

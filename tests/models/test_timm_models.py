"""Models of timm by name."""

from __future__ import annotations

import sys

import pytest
import torch

from qbench import registry
from qbench.errors import QbenchError
from qbench.models import timm_models
from tests.helpers.libraries import needs_timm


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    timm_models._names.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(QbenchError, match=r"needs timm, .*pip install 'qbench-quant\[timm\]'"):
        registry.check_model_name("timm:deit_tiny_patch16_224")


def test_a_name_without_the_prefix_is_not_looked_for_in_timm() -> None:
    with pytest.raises(QbenchError, match="no model is named 'deit_tiny'"):
        registry.check_model_name("deit_tiny")


@needs_timm
def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(QbenchError, match=r"did you mean 'timm:deit_tiny_patch16_224'\?"):
        registry.check_model_name("timm:deit_tiny_patch16_22")


@needs_timm
@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_has_the_classes_and_channels_of_the_data(channels: int) -> None:
    model = registry.build_model("timm:test_vit", 7, channels)
    assert model(torch.randn(2, channels, 160, 160)).shape == (2, 7)

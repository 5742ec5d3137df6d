"""Models of timm by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from qbench import registry
from qbench.errors import QbenchError
from qbench.models import timm_models
from tests.helpers.libraries import needs_timm
from tests.helpers.suites import grid


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(QbenchError, match=r"needs timm, .*pip install 'qbench-quant\[timm\]'"):
        registry.build_model("timm:deit_tiny_patch16_224", 10, 3)


def test_without_timm_a_suite_says_why_its_trials_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_models, "_installed", lambda: False)
    monkeypatch.setitem(sys.modules, "timm", None)
    found = grid(tmp_path, "models=[timm:deit_tiny_patch16_224]")
    assert all("cannot be built: timm:deit_tiny_patch16_224 needs" in p.unsupported for p in found)


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
    assert model(torch.randn(2, channels, 64, 32)).shape == (2, 7)  # interpolated positions


@needs_timm
def test_a_model_without_positions_is_built_too() -> None:
    assert registry.build_model("timm:test_resnet", 7, 1)(torch.randn(2, 1, 64, 64)).shape == (2, 7)

"""Pretrained weights before any training: `qbench show MODEL:WEIGHTS`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qbench import registry
from qbench.cli import pretrained
from qbench.functional import kmeans_1d
from qbench.spec.result import WeightDistribution
from tests.conftest import QbenchHere

QUANTIZED = ("3", "7", "10")
LEVELS = [-4, -2, -1, 0, 1, 2, 4]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Weights of a small network, in the file float.pt of the current folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    state: dict[str, Tensor] = registry.build_model("convnet_tiny", 7, 1).state_dict()
    torch.save({"state_dict": state}, "float.pt")
    return state


def test_the_figure_is_drawn_without_a_store(
    state: dict[str, Tensor], qbench_here: QbenchHere
) -> None:
    told = qbench_here("show", "convnet_tiny:float.pt", "--figures", "figures")
    files = {f"figures/weight_distributions.{kind}" for kind in ("png", "svg")}
    assert {str(path) for path in Path("figures").iterdir()} == files
    assert all(f"Wrote {file}" in told for file in files)
    assert {path.name for path in Path().iterdir()} == {"float.pt", "figures"}


def test_it_shows_the_weights_of_the_file_and_what_training_would_start_with(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[WeightDistribution] = []

    def keep(found: list[WeightDistribution], *_: object, **options: object) -> list[Path]:
        assert options == {"trained": False}
        drawn.extend(found)
        return []

    monkeypatch.setattr(pretrained, "weight_distributions", keep)
    pretrained.look_up("convnet_tiny", "float.pt", tmp_path)
    assert tuple(each.layer for each in drawn) == QUANTIZED
    for each in drawn:
        weight = state[f"{each.layer}.weight"].flatten()
        counts, _ = np.histogram(weight.numpy(), bins=np.array(each.edges))
        assert np.abs(counts - np.array(each.before)).sum() <= 2  # at an edge, rounding decides
        assert sum(each.before) == weight.numel()
        beta = 5 * 4 / (4 * float(weight.abs().max()))
        np.testing.assert_allclose(each.levels, np.array(LEVELS) / beta, rtol=1e-5)
        centres = kmeans_1d(weight * beta, len(LEVELS)).numpy()
        biases = (centres[1:] + centres[:-1]) / 2
        biases[2:4] = -0.05, 0.05
        # A threshold is drawn midway between the two weights that are nearest to it.
        ordered = weight.sort().values.numpy()
        right = np.searchsorted(ordered, biases / beta)
        expected = (ordered[right - 1] + ordered[right]) / 2
        np.testing.assert_allclose(each.thresholds, expected, rtol=1e-5)


def test_without_figures_it_counts_what_is_quantized(
    state: dict[str, Tensor], qbench_here: QbenchHere
) -> None:
    every = sum(value.numel() for name, value in state.items() if name.endswith(("weight", "bias")))
    chosen = sum(state[f"{layer}.weight"].numel() for layer in QUANTIZED)
    told = qbench_here("show", "convnet_tiny:float.pt")
    assert "convnet_tiny with the weights float.pt, before training" in told
    share = f"({100 * chosen / every:.1f} %)"
    assert f"quantizes 3 of 5 layers, {chosen:,} of {every:,} parameters {share}" in told
    assert "--figures DIR" in told
    record: dict[str, Any] = json.loads(qbench_here("show", "convnet_tiny:float.pt", "--json"))
    assert (record["quantized_layers"], record["layers"]) == (3, 5)
    assert (record["quantized_parameters"], record["parameters"]) == (chosen, every)


def test_a_model_of_a_file_is_shown(state: dict[str, Tensor], qbench_here: QbenchHere) -> None:
    Path("own.py").write_text(
        "from qbench.models import ConvNetTiny\n\n\n"
        "def own_net(num_classes: int, in_channels: int) -> ConvNetTiny:\n"
        "    return ConvNetTiny(num_classes, in_channels)\n"
    )
    told = qbench_here("show", "own_net:float.pt", "--models", "own.py")
    assert "own_net with the weights float.pt" in told


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("convnet_tny:float.pt", "no model is named 'convnet_tny'; did you mean 'convnet_tiny'?"),
        ("convnet_tiny:flaot.pt", "there is no file flaot.pt; did you mean 'float.pt'?"),
        ("convnet_tiny:", "show convnet_tiny:: write MODEL:WEIGHTS, as in resnet18:torchvision"),
        (":float.pt", "show :float.pt: write MODEL:WEIGHTS"),
        ("convnet_tiny", "Pretrained weights are written MODEL:WEIGHTS, as in resnet18:torch"),
    ],
)
def test_a_mistake_is_named(
    state: dict[str, Tensor], qbench_here: QbenchHere, what: str, message: str
) -> None:
    assert message in qbench_here("show", what, "--figures", "figures", code=2)
    assert not Path("figures").exists()

"""Full-precision weights that are not trained here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from qbench import registry
from qbench.errors import QbenchError
from qbench.spec.weights import identify
from qbench.train import weights
from qbench.train.checkpoint import load_weights
from tests.helpers.checkpoints import poison


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.build_model("convnet_tiny", 10, 1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where torch looks for what it has downloaded."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_a_file_is_read_as_training_scripts_write_it(tmp_path: Path, wrapper: str | None) -> None:
    state = network().state_dict()
    parallel = {f"module.{name}": value for name, value in state.items()}
    file = tmp_path / "net.pt"
    torch.save(parallel if wrapper is None else {wrapper: parallel, "epoch": 3}, file)
    found = load_weights(weights.fetch("convnet_tiny", str(file), network(1)))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    file = str(tmp_path / "none.pt")
    assert identify("resnet18", file) == f"missing:{file}"
    assert weights.missing("resnet18", file) == f"weights of resnet18: there is no file {file}"


def test_torchvisions_are_named_and_said_to_be_downloaded(hub: Path) -> None:
    assert identify("resnet50", "torchvision") == "torchvision:IMAGENET1K_V2"
    chosen = "torchvision:IMAGENET1K_V1"
    assert identify("resnet50", chosen) == chosen
    assert "a run downloads 98 MB from https://" in weights.missing("resnet50", chosen)
    (hub / "resnet50-0676ba61.pth").touch()
    assert weights.missing("resnet50", chosen) == ""


def test_torchvisions_are_read_from_torchs_cache(hub: Path) -> None:
    model = registry.build_model("resnet18", 1000, 3)
    torch.save(model.state_dict(), hub / "resnet18-f37072fd.pth")
    found = load_weights(weights.fetch("resnet18", "torchvision", model))
    assert torch.equal(found["conv1.weight"], model.state_dict()["conv1.weight"])


def test_a_file_that_does_not_fit_or_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save(registry.build_model("resnet_tiny", 10, 1).state_dict(), file)
    with pytest.raises(QbenchError, match=r"net\.pt does not fit: .*Missing key"):
        weights.fetch("convnet_tiny", str(file), network())
    torch.save([1, 2], file)
    with pytest.raises(QbenchError, match="a list, not a state_dict"):
        weights.fetch("convnet_tiny", str(file), network())
    file.write_bytes(b"no weights")
    with pytest.raises(QbenchError, match=r"cannot read .*net\.pt"):
        weights.fetch("convnet_tiny", str(file), network())


def test_a_detector_is_trained_from_its_backbones_weights(tmp_path: Path) -> None:
    vgg = registry.build_model("vgg16", 2, 3)
    file = tmp_path / "vgg16.pt"
    torch.save({"state_dict": vgg.state_dict()}, file)
    choice = f"backbone:{file}"
    assert identify("ssd300_vgg16", choice).startswith("backbone:sha256:")
    assert weights.missing("ssd300_vgg16", f"{choice}x").endswith(f"there is no file {file}x")
    detector = registry.build_model("ssd300_vgg16", 6, 3)
    data = weights.fetch("ssd300_vgg16", choice, detector)
    assert len(load_weights(data)) == 2 * 13  # of the classifier nothing is kept
    other = registry.build_model("ssd300_vgg16", 6, 3)
    weights.start(other, data, backbone=True)
    state, features = other.state_dict(), vgg.state_dict()
    assert torch.equal(state["backbone.features.0.weight"], features["features.0.weight"])
    torch.save(network().state_dict(), file)
    with pytest.raises(QbenchError, match=r"vgg16\.pt does not fit: VGG16 has a 0\.weight"):
        weights.fetch("ssd300_vgg16", choice, detector)


def test_torchvisions_backbones_are_named_and_only_detectors_have_one() -> None:
    choice = "backbone:torchvision"
    assert identify("ssd300_vgg16", choice) == f"{choice}:IMAGENET1K_FEATURES"
    assert "a run downloads 528 MB" in weights.missing("ssd300_vgg16", choice)
    with pytest.raises(QbenchError, match="resnet18 starts from no backbone's weights"):
        identify("resnet18", choice)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(poison(tmp_path))
    with pytest.raises(QbenchError, match=r"cannot read .*net\.pt"):
        weights.fetch("convnet_tiny", str(tmp_path / "net.pt"), network())
    assert not (tmp_path / "owned").exists()

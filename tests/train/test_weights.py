"""Full-precision weights that are not trained here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.errors import QbenchError
from qbench.spec.weights import identify
from qbench.train import weights
from qbench.train.checkpoint import load_weights
from tests.helpers.checkpoints import poison

State = dict[str, Tensor]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.build_model("convnet_tiny", 10, 1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where torch looks for what it has downloaded."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def torchvision_reference(state: State) -> dict[str, Any]:
    """A checkpoint of torchvision's train.py."""
    return {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, model="resnet18"),
        "model_ema": {"n_averaged": torch.tensor(1), **with_prefix("module.", other())},
    }


def timm(state: State) -> dict[str, Any]:
    """A checkpoint of timm's train.py."""
    return {
        "epoch": 3,
        "arch": "convnet",
        "state_dict": state,
        "state_dict_ema": other(),
        "args": argparse.Namespace(lr=0.1, hflip=0.5),
        "metric": np.float64(91.5),
        "version": 2,
    }


def lightning(state: State) -> dict[str, Any]:
    """A checkpoint of Lightning, whose module holds the network and a loss with weights."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5",
        "state_dict": {**with_prefix("model.", state), "criterion.weight": torch.ones(10)},
        "hyper_parameters": {"lr": 0.1},
    }


def with_prefix(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def other() -> State:
    """Weights that must not be taken."""
    return network(2).state_dict()


CHECKPOINTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "state_dict alone": lambda state: state,
    "torchvision": torchvision_reference,
    "timm": timm,
    "Lightning": lightning,
    "Lightning, compiled": lambda state: lightning(with_prefix("_orig_mod.", state)),
    "torch.compile": lambda state: with_prefix("_orig_mod.", state),
    "DataParallel": lambda state: with_prefix("module.", state),
    "DataParallel, compiled": lambda state: with_prefix("module._orig_mod.", state),
    "EMA": lambda state: {"n_averaged": torch.tensor(7), **with_prefix("module.", state)},
    "EMA alone": lambda state: {"model_ema": {"n_averaged": torch.tensor(7), **state}, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.5},
    "net": lambda state: {"net": with_prefix("module.", state), "acc": np.float32(92)},
    "nested": lambda state: {"state_dict": {"model": state}, "epoch": 3},
}


@pytest.mark.parametrize("form", CHECKPOINTS)
def test_a_file_is_read_as_training_scripts_write_it(tmp_path: Path, form: str) -> None:
    state = network().state_dict()
    file = tmp_path / "net.pt"
    torch.save(CHECKPOINTS[form](state), file)
    found = load_weights(weights.fetch("convnet_tiny", str(file), network(1)))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_names_that_belong_to_the_network_are_kept() -> None:
    state = {"model.0.weight": torch.ones(1), "model.1.weight": torch.zeros(1)}
    assert weights._without_prefixes(dict(state), set(state)) == state


def test_a_file_with_other_objects_is_named_with_how_to_convert_it(tmp_path: Path) -> None:
    file = tmp_path / "whole.pt"
    torch.save(network(), file)
    with pytest.raises(QbenchError, match=r"cannot read .*whole\.pt: it holds a ") as error:
        weights.fetch("convnet_tiny", str(file), network())
    assert "reading that could run code" in str(error.value)
    assert "c.state_dict() if c is a module" in str(error.value)


def test_a_file_without_a_state_dict_is_named_with_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save({"epoch": 3, "encoder": {"0.weight": torch.ones(1)}}, file)
    with pytest.raises(QbenchError, match="no state_dict in it: it has epoch, encoder; save one"):
        weights.fetch("convnet_tiny", str(file), network())


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    file = str(tmp_path / "none.pt")
    assert identify("resnet18", file) == f"missing:{file}"
    assert weights.missing("resnet18", file) == f"weights of resnet18: there is no file {file}"


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(network().state_dict(), tmp_path / "net.pt")
    assert weights.missing("convnet_tiny", "~/net.pt") == ""
    assert identify("convnet_tiny", "~/net.pt").startswith("sha256:")
    assert weights.fetch("convnet_tiny", "~/net.pt", network(1))


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
    assert f"there is no file {file}x" in weights.missing("ssd300_vgg16", f"{choice}x")
    detector = registry.build_model("ssd300_vgg16", 6, 3)
    data = weights.fetch("ssd300_vgg16", choice, detector)
    assert len(load_weights(data)) == 2 * 13  # of the classifier nothing is kept
    other = registry.build_model("ssd300_vgg16", 6, 3)
    weights.start(other, load_weights(data), initial=True)
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


def test_a_classifier_is_fine_tuned_for_other_classes(tmp_path: Path) -> None:
    torch.save({"state_dict": with_prefix("module.", network().state_dict())}, tmp_path / "net.pt")
    choice = f"finetune:{tmp_path / 'net.pt'}"
    assert identify("convnet_tiny", choice).startswith("finetune:sha256:")
    assert weights.missing("convnet_tiny", choice) == ""
    data = weights.fetch("convnet_tiny", choice, registry.build_model("convnet_tiny", 3, 1))
    torch.manual_seed(5)
    other = registry.build_model("convnet_tiny", 3, 1)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    weights.start(other, load_weights(data), initial=True)
    expected = network().state_dict()
    for name, value in other.state_dict().items():
        last = name.startswith("15.")
        assert torch.equal(value, before[name] if last else expected[name]), name


def test_weights_for_other_classes_are_refused_with_advice(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save(network().state_dict(), file)
    advice = f"its last layer is for other classes; to start from it, finetune:{file}"
    with pytest.raises(QbenchError, match=advice):
        weights.fetch("convnet_tiny", str(file), registry.build_model("convnet_tiny", 3, 1))
    with pytest.raises(QbenchError, match="layers other than the last one differ: 0, 3"):
        weights.fetch("resnet_tiny", f"finetune:{file}", registry.build_model("resnet_tiny", 3, 3))


def test_torchvisions_weights_are_fine_tuned_by_their_name() -> None:
    choice = "finetune:torchvision"
    assert identify("resnet18", choice) == f"{choice}:IMAGENET1K_V1"
    with pytest.raises(QbenchError, match="A classifier starts from weights with finetune:torchv"):
        identify("resnet18", "backbone:torchvision")


@pytest.mark.parametrize(
    "content", [b"anything", b"", b"0\n", b"\x80\x02.", b"(dq\x01.", b"\xff\xd8\xff"]
)
def test_bytes_that_are_no_checkpoint_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(QbenchError, match=r"cannot read .*net\.pt"):
        weights.fetch("convnet_tiny", str(tmp_path / "net.pt"), network())


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(poison(tmp_path))
    with pytest.raises(QbenchError, match=r"cannot read .*net\.pt"):
        weights.fetch("convnet_tiny", str(tmp_path / "net.pt"), network())
    assert not (tmp_path / "owned").exists()


def test_a_misspelt_choice_names_the_nearest(tmp_path: Path) -> None:
    assert weights.missing("resnet18", "torchvison").endswith("did you mean 'torchvision'?")
    (tmp_path / "float.pt").touch()
    assert weights.missing("resnet18", f"{tmp_path}/flaot.pt").endswith("did you mean 'float.pt'?")


def test_weights_for_other_classes_are_found_before_a_download() -> None:
    text = weights.misfit("resnet18", "torchvision", 5)
    assert text.endswith(
        "its last layer is for other classes; to start from it, finetune:torchvision"
    )
    assert weights.misfit("resnet18", "torchvision", 1000) == ""
    assert weights.misfit("resnet18", "finetune:torchvision", 5) == ""


@pytest.mark.parametrize(
    ("model", "classes", "channels"),
    [
        ("convnet_tiny", 7, 1),
        ("convnet_tiny", 10, 3),
        ("resnet_tiny", 1, 1),
        ("squeezenet1_1", 5, 3),
        ("ssd_tiny", 4, 3),
    ],
)
def test_a_model_is_built_for_what_its_weights_are_for(
    tmp_path: Path, model: str, classes: int, channels: int
) -> None:
    state = registry.build_model(model, classes, channels).state_dict()
    torch.save({"state_dict": with_prefix("module.", state)}, tmp_path / "net.pt")
    found = weights.pretrained(model, str(tmp_path / "net.pt")).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_model_is_built_with_torchvisions_weights(hub: Path) -> None:
    state = registry.build_model("resnet18", 1000, 3).state_dict()
    torch.save(state, hub / "resnet18-f37072fd.pth")
    found = weights.pretrained("resnet18", "torchvision").state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("model", "choice", "message"),
    [
        ("convnet_tny", "net.pt", "no model is named 'convnet_tny'; did you mean 'convnet_tiny'"),
        ("convnet_tiny", "nett.pt", r"there is no file nett\.pt; did you mean 'net\.pt'"),
        ("resnet18", "torchvison", "there is no file torchvison; did you mean 'torchvision'"),
        ("resnet18", "torchvision:IMAGENET1K_1", "no weights 'IMAGENET1K_1'; did you mean 'IMAGEN"),
        ("convnet_tiny", "torchvision", "torchvision has no weights for convnet_tiny; name a file"),
        ("resnet_tiny", "net.pt", r"net\.pt does not fit: .*Missing key"),
        ("convnet_tiny", "finetune:net.pt", "is not of all layers; leave 'finetune:' out"),
    ],
)
def test_a_model_is_not_built_with_weights_that_are_unknown_or_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, choice: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(network().state_dict(), "net.pt")
    with pytest.raises(QbenchError, match=message):
        weights.pretrained(model, choice)

"""Full-precision weights that are not trained here: torchvision's, or a file's.

A choice of them is ``torchvision``, ``torchvision:NAME``, or a file. With ``backbone:`` before it,
it is of the network for classification that a detector is built on; the detector is trained here.
"""

from __future__ import annotations

import hashlib
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qbench.errors import QbenchError, nearest
from qbench.spec.trial import BACKBONE
from qbench.train.checkpoint import dump_weights, load_weights, pack

_TORCHVISION = "torchvision"
# Detectors that start from a backbone: torchvision's name of it, and the weights meant by default.
_BACKBONES = {"ssd300_vgg16": ("vgg16", "IMAGENET1K_FEATURES")}
# Under which training scripts keep a network's state beside an optimiser's.
_WRAPPERS = ("state_dict", "model")


def identify(model: str, choice: str) -> str:
    """What weights are, for a trial's key: the same for the same tensors wherever a file lies.

    Args:
        model: the model that they are for.
        choice: as above.

    Returns:
        ``torchvision:NAME``, or ``sha256:…`` of the file; ``missing:FILE`` where it is not there;
        with ``backbone:`` before it where the choice has that.

    Raises:
        QbenchError: torchvision has no such weights, or the model starts from no backbone.
    """
    if is_backbone(choice):
        _check_backbone(model)
        return BACKBONE + _identify(model, choice)
    return _identify(model, choice)


def _identify(model: str, choice: str) -> str:
    if _is_torchvision(choice):
        return f"{_TORCHVISION}:{_torchvision_weights(model, choice).name}"
    path = _file(choice)
    return (
        f"sha256:{_digest(path, path.stat().st_mtime_ns)}" if path.is_file() else f"missing:{path}"
    )


def is_backbone(choice: str) -> bool:
    """Whether a choice, or what `identify` made of it, is of a detector's backbone alone."""
    return choice.startswith(BACKBONE)


def missing(model: str, choice: str) -> str:
    """Say what has to be there or come before a run, or ''."""
    if not _is_torchvision(choice):
        path = _file(choice)
        return "" if path.is_file() else f"weights of {model}: there is no file {path}"
    weights = _torchvision_weights(model, choice)
    if (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).exists():
        return ""
    size = weights.meta.get("_file_size", 0)
    return f"weights of {model}: a run downloads {size:.0f} MB from {weights.url}"


def fetch(model: str, choice: str, network: nn.Module) -> bytes:
    """Read weights, and check that they fit.

    Args:
        model: the model's name.
        choice: as for `identify`.
        network: the model that they are to be loaded into.

    Returns:
        What `start` takes.

    Raises:
        QbenchError: they cannot be had, hold more than tensors, or do not fit the model.
    """
    try:
        if _is_torchvision(choice):
            weights = _torchvision_weights(model, choice)
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        else:
            state = _plain(torch.load(_file(choice), map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise QbenchError(f"weights of {model}: cannot read {choice}: {reason}") from error
    try:
        if is_backbone(choice):
            from qbench.models.ssd import start_from_vgg16  # torchvision's detectors take a second

            return pack(start_from_vgg16(network, state))
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError, QbenchError) as error:
        reason = " ".join(str(error).split())[:300]
        raise QbenchError(f"weights of {model}: {choice} does not fit: {reason}") from error
    return dump_weights(network)


def start(network: nn.Module, data: bytes, backbone: bool) -> None:
    """Load what `fetch` returned, or a trained network's weights, into a network.

    Args:
        network: a model as its name builds it.
        data: the weights, serialised.
        backbone: whether they are of its backbone alone.
    """
    state = load_weights(data)
    if backbone:
        from qbench.models.ssd import start_from_vgg16

        start_from_vgg16(network, state)
    else:
        network.load_state_dict(state)


def _plain(content: Any) -> dict[str, Tensor]:
    """A ``state_dict`` out of what training scripts store around it."""
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise RuntimeError(f"a {type(content).__name__}, not a state_dict")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _is_torchvision(choice: str) -> bool:
    return choice.removeprefix(BACKBONE).partition(":")[0] == _TORCHVISION


def _file(choice: str) -> Path:
    return Path(choice.removeprefix(BACKBONE))


def _check_backbone(model: str) -> None:
    if model not in _BACKBONES:
        known = ", ".join(_BACKBONES)
        raise QbenchError(f"{model} starts from no backbone's weights; those that do: {known}")


def _torchvision_weights(model: str, choice: str) -> Any:
    from torchvision.models import get_model_weights

    default = "DEFAULT"
    if is_backbone(choice):
        model, default = _BACKBONES[model]
        choice = choice.removeprefix(BACKBONE)
    try:
        known = get_model_weights(model)
    except ValueError as error:
        raise QbenchError(
            f"torchvision has no weights for {model}; name a file, or leave it out of `weights` to "
            "train it here"
        ) from error
    name = choice.partition(":")[2] or default
    if name not in known.__members__:
        raise QbenchError(f"{model} has no weights '{name}'{nearest(name, known.__members__)}")
    return known[name]


@cache
def _digest(path: Path, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

"""Load full-precision weights that are not trained here: torchvision's, or those of a file.

`qbench.spec.weights` explains how a suite chooses them.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qbench.errors import QbenchError
from qbench.spec.weights import is_backbone, is_torchvision, torchvision_weights, weights_file
from qbench.train.checkpoint import dump_weights, load_weights, pack

# Under which training scripts keep a network's state beside an optimiser's.
_WRAPPERS = ("state_dict", "model")


def missing(model: str, choice: str) -> str:
    """Say what has to be there or come before a run, or ''."""
    if not is_torchvision(choice):
        path = weights_file(choice)
        return "" if path.is_file() else f"weights of {model}: there is no file {path}"
    weights = torchvision_weights(model, choice)
    if (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).exists():
        return ""
    size = weights.meta.get("_file_size", 0)
    return f"weights of {model}: a run downloads {size:.0f} MB from {weights.url}"


def fetch(model: str, choice: str, network: nn.Module) -> bytes:
    """Read weights, and check that they fit.

    Args:
        model: the model's name.
        choice: as for `qbench.spec.weights.identify`.
        network: the model that they are to be loaded into.

    Returns:
        What `start` takes.

    Raises:
        QbenchError: they cannot be had, hold more than tensors, or do not fit the model.
    """
    try:
        if is_torchvision(choice):
            weights = torchvision_weights(model, choice)
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        else:
            state = _plain(torch.load(weights_file(choice), map_location="cpu", weights_only=True))
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
    """Return the ``state_dict`` within what training scripts store around it."""
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise RuntimeError(f"a {type(content).__name__}, not a state_dict")
    return {name.removeprefix("module."): value for name, value in content.items()}

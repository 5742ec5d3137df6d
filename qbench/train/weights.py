"""Load full-precision weights that are not trained here, from torchvision or from a file.

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

# Names under which training scripts store a network's state beside that of an optimizer.
_WRAPPERS = ("state_dict", "model")


def missing(model: str, choice: str) -> str:
    """Return what a run needs and does not find, or an empty string.

    Args:
        model: Name of the model.
        choice: Choice of a suite, as for `qbench.spec.weights.identify`.

    Returns:
        A sentence: the file that does not exist, or the download that a run starts.
    """
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
        model: Name of the model.
        choice: Choice of a suite, as for `qbench.spec.weights.identify`.
        network: The model, which the weights are loaded into.

    Returns:
        The serialized weights, for `start`.

    Raises:
        QbenchError: The weights cannot be read, hold more than tensors, or do not fit the model.
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
    """Load weights that `fetch` returned, or those of a trained network, into a network.

    Args:
        network: A model as its name builds it.
        data: Serialized weights.
        backbone: Whether they are the weights of a detector's backbone alone.

    Raises:
        qbench.train.checkpoint.RefusedError: The data hold more than weights, or are damaged.
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

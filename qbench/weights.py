"""Full-precision weights that are not trained here: torchvision's, or a file's."""

from __future__ import annotations

import hashlib
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qbench.checkpoint import dump_weights
from qbench.errors import QbenchError, nearest

_TORCHVISION = "torchvision"
# Under which training scripts keep a network's state beside an optimiser's.
_WRAPPERS = ("state_dict", "model")


def identify(model: str, choice: str) -> str:
    """What weights are, for a trial's key: the same for the same tensors wherever a file lies.

    Args:
        model: the model that they are for.
        choice: ``torchvision``, ``torchvision:NAME``, or a file.

    Returns:
        ``torchvision:NAME``, or ``sha256:…`` of the file; ``missing:FILE`` where it is not there.

    Raises:
        QbenchError: torchvision has no such weights.
    """
    if _is_torchvision(choice):
        return f"{_TORCHVISION}:{_torchvision_weights(model, choice).name}"
    path = Path(choice)
    return (
        f"sha256:{_digest(path, path.stat().st_mtime_ns)}" if path.is_file() else f"missing:{path}"
    )


def missing(model: str, choice: str) -> str:
    """Say what has to be there or come before a run, or ''."""
    if not _is_torchvision(choice):
        return "" if Path(choice).is_file() else f"weights of {model}: there is no file {choice}"
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
        Its ``state_dict``, as `qbench.checkpoint.load_weights` reads it.

    Raises:
        QbenchError: they cannot be had, hold more than tensors, or do not fit the model.
    """
    try:
        if _is_torchvision(choice):
            weights = _torchvision_weights(model, choice)
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        else:
            state = _plain(torch.load(choice, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise QbenchError(f"weights of {model}: cannot read {choice}: {reason}") from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise QbenchError(f"weights of {model}: {choice} does not fit: {reason}") from error
    return dump_weights(network)


def _plain(content: Any) -> dict[str, Tensor]:
    """A ``state_dict`` out of what training scripts store around it."""
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise RuntimeError(f"a {type(content).__name__}, not a state_dict")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _is_torchvision(choice: str) -> bool:
    return choice.partition(":")[0] == _TORCHVISION


def _torchvision_weights(model: str, choice: str) -> Any:
    from torchvision.models import get_model_weights

    try:
        known = get_model_weights(model)
    except ValueError as error:
        raise QbenchError(
            f"torchvision has no weights for {model}; name a file, or leave it out of `weights` to "
            "train it here"
        ) from error
    name = choice.partition(":")[2] or "DEFAULT"
    if name not in known.__members__:
        raise QbenchError(f"{model} has no weights '{name}'{nearest(name, known.__members__)}")
    return known[name]


@cache
def _digest(path: Path, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

"""Names of full-precision weights that are not trained here.

A suite chooses the weights of a model by a text: ``torchvision``, ``torchvision:NAME``, or the path
of a file. With ``backbone:`` before it, the weights are those of the classification network that a
detector is built on, and the detector itself is trained here. With ``finetune:`` before it, the
training of a classifier starts from the weights of all its layers but the last, which may be for
other classes. `qbench.train.weights` loads them.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from qbench.errors import QbenchError, nearest
from qbench.files import expanded

_BACKBONE, _FINETUNE = "backbone:", "finetune:"
TORCHVISION = "torchvision"
# Detectors that start from a backbone: torchvision's name of it, and its default weights.
_BACKBONES = {"ssd300_vgg16": ("vgg16", "IMAGENET1K_FEATURES")}


def identify(model: str, choice: str) -> str:
    """Return the identity of weights, which is part of a trial's key.

    It depends on the content of a file and not on its path.

    Args:
        model: Name of the model that they are for.
        choice: Choice of a suite, as described in this module.

    Returns:
        ``torchvision:NAME``; or ``sha256:`` and 16 hexadecimal digits, the hash of the file; or
        ``missing:FILE`` if there is no such file. With ``backbone:`` or ``finetune:`` before it if
        the choice has that.

    Raises:
        QbenchError: torchvision has no such weights, or the model has no backbone.
    """
    if choice.startswith(_BACKBONE) and model not in _BACKBONES:
        known = ", ".join(_BACKBONES)
        raise QbenchError(
            f"{model} starts from no backbone's weights; those that do: {known}. A classifier "
            f"starts from weights with {_FINETUNE}{_without_prefix(choice)}"
        )
    prefix = choice.removesuffix(_without_prefix(choice))
    if is_torchvision(choice):
        return f"{prefix}{TORCHVISION}:{torchvision_weights(model, choice).name}"
    path = weights_file(choice)
    if not path.is_file():
        return f"{prefix}missing:{path}"
    return f"{prefix}sha256:{_hash_of(path, path.stat().st_mtime_ns)}"


def is_initial(choice: str) -> bool:
    """Return whether a choice or an identity is of weights that a training here starts from."""
    return choice.startswith((_BACKBONE, _FINETUNE))


def is_torchvision(choice: str) -> bool:
    """Return whether a choice is of torchvision's weights, and not of a file."""
    return _without_prefix(choice).partition(":")[0] == TORCHVISION


def weights_file(choice: str) -> Path:
    """Return the path of the file that a choice names, with ``~`` expanded."""
    return expanded(_without_prefix(choice))


def torchvision_weights(model: str, choice: str) -> Any:
    """Return torchvision's description of weights. This imports torch.

    Args:
        model: Name of the model that they are for.
        choice: ``torchvision`` or ``torchvision:NAME``, also with ``backbone:`` or ``finetune:``
            before it. Without a name: torchvision's default for the model.

    Returns:
        Member of an enumeration of `torchvision.models`, with ``name``, ``url`` and ``meta``.

    Raises:
        QbenchError: torchvision has no such weights.
    """
    from torchvision.models import get_model_weights

    default = "DEFAULT"
    if choice.startswith(_BACKBONE):
        model, default = _BACKBONES[model]
    choice = _without_prefix(choice)
    try:
        known = get_model_weights(model)
    except ValueError as error:
        raise QbenchError(
            f"torchvision has no weights for {model}; name a file. A suite trains a model that its "
            "`weights` leave out"
        ) from error
    name = choice.partition(":")[2] or default
    if name not in known.__members__:
        raise QbenchError(f"{model} has no weights '{name}'{nearest(name, known.__members__)}")
    return known[name]


def _without_prefix(choice: str) -> str:
    return choice.removeprefix(_BACKBONE).removeprefix(_FINETUNE)


@cache
def _hash_of(path: Path, modified: int) -> str:
    """Return the hash of a file. The time of its last change is part of the cache's key."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]

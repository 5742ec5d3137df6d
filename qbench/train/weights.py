"""Load full-precision weights that are not trained here, from torchvision or from a file.

`qbench.spec.weights` explains how a suite chooses them.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench.errors import QbenchError, closest
from qbench.spec.weights import (
    TORCHVISION,
    is_initial,
    is_torchvision,
    torchvision_weights,
    weights_file,
)
from qbench.train.checkpoint import dump_weights, pack

# Names under which training scripts store a network's state beside that of an optimizer. An average
# of the weights is used only if there is nothing else.
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "module"),
    *("model_ema", "state_dict_ema", "ema"),
)
# Prefixes of DataParallel and AveragedModel, and of modules that hold the network in an attribute.
_PREFIXES = ("module.", "model.", "net.", "network.", "ema_model.")
_COMPILED = "_orig_mod."  # of torch.compile, anywhere in a name
_COUNT = "n_averaged"  # of AveragedModel


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
        if path.is_file():
            return ""
        hint = closest(path.name, [*(p.name for p in path.parent.glob("*")), TORCHVISION])
        return f"weights of {model}: there is no file {path}{hint}"
    weights = torchvision_weights(model, choice)
    if (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).exists():
        return ""
    size = weights.meta.get("_file_size", 0)
    return f"weights of {model}: a run downloads {size:.0f} MB from {weights.url}"


def misfit(model: str, choice: str, num_classes: int) -> str:
    """Return why weights of torchvision do not fit before they are downloaded, or an empty string.

    Args:
        model: Name of the model.
        choice: Choice of a suite, as for `qbench.spec.weights.identify`.
        num_classes: Number of classes of the dataset.
    """
    if not is_torchvision(choice) or is_initial(choice):
        return ""
    categories = torchvision_weights(model, choice).meta.get("categories", ())
    if len(categories) in (0, num_classes):
        return ""
    return f"weights of {model}: {choice} does not fit: {_for_other_classes(choice)}"


def _for_other_classes(choice: str) -> str:
    return f"its last layer is for other classes; to start from it, finetune:{choice}"


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
            expected = set() if _is_detector(network) else set(network.state_dict())
            state = _without_prefixes(_state_of(_load(weights_file(choice))), expected)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise QbenchError(f"weights of {model}: cannot read {choice}: {reason}") from error
    try:
        if is_initial(choice):
            return pack(_load_initial(network, state))
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError, QbenchError) as error:
        reason = " ".join(str(error).split())[:300]
        if not (is_initial(choice) or _misfits_before_the_last(network, state)):
            reason = _for_other_classes(choice)
        raise QbenchError(f"weights of {model}: {choice} does not fit: {reason}") from error
    return dump_weights(network)


def start(network: nn.Module, state: Mapping[str, Tensor], initial: bool) -> None:
    """Load weights that `fetch` returned, or those of a trained network, into a network.

    Args:
        network: A model as its name builds it.
        state: Weights by name.
        initial: Whether they are weights that a training starts from, and not of every layer.
    """
    if initial:
        _load_initial(network, state)
    else:
        network.load_state_dict(state)


def _load_initial(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load the weights of a detector's backbone, or of all layers of a classifier but the last.

    Args:
        network: The network, which is changed in place.
        state: Tensors by name.

    Returns:
        The tensors that were loaded.

    Raises:
        QbenchError: More than the last layer of a classifier does not fit.
    """
    if _is_detector(network):
        from qbench.models.ssd import start_from_vgg16  # torchvision's detectors take a second

        return start_from_vgg16(network, state)
    if misfits := _misfits_before_the_last(network, state):
        raise QbenchError(f"layers other than the last one differ: {', '.join(misfits)}")
    own = network.state_dict()
    fits = {n: v for n, v in state.items() if n in own and v.shape == own[n].shape}
    network.load_state_dict(fits, strict=False)
    return fits


def _misfits_before_the_last(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return the layers, without the last, for which there are no tensors of the right shapes."""
    own = network.state_dict()
    fits = {n for n, v in own.items() if n in state and state[n].shape == v.shape}
    layers = dict.fromkeys(name.rpartition(".")[0] for name in own)
    misfits = {name.rpartition(".")[0] for name in own if name not in fits}
    return [name for name in list(layers)[:-1] if name in misfits]


def _is_detector(network: nn.Module) -> bool:
    return hasattr(network, "anchor_generator")


def _load(path: Path) -> Any:
    """Read a checkpoint without running code of it.

    Options of a command line and numbers of numpy are data too, and many checkpoints hold some.

    Raises:
        RuntimeError: The file holds objects of other classes, and the message says how to convert
            it; or it is no checkpoint.
    """
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise
        raise RuntimeError(
            f"it holds a {found[1]}, and reading that could run code. If you trust the file, save "
            "its tensors alone: import torch; c = torch.load(FILE, weights_only=False); "
            "torch.save(c['state_dict'], NEW_FILE), or c.state_dict() if c is a module"
        ) from error
    except (OSError, EOFError, RuntimeError):
        raise
    except Exception as error:  # torch takes any bytes for instructions of pickle
        raise RuntimeError("it is no checkpoint that torch.save wrote") from error


def _harmless() -> list[Any]:
    """Return classes and functions that a checkpoint may use: they build plain data."""
    numbers = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")]
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    names = (
        f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")
    )  # before and since 2.0
    return [argparse.Namespace, np.dtype, *numbers, *((scalar, name) for name in names)]


def _state_of(content: Any) -> dict[str, Tensor]:
    """Return the ``state_dict`` in a checkpoint.

    Raises:
        RuntimeError: There is none.
    """
    while isinstance(content, Mapping):
        inner = (content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping))
        found = next(inner, None)
        if found is None:
            break
        content = found
    if not isinstance(content, Mapping):
        raise RuntimeError(f"a {type(content).__name__}, not a state_dict")
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(str, content)) or "nothing"
        raise RuntimeError(f"no state_dict in it: it has {keys}; save one under 'state_dict'")
    return state


def _without_prefixes(state: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Remove prefixes of names that do not belong to the network.

    Args:
        state: Tensors by name.
        expected: Names in the network. Empty if they are not known.

    Returns:
        The tensors of the network. Those beside it, such as weights of a loss, are left out.
    """
    state = {name.replace(_COMPILED, ""): v for name, v in state.items() if name != _COUNT}
    for prefix in 2 * _PREFIXES:  # in whatever order they are nested
        own = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
        fits = len(own) == len(state) or (expected and expected <= own.keys())
        if own and fits and not any(name.startswith(prefix) for name in expected):
            state = own
    return state

"""Load full-precision weights that are not trained here, from torchvision or from a file.

`qbench.spec.weights` explains how a suite chooses them.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.errors import QbenchError, closest
from qbench.spec.weights import (
    TORCHVISION,
    identify,
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
    state = _read(model, choice, () if _is_detector(network) else network.state_dict())
    loaded = _load(network, state, model, choice)
    return pack(loaded) if is_initial(choice) else dump_weights(network)


def pretrained(model: str, choice: str) -> nn.Module:
    """Build a model with given weights, for as many classes and channels as the weights are for.

    Args:
        model: Name of the model.
        choice: Choice of a suite, as for `qbench.spec.weights.identify`. Weights of torchvision are
            downloaded if they are not there.

    Returns:
        The model.

    Raises:
        QbenchError: The model or the weights are unknown, are not of all layers, cannot be read, or
            do not fit the model.
    """
    registry.check_model_name(model)
    if is_initial(choice):
        prefix = choice.partition(":")[0]
        raise QbenchError(
            f"weights of {model}: {choice} is not of all layers; leave '{prefix}:' out, and name "
            "weights of the whole network"
        )
    if "missing:" in identify(model, choice):
        raise QbenchError(missing(model, choice))
    state = _read(model, choice, _shapes(model, 2, 3))
    classes = _classes(model, state)
    given = {name: value.shape for name, value in state.items()}
    channels = next((n for n in (3, 1) if _shapes(model, classes, n).items() <= given.items()), 3)
    network = registry.build_model(model, classes, channels)
    _load(network, state, model, choice)
    return network


def _read(model: str, choice: str, expected: Collection[str]) -> dict[str, Tensor]:
    """Read weights.

    Args:
        model: Name of the model.
        choice: Choice of a suite.
        expected: Names of the model's tensors. Empty if they are not known.

    Returns:
        Tensors by name.

    Raises:
        QbenchError: They cannot be read.
    """
    try:
        if is_torchvision(choice):
            weights = torchvision_weights(model, choice)
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
            return dict(state)
        return _without_prefixes(_state_of(_content(weights_file(choice))), set(expected))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise QbenchError(f"weights of {model}: cannot read {choice}: {reason}") from error


def _load(
    network: nn.Module, state: Mapping[str, Tensor], model: str, choice: str
) -> dict[str, Tensor]:
    """Load weights into a network, and return those that were loaded.

    Raises:
        QbenchError: They do not fit.
    """
    try:
        if is_initial(choice):
            return _load_initial(network, state)
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError, QbenchError) as error:
        reason = " ".join(str(error).split())[:300]
        if not (is_initial(choice) or _misfits_before_the_last(network, state)):
            reason = _for_other_classes(choice)
        raise QbenchError(f"weights of {model}: {choice} does not fit: {reason}") from error
    return dict(state)


def _classes(model: str, state: Mapping[str, Tensor]) -> int:
    """Return the number of classes for which a model has tensors of these shapes.

    Sizes that depend on the number of classes are linear in it. Two classes if nothing depends on
    it, or if the tensors are of another model.
    """
    two, three = (_shapes(model, classes, 3) for classes in (2, 3))
    for name, shape in two.items():
        sizes = zip(shape, three[name], state[name].shape if name in state else (), strict=False)
        for of_two, of_three, given in sizes:
            if of_two != of_three:
                return max(1, 2 + (given - of_two) // (of_three - of_two))
    return 2


def _shapes(model: str, classes: int, channels: int) -> dict[str, torch.Size]:
    """Return the shapes of a model's tensors by name."""
    with torch.device("meta"):
        state = registry.build_model(model, classes, channels).state_dict()
    return {name: value.shape for name, value in state.items()}


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


def _content(path: Path) -> Any:
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

"""Checkpoints: the state from which an interrupted trial resumes with the same bits."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class RefusedError(Exception):
    """Raised for data that `pack` does not write. Nothing of it was executed."""


class Checkpoints(Protocol):
    """Storage of the last checkpoint of one trial."""

    def load(self) -> bytes | None:
        """Return the last checkpoint, or None."""

    def save(self, data: bytes) -> None:
        """Store a checkpoint in place of the last one."""


def pack(content: Mapping[str, Any]) -> bytes:
    """Serialize tensors, numbers, text, and lists and dictionaries of them.

    Args:
        content: What to serialize, by name.

    Returns:
        A file as ``torch.save`` writes it.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, Any]:
    """Read what `pack` wrote. Tensors are loaded onto the CPU, and no code is executed.

    Args:
        data: What `pack` returned.

    Returns:
        What was given to `pack`.

    Raises:
        RefusedError: The data hold more than data, or are damaged.
    """
    try:
        content: dict[str, Any] = torch.load(
            io.BytesIO(data), map_location="cpu", weights_only=True
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise RefusedError("holds more than data, or is damaged") from error
    return content


def dump_weights(model: nn.Module) -> bytes:
    """Serialize the ``state_dict`` of a model, with its tensors on the CPU."""
    return pack({name: tensor.cpu() for name, tensor in model.state_dict().items()})


def load_weights(data: bytes) -> dict[str, Tensor]:
    """Read what `dump_weights` wrote.

    Args:
        data: What `dump_weights` returned.

    Returns:
        Tensors by name, as `torch.nn.Module.load_state_dict` takes them.

    Raises:
        RefusedError: As in `unpack`.
    """
    return unpack(data)


def random_state() -> dict[str, Any]:
    """Return the state of the random generators of Python, numpy and torch, on every device."""
    version, python, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)  # noqa: S101 - the form that legacy=False gives
    return {
        "python": [version, list(python), gauss],
        "numpy": {
            "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "pos": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the random generators to a state that `random_state` returned."""
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python), gauss))
    numpy = state["numpy"]
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": numpy["key"].numpy().astype(np.uint32), "pos": numpy["pos"]},
            "has_gauss": numpy["has_gauss"],
            "gauss": numpy["gauss"],
        }
    )
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])

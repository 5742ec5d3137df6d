"""Undo the changes of a model if an error interrupts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def undone_on_error(model: nn.Module, values: bool) -> Iterator[None]:
    """Context manager that makes a model what it was if an exception is raised inside.

    Submodules, classes of modules, attributes and hooks become what they were.

    Args:
        model: Any module.
        values: Whether the values of parameters and buffers may change inside. They are then copied
            before.
    """
    before = [(module, type(module), _attributes(module)) for module in model.modules()]
    tensors = [*model.parameters(), *model.buffers()] if values else []
    copies = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in tensors]
    try:
        yield
    except BaseException:
        for module, cls, attributes in before:
            module.__class__ = cls
            _restore(module, attributes)
        for tensor, copy, requires_grad in copies:
            with torch.no_grad():
                tensor.requires_grad_(requires_grad).copy_(copy)
        raise


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return the attributes of a module, each with a copy of its items if it is a dictionary.

    Dictionaries of hooks must stay the same objects, since handles of hooks refer to them.
    """
    found = vars(module).items()
    return {k: (each, each.copy() if isinstance(each, dict) else None) for k, each in found}


def _restore(module: nn.Module, attributes: dict[str, tuple[Any, Any]]) -> None:
    now = vars(module)
    now.clear()
    for name, (value, items) in attributes.items():
        if isinstance(value, dict):
            value.clear()
            value.update(items)
        now[name] = value

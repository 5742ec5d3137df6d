"""Packages of the extra ``deploy``, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from qbench.errors import QbenchError


def library(name: str) -> Any:
    """Import a module of the extra.

    Args:
        name: Name of the module.

    Returns:
        The module.

    Raises:
        QbenchError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise QbenchError(
            f"deployment needs {error.name}: pip install 'qbench-quant[deploy]'"
        ) from error

"""Names of methods, models and datasets, and the objects they stand for.

The names come from the entry points of installed packages, qbench's own among them: the groups
``qbench.methods``, ``qbench.models`` and ``qbench.datasets``. Method files add names of methods.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from pydantic import ValidationError, validate_call

from qbench.errors import QbenchError, nearest
from qbench.spec.booleans import check_no_boolean

if TYPE_CHECKING:
    from torch import nn

    from qbench.data import Dataset
    from qbench.method import Method

Kind = Literal["methods", "models", "datasets"]
_methods_of_files: dict[str, type[Method]] = {}


def names(kind: Kind) -> list[str]:
    """Return the known names of a kind, sorted. Models of torchvision are left out.

    Args:
        kind: ``methods``, ``models`` or ``datasets``.
    """
    added = list(_methods_of_files) if kind == "methods" else []
    return sorted([*_entry_points(kind), *added])


def package(kind: Kind, name: str) -> str:
    """Return the name of the installed package that provides an object.

    Args:
        kind: ``methods``, ``models`` or ``datasets``.
        name: Name of the object, which is installed.
    """
    distribution = _entry_points(kind)[name].dist
    return distribution.name if distribution is not None else "unknown"


def register_method(cls: type[Method]) -> None:
    """Register the class of a method file under its name, in place of an earlier one.

    Args:
        cls: The class.

    Raises:
        QbenchError: An installed method has the name.
    """
    if cls.name in _entry_points("methods"):
        raise QbenchError(
            f"'{cls.name}' is the name of an installed method; give the class another, as in "
            '`name = "my_method"`'
        )
    _methods_of_files[cls.name] = cls


def method_class(name: str) -> type[Method]:
    """Return the class of a method.

    Args:
        name: Name of the method.

    Raises:
        QbenchError: The method is unknown, or cannot be imported.
    """
    if name in _methods_of_files:
        return _methods_of_files[name]
    cls: type[Method] = _load("methods", name)
    return cls


def build_dataset(name: str, options: Mapping[str, Any] | None = None) -> Dataset:
    """Build a dataset from its name. Its files need not exist.

    Args:
        name: Name of the dataset.
        options: Options of the dataset, as in ``data`` of a suite. Default: none.

    Raises:
        QbenchError: The dataset or an option is unknown, or a value is invalid.
    """
    cls = _load("datasets", name)
    given = dict(options or {})
    known = dataset_options(name)
    for option in given:
        if option not in known:
            raise QbenchError(f"{name}: no option '{option}' of data{nearest(option, known)}")
    types = get_type_hints(cls.__init__)
    for option, value in given.items():
        try:
            check_no_boolean(value, types.get(option, Any))
        except ValueError as error:
            raise QbenchError(f"{name}: data.{option}: {error}") from error
    try:
        dataset: Dataset = cls.__new__(cls)
        validate_call(cls.__init__)(dataset, **given)
    except ValidationError as error:
        raise QbenchError(
            "\n".join(
                f"{name}: data.{'.'.join(map(str, e['loc']))}: {e['msg']}, not {e['input']!r}"
                for e in error.errors()
            )
        ) from error
    return dataset


def dataset_options(name: str) -> list[str]:
    """Return the names of the options of a dataset.

    Args:
        name: Name of the dataset.

    Raises:
        QbenchError: The dataset is unknown, or cannot be imported.
    """
    return list(inspect.signature(_load("datasets", name)).parameters)


def build_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Build a randomly initialised model: a registered one, or else torchvision's of that name.

    Args:
        name: Name of the model.
        num_classes: Number of classes.
        in_channels: Number of channels of the input images. torchvision's models take three; a
            grey image is repeated.

    Raises:
        QbenchError: The model is unknown, or cannot be imported.
    """
    if name in _entry_points("models"):
        model: nn.Module = _load("models", name)(num_classes=num_classes, in_channels=in_channels)
        return model
    from qbench.models import torchvision_model

    return torchvision_model(name, num_classes, in_channels)


def check_model_name(name: str) -> None:
    """Check that a model has this name.

    Args:
        name: Name to check.

    Raises:
        QbenchError: The model is unknown. The message names the nearest.
    """
    if name not in _entry_points("models"):
        from qbench.models import torchvision_names

        known = [*names("models"), *torchvision_names()]
        if name not in known:
            raise QbenchError(f"no model is named '{name}'{nearest(name, known)}")


@functools.cache
def _entry_points(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"qbench.{kind}")}


def _load(kind: Kind, name: str) -> Any:
    point = _entry_points(kind).get(name)
    if point is None:
        what = kind.removesuffix("s")
        raise QbenchError(f"no {what} is named '{name}'{nearest(name, names(kind))}")
    try:
        return point.load()
    except Exception as error:
        raise QbenchError(f"{name}: {point.value} cannot be imported: {error}") from error

"""Names of methods, models and datasets, and the objects they stand for.

The names come from the entry points of installed packages, qbench's own among them: the groups
``qbench.methods``, ``qbench.models`` and ``qbench.datasets``. Python files add names of each kind.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from pydantic import ValidationError, validate_call
from pydantic.errors import PydanticUserError

from qbench.errors import QbenchError, nearest
from qbench.files import expanded
from qbench.spec.booleans import check_no_boolean
from qbench.spec.findings import plain
from qbench.spec.names import unfit

if TYPE_CHECKING:
    from torch import nn

    from qbench.data import Dataset
    from qbench.method import Method

Kind = Literal["methods", "models", "datasets"]
# Attributes that every dataset has, of its class or set by its constructor.
_OF_DATASETS = (
    *("title", "source", "num_classes", "image_shape"),
    *("full_precision_recipe", "aligned_recipe"),
)
_of_files: dict[Kind, dict[str, Any]] = {"methods": {}, "models": {}, "datasets": {}}


def names(kind: Kind) -> list[str]:
    """Return the known names of a kind, sorted. Models of torchvision are left out.

    Args:
        kind: ``methods``, ``models`` or ``datasets``.
    """
    return sorted([*_entry_points(kind), *_of_files[kind]])


def origin(kind: Kind, name: str) -> str:
    """Return the installed package, or the file, that provides an object.

    Args:
        kind: ``methods``, ``models`` or ``datasets``.
        name: Name of the object, which is known.
    """
    if name in _of_files[kind]:
        return file_of(_of_files[kind][name])
    distribution = _entry_points(kind)[name].dist
    return distribution.name if distribution is not None else "unknown"


def register(kind: Kind, name: str, found: Any) -> None:
    """Register an object of a Python file under its name, in place of an earlier one of the file.

    Args:
        kind: ``methods``, ``models`` or ``datasets``.
        name: Name of the object.
        found: Class of a method or a dataset; function or class of a model.

    Raises:
        QbenchError: A suite cannot use the name, or an installed object or one of another file has
            it.
    """
    what = kind.removesuffix("s")
    if reason := unfit(name):
        raise QbenchError(f"'{name}' {reason}; give the {what} another name")
    if name in _entry_points(kind):
        raise QbenchError(f"'{name}' is the name of an installed {what}; give it another name")
    known = _of_files[kind].get(name)
    if known is not None and file_of(known) != file_of(found):
        raise QbenchError(
            f"'{name}' is the name of a {what} in {file_of(known)} too; give one of them another"
        )
    if kind == "models":
        from qbench.models import torchvision_names

        if name in torchvision_names():
            raise QbenchError(f"'{name}' is a model of torchvision; give yours another name")
    _of_files[kind][name] = found


def file_of(found: Any) -> str:
    """Return the path of the file that defines a class or a function."""
    return sys.modules[found.__module__].__file__ or ""


def module_of_file(kind: Kind, name: str) -> str | None:
    """Return the name of the module of an object of a Python file; None if it is installed."""
    found = _of_files[kind].get(name)
    return None if found is None else str(found.__module__)


def method_class(name: str) -> type[Method]:
    """Return the class of a method.

    Args:
        name: Name of the method.

    Raises:
        QbenchError: The method is unknown, or cannot be imported.
    """
    cls: type[Method] = _load("methods", name)
    return cls


def build_dataset(name: str, options: Mapping[str, Any] | None = None) -> Dataset:
    """Build a dataset from its name. Its files need not exist.

    Args:
        name: Name of the dataset.
        options: Options of the dataset, as in ``data`` of a suite; ``~`` is expanded in ``root``.
            Default: none.

    Raises:
        QbenchError: The dataset or an option is unknown, or a value is invalid.
    """
    cls = _load("datasets", name)
    given = dict(options or {})
    known = dataset_options(name)
    for option in given:
        if option not in known:
            raise QbenchError(f"{name}: no option '{option}' of data{nearest(option, known)}")
    if problem := dataset_problem(cls):
        raise QbenchError(f"{name}: {problem}")
    types = get_type_hints(cls.__init__)
    if isinstance(root := given.get("root"), str):
        given["root"] = str(expanded(root))
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
                f"{name}: data.{'.'.join(map(str, each['loc']))}: {plain(each)}"
                for each in error.errors()
            )
        ) from error
    except QbenchError:
        raise
    except Exception as error:  # of a dataset of one's own
        raise QbenchError(f"{name}: its __init__ raised {type(error).__name__}: {error}") from error
    lacking = [n for n in _OF_DATASETS if not (hasattr(cls, n) or n in vars(dataset))]
    if lacking:
        raise QbenchError(f"{name}: {cls.__name__} has no attribute '{lacking[0]}', and needs one")
    return dataset


def dataset_problem(cls: Any) -> str:
    """Return why the options of a dataset cannot be read, or an empty string.

    Args:
        cls: Class of the dataset.
    """
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            return f"its __init__ takes {parameter}; name each option"
    try:
        get_type_hints(cls.__init__)
        validate_call(cls.__init__)
    except NameError as error:
        return (
            f"the type '{error.name}' of an option is not known when the file runs; import it, and "
            "not under `if TYPE_CHECKING:`"
        )
    except PydanticUserError as error:
        return f"its options cannot be checked: {str(error).splitlines()[0]}"
    return ""


def dataset_options(name: str) -> list[str]:
    """Return the names of the options of a dataset.

    Args:
        name: Name of the dataset.

    Raises:
        QbenchError: The dataset is unknown, or cannot be imported.
    """
    return list(inspect.signature(_load("datasets", name)).parameters)


def build_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Build a randomly initialised model: a registered one, timm's, or torchvision's of that name.

    Args:
        name: Name of the model; that of timm's begins with ``timm:``.
        num_classes: Number of classes.
        in_channels: Number of channels of the input images. torchvision's models take three; a
            grey image is repeated.

    Raises:
        QbenchError: The model is unknown, or cannot be imported.
    """
    if name in names("models"):
        model: nn.Module = _load("models", name)(num_classes=num_classes, in_channels=in_channels)
        return model
    check_model_name(name)
    from qbench.models import is_timm, timm_model, torchvision_model

    if is_timm(name):
        return timm_model(name, num_classes, in_channels)
    return torchvision_model(name, num_classes, in_channels)


def check_model_name(name: str) -> None:
    """Check that a model has this name.

    Args:
        name: Name to check. Those of timm's models all pass where timm is not installed.

    Raises:
        QbenchError: The model is unknown. The message names the nearest.
    """
    if name not in names("models"):
        from qbench.models import check_timm_name, is_timm, torchvision_names

        if is_timm(name):
            check_timm_name(name)
        elif name not in torchvision_names():
            raise unknown("models", name, torchvision_names())


def unknown(kind: Kind, name: str, more: Iterable[str] = ()) -> QbenchError:
    """Return the error that says that nothing of a kind has a name, and how a file adds one.

    Args:
        kind: ``methods``, ``models`` or ``datasets``.
        name: The unknown name.
        more: Names that are known besides those of `names`.
    """
    hint = nearest(name, [*names(kind), *more])
    return QbenchError(
        f"no {kind.removesuffix('s')} is named '{name}'{hint}; "
        f"`--{kind} FILE.py` adds the {kind} of a file"
    )


@functools.cache
def _entry_points(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"qbench.{kind}")}


def _load(kind: Kind, name: str) -> Any:
    if name in _of_files[kind]:
        return _of_files[kind][name]
    point = _entry_points(kind).get(name)
    if point is None:
        raise unknown(kind, name)
    try:
        return point.load()
    except Exception as error:
        raise QbenchError(f"{name}: {point.value} cannot be imported: {error}") from error

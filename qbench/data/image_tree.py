"""Images in one folder per class, or in lists: which there are, and their labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch.utils.data import Dataset as TorchDataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from qbench.data import UnreadableError, content_of
from qbench.errors import QbenchError, nearest

# Folders that systems and network drives make, in addition to those that begin with a dot.
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_MAX_LABEL = 1_000_000
_DEEP_MODES = ("I", "F")  # of images with more than 8 bits, and of their variants, as "I;16"


@dataclass(frozen=True)
class Index:
    """Images of a split, in compact arrays that loader processes share.

    Attributes:
        folder: Folder that paths are relative to.
        paths: Path of each image, bytes, (N,).
        labels: Label of each image, int64, (N,), from 0.
        classes: Label of each class folder by its name. Empty if a list gives the labels and no
            folder belongs to one class alone.
        listed: Whether the images and labels are those of a list.
    """

    folder: Path
    paths: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    classes: Mapping[str, int] = field(default_factory=dict)
    listed: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes: one more than the largest label."""
        return int(self.labels.max()) + 1


class Images(TorchDataset[tuple[Any, int]]):
    """Images of an index, transformed, and their labels.

    An item is a uint8 image, (3, H, W), and its label. An image that cannot be decoded, or has more
    than 8 bits per channel, raises `UnreadableError`.

    Args:
        index: Paths and labels of the images.
        transform: Transform of an RGB PIL image to a uint8 tensor, (3, H, W).
        upright: If True, turn images as their EXIF orientation says.

    Attributes:
        targets: Label of each image, int64, (N,).
    """

    def __init__(self, index: Index, transform: v2.Transform, upright: bool = False) -> None:
        self._index = index
        self.targets = index.labels
        self._transform = transform
        self._upright = upright

    def __len__(self) -> int:
        return len(self._index.labels)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        name = os.fsdecode(self._index.paths[i])
        try:
            with Image.open(self._index.folder / name) as file:
                if file.mode.partition(";")[0] in _DEEP_MODES:
                    raise ValueError("more than 8 bits per channel; convert it to 8 bits")
                upright = ImageOps.exif_transpose(file) if self._upright else file
                image = upright.convert("RGB")  # some are greyscale or CMYK
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableError(f"{name} ({error})") from error
        return self._transform(image), int(self._index.labels[i])


def scan(base: Path) -> dict[str, list[str]]:
    """Find the class folders of a split and their images.

    Hidden folders and files, and those that systems make, are skipped. So are folders that hold no
    file. Images in folders within a class folder belong to the class, as in torchvision.

    Args:
        base: Folder of the split.

    Returns:
        Paths of images relative to the class folder, sorted, by the name of the class folder,
        sorted.

    Raises:
        QbenchError: A folder holds files, and no image. The message names it.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(e.name for e in os.scandir(base) if e.is_dir() and not _hidden(e.name)):
        files = list(_files(base / name))
        images = sorted(file for file in files if file.lower().endswith(IMG_EXTENSIONS))
        if files and not images:
            kinds = ", ".join(sorted({PurePath(file).suffix or file for file in files})[:3])
            raise QbenchError(
                f"{base / name}: holds no image, only {kinds}; images are "
                f"{', '.join(IMG_EXTENSIONS)}. Convert them, or move the folder elsewhere"
            )
        if images:
            found[name] = images
    return found


def index(folder: Path, split: str, train: Index | None = None) -> Index:
    """List the images of a split by its class folders, or by its list if it has none.

    Classes are those of the training images: their folders in sorted order, or the labels of their
    list.

    Args:
        folder: Folder that holds the folder or the list of the split.
        split: Name of the split, such as ``train`` for ``train/`` or ``train.txt``.
        train: Training images, if this is another split.

    Returns:
        The images, in the order of sorted folders or of the list.

    Raises:
        QbenchError: The split has no image, has images of a class or a path that contradict the
            training images, or the training images have one class or labels from 1, or a list
            and the class folders beside it name other images or labels. The message names the
            folder, or the file and the line.
    """
    base, listed = folder / split, folder / f"{split}.txt"
    found = scan(base) if base.is_dir() else {}
    if found:
        images = _by_folders(folder, split, found, train)
        if listed.is_file():
            _check_list(listed, images)
        return images
    if listed.is_file():
        return _by_list(folder, listed, train)
    folders = base.is_dir() and any(e.is_dir() and not _hidden(e.name) for e in os.scandir(base))
    if folders:
        raise QbenchError(f"{base}: its folders hold no image")
    raise QbenchError(
        f"{base} should hold a folder of images for every class, and holds {content_of(base)}; or "
        f"list its images in {listed}, a line `path label` for each"
    )


def by_classes(
    folder: Path, split: str, found: Mapping[str, list[str]], classes: Mapping[str, int]
) -> Index:
    """Return an index of images by their class folders.

    Args:
        folder: Folder that paths of the index are relative to.
        split: Folder within it that holds the class folders.
        found: Paths relative to a class folder, by its name, as `scan` returns them.
        classes: Labels by the names of class folders.
    """
    pairs = [
        (str(PurePath(split, name, file)), classes[name])
        for name, files in found.items()
        for file in files
    ]
    paths, labels = zip(*pairs, strict=True)
    return Index(folder, _bytes(paths), np.array(labels, np.int64), classes)


def check_classes(where: Path, count: int) -> None:
    """Raise QbenchError if there are fewer than two classes.

    Args:
        where: Folder or list, for the message.
        count: Number of classes.
    """
    if count < 2:
        raise QbenchError(f"{where}: has one class; a classifier needs two or more")


def _by_folders(
    folder: Path, split: str, found: dict[str, list[str]], train: Index | None
) -> Index:
    base = folder / split
    if train is None:
        check_classes(base, len(found))
        classes: Mapping[str, int] = {name: label for label, name in enumerate(found)}
    else:
        classes = train.classes
        if not classes:
            raise QbenchError(
                f"{base}: the training images are in a list that gives its folders no label; list "
                f"these in {folder / split}.txt"
            )
        if unknown := [name for name in found if name not in classes]:
            raise QbenchError(
                f"{base / unknown[0]}: no training images are of a class "
                f"'{unknown[0]}'{nearest(unknown[0], classes)}"
            )
        first = folder / os.fsdecode(train.paths[0]).split("/")[0]
        if not train.listed and os.path.samefile(base, first):
            raise QbenchError(f"{base}: is the folder of the training images, {first}")
    return by_classes(folder, split, found, classes)


def _check_list(listed: Path, images: Index) -> None:
    """Raise QbenchError if a list names other images or labels than the folders that are used."""
    try:
        lines = list(_lines(listed))
    except (QbenchError, UnicodeDecodeError):
        return  # not a list of these images
    names, labels = map(os.fsdecode, images.paths), images.labels.tolist()
    own = dict(zip(names, labels, strict=True))
    advice = "remove the list to use the class folders"
    for number, path, label in lines:
        of_folder = own.get(str(PurePath(path)), label)
        if label != of_folder:
            raise QbenchError(
                f"{listed}:{number}: the label of {path} is {label}, and {of_folder} by the class "
                f"folders, in sorted order; {advice}"
            )
    if lines and {str(PurePath(path)) for _, path, _ in lines} != own.keys():
        raise QbenchError(
            f"{listed}: lists {len(lines)} images, and the class folders hold {len(own)}, not the "
            f"same ones; {advice}, or move the images that it does not list elsewhere"
        )


def _by_list(folder: Path, listed: Path, train: Index | None) -> Index:
    lines = list(_lines(listed))
    if not lines:
        raise QbenchError(f"{listed}: it lists no image")
    numbers, paths, labels = zip(*lines, strict=True)
    _check_repetitions(listed, numbers, paths)
    of_folders = _folder_labels(paths, labels)
    found = Index(folder, _bytes(paths), np.array(labels, np.int64), of_folders, listed=True)
    if train is None:
        if found.labels.min() == 1:
            raise QbenchError(
                f"{listed}: its labels are from 1 to {found.labels.max()}; labels count from 0, so "
                "subtract 1 from each"
            )
        check_classes(listed, len(set(labels)))
        return found
    known, trained = set(train.labels.tolist()), set(train.paths.tolist())
    for number, path, label in lines:
        name = PurePath(path).parent.name
        if label not in known:
            raise QbenchError(f"{listed}:{number}: no training image has the label {label}")
        if label != train.classes.get(name, label):
            raise QbenchError(
                f"{listed}:{number}: the label of '{name}' is {label}, and {train.classes[name]} "
                "among the training images"
            )
        if os.fsencode(path) in trained:
            raise QbenchError(f"{listed}:{number}: {path} is a training image too")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str, int]]:
    """Yield lines of a list: number, path relative to the list's folder, and label."""
    prefix = None
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or not label.isdecimal():
            raise QbenchError(f"{path}:{number}: expected `path label`, found {line.strip()!r}")
        if int(label) > _MAX_LABEL:
            raise QbenchError(f"{path}:{number}: a label is {_MAX_LABEL:,} at most, not {label}")
        if prefix is None:  # paths are relative to the list or to the folder of its split
            prefixes = ("", f"{path.stem}/")
            prefix = next((p for p in prefixes if (path.parent / p / name).exists()), None)
        if prefix is None:
            raise QbenchError(f"{path}:{number}: there is no image {path.parent / name}")
        yield number, prefix + name.strip(), int(label)


def _check_repetitions(listed: Path, numbers: tuple[int, ...], paths: tuple[str, ...]) -> None:
    if len(set(paths)) == len(paths):
        return
    seen: dict[str, int] = {}
    for number, path in zip(numbers, paths, strict=True):
        if path in seen:
            raise QbenchError(f"{listed}:{number}: {path} is in line {seen[path]} already")
        seen[path] = number


def _folder_labels(paths: tuple[str, ...], labels: tuple[int, ...]) -> dict[str, int]:
    """Return the label of each folder, if every folder has one label and every label one folder."""
    pairs = {(PurePath(path).parent.name, label) for path, label in zip(paths, labels, strict=True)}
    found = dict(pairs)
    one_to_one = len(found) == len(pairs) == len(set(found.values()))
    return dict(sorted(found.items())) if one_to_one else {}


def _files(folder: Path) -> Iterator[str]:
    """Yield the files in a folder and its folders that are not hidden, relative to it."""
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        inside = os.path.relpath(place, folder)
        for file in files:
            if not file.startswith("."):
                yield file if inside == "." else f"{inside}/{file}"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS


def _bytes(paths: tuple[str, ...]) -> np.ndarray[Any, Any]:
    return np.array([os.fsencode(path) for path in paths])

"""Images of one list of Pascal VOC, each with its objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from qbench.data import UnreadableError
from qbench.data.validation import first_label
from qbench.data.voc.annotation import Annotation, read_annotation
from qbench.errors import QbenchError

Target = dict[str, Tensor]
Item = tuple[Tensor, Target]
_UPRIGHT, _TURNED = 1, (5, 6, 7, 8)  # values of the EXIF orientation; the others do not turn by 90°


class VOCImages(Dataset[Item]):
    """Images of a list, transformed, with their objects.

    The constructor reads all annotations, and the header of each image. An image with an EXIF
    orientation is turned upright if the size in its annotation is that of the upright image.

    An item is an image, uint8, (3, S, S), and its target: a dict of ``boxes``, float32, (n, 4),
    ``labels``, int64, (n,), and ``difficult``, bool, (n,). An image that cannot be decoded raises
    `UnreadableError`.

    Args:
        folder: Folder of a year, such as ``VOCdevkit/VOC2007``.
        split: Name of a list: ``trainval`` or ``test``.
        classes: Names of the classes. The first has label 1.
        steps: Transforms of a uint8 image and its boxes, which are already clipped to the image.
        train: If True, leave out images without objects that are not difficult.
        difficult: If False, leave out difficult objects.

    Attributes:
        targets: Label of the first object of each image, or −1, (N,).

    Raises:
        QbenchError: The list has no usable image or has one twice, an annotation is not valid, or
            an annotation and its image contradict each other. The message names the file.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        classes: Sequence[str],
        steps: Sequence[v2.Transform],
        train: bool,
        difficult: bool = True,
    ) -> None:
        clip = [v2.ToImage(), v2.ClampBoundingBoxes(), drop_boxes_without_area()]
        self._transform = v2.Compose([*clip, *steps, v2.ToPureTensor()])
        self._images: list[tuple[Path, Target, bool]] = []
        names = listed(file := list_of(folder, split))
        for name in names:
            image = image_of(folder, name)
            annotation = read_annotation(folder / "Annotations" / f"{name}.xml", classes)
            objects = annotation.objects
            turned = _boxes_are_turned(image, annotation)
            easy = ~objects["difficult"]
            if not difficult:
                objects = {key: value[easy] for key, value in objects.items()}
            if easy.any() or not train:
                self._images.append((image, objects, turned))
        if not self._images:
            raise QbenchError(
                f"{file}: of the {len(names)} images that it lists none has an object to train on"
            )
        self.targets = [first_label(objects["labels"]) for _, objects, _ in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Item:
        file, objects, turned = self._images[index]
        try:
            with Image.open(file) as opened:
                image = (ImageOps.exif_transpose(opened) if turned else opened).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise UnreadableError(f"{file} ({error})") from error
        size = (image.height, image.width)
        boxes: Tensor = tv_tensors.BoundingBoxes(objects["boxes"], format="XYXY", canvas_size=size)
        pixels, target = self._transform(image, {**objects, "boxes": boxes})
        return pixels, target


def drop_boxes_without_area() -> v2.Transform:
    """Return a transform that drops objects with boxes below one pixel or outside the image."""
    return v2.SanitizeBoundingBoxes(labels_getter=_of_each_box)


def _of_each_box(item: Item) -> tuple[Tensor, Tensor]:
    return item[1]["labels"], item[1]["difficult"]


def _boxes_are_turned(image: Path, annotation: Annotation) -> bool:
    """Return whether boxes are those of the image as its EXIF orientation turns it.

    Raises:
        QbenchError: The sizes differ, or nothing tells whether the boxes are turned.
    """
    try:
        with Image.open(image) as opened:
            stored = opened.size
            orientation = opened.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    except (OSError, SyntaxError, ValueError):
        return False  # `VOCImages` reports it when it is read
    upright = stored[::-1] if orientation in _TURNED else stored
    if annotation.size is not None and annotation.size not in (stored, upright):
        width, height = annotation.size
        raise QbenchError(
            f"{image}: has {stored[0]} × {stored[1]} pixels, and its annotation is of "
            f"{width} × {height}; annotate the image as it is"
        )
    if stored != upright and annotation.size is not None:
        return annotation.size == upright
    if orientation not in (_UPRIGHT, 0) and len(annotation.objects["labels"]):
        raise QbenchError(
            f"{image}: its EXIF orientation turns it, and nothing tells whether its boxes are "
            "turned as well; save the image upright, without EXIF, and check its annotation"
        )
    return False


def image_of(folder: Path, name: str) -> Path:
    """Return the path of an image in the folder of a year."""
    return folder / "JPEGImages" / f"{name}.jpg"


def list_of(folder: Path, split: str) -> Path:
    """Return the path of the list of a split in the folder of a year."""
    return folder / "ImageSets" / "Main" / f"{split}.txt"


def listed(file: Path) -> list[str]:
    """Read the names in a list of images.

    Args:
        file: List, one name per line.

    Returns:
        Names without folder and suffix.

    Raises:
        QbenchError: The list is empty, a name is in it twice, or a line has more than a name. The
            message names the line.
    """
    lines: dict[str, int] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        name = line.strip()
        if len(name.split()) > 1:
            raise QbenchError(f"{file}:{number}: expected the name of an image, found '{name}'")
        if name in lines:
            raise QbenchError(f"{file}:{number}: {name} is in line {lines[name]} already")
        if name:
            lines[name] = number
    if not lines:
        raise QbenchError(f"{file}: it lists no image")
    return list(lines)

"""Images of one list of Pascal VOC, each with its objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from qbench.data import UnreadableError
from qbench.data.voc.annotation import read_objects
from qbench.errors import QbenchError

Target = dict[str, Tensor]
Item = tuple[Tensor, Target]


class VOCImages(Dataset[Item]):
    """Images of a list, transformed, with their objects.

    The constructor reads all annotations. An item is an image, uint8, (3, S, S), and its target: a
    dict of ``boxes``, float32, (n, 4), ``labels``, int64, (n,), and ``difficult``, bool, (n,). An
    image that cannot be decoded raises `UnreadableError`.

    Args:
        folder: Folder of a year, such as ``VOCdevkit/VOC2007``.
        split: Name of a list: ``trainval`` or ``test``.
        classes: Names of the classes. The first has label 1.
        steps: Transforms of a uint8 image and its boxes, which are already clipped to the image.
        train: If True, leave out difficult objects, and images without other objects.

    Raises:
        QbenchError: The list has no usable image, or an annotation is not valid. The message names
            the file.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        classes: Sequence[str],
        steps: Sequence[v2.Transform],
        train: bool,
    ) -> None:
        clip = [v2.ToImage(), v2.ClampBoundingBoxes(), drop_boxes_without_area()]
        self._transform = v2.Compose([*clip, *steps, v2.ToPureTensor()])
        self._images: list[tuple[Path, Target]] = []
        names = listed(file := list_of(folder, split))
        for name in names:
            objects = read_objects(folder / "Annotations" / f"{name}.xml", classes)
            if train:
                easy = ~objects["difficult"]
                objects = {key: value[easy] for key, value in objects.items()}
            if len(objects["labels"]) or not train:
                self._images.append((folder / "JPEGImages" / f"{name}.jpg", objects))
        if not self._images:
            raise QbenchError(
                f"{file}: of the {len(names)} images that it lists none has an object to train on"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Item:
        file, objects = self._images[index]
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
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
        QbenchError: The list is empty.
    """
    names = file.read_text(encoding="utf-8").split()
    if not names:
        raise QbenchError(f"{file}: it lists no image")
    return names

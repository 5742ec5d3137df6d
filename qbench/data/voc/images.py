"""The images of a list of Pascal VOC, each with its objects."""

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
    """The images of a list, transformed, and their objects, which are read from the start.

    Args:
        folder: ``VOCdevkit/VOC2007``, or of another year.
        split: which of its lists: ``trainval``, ``test``.
        classes: names of classes; the first has label 1.
        steps: what is done to an image, uint8, and its boxes, clipped to it.
        train: leave out difficult objects, and images that have no other.

    Raises:
        QbenchError: the list names no image to use, or an annotation is none; the message names
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
    """A step that leaves out objects whose boxes have less than a pixel, or none of the image."""
    return v2.SanitizeBoundingBoxes(labels_getter=_of_each_box)


def _of_each_box(item: Item) -> tuple[Tensor, Tensor]:
    return item[1]["labels"], item[1]["difficult"]


def list_of(folder: Path, split: str) -> Path:
    """The list of a split's images in a year's folder."""
    return folder / "ImageSets" / "Main" / f"{split}.txt"


def listed(file: Path) -> list[str]:
    """The names in a list of images.

    Raises:
        QbenchError: there are none.
    """
    names = file.read_text(encoding="utf-8").split()
    if not names:
        raise QbenchError(f"{file}: it lists no image")
    return names

"""Scenes for detection: drawn objects that do not overlap, with exact boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from qbench.data.synthetic import drawing

MOST_OBJECTS = 4
_TRIES = 20
# Names of hues, in degrees.
_COLOURS = {
    **{"red": 0, "orange": 30, "yellow": 65, "green": 120, "cyan": 180, "blue": 235},
    **{"purple": 285, "pink": 330},
}


class Thing(NamedTuple):
    """An object to draw: the shape of a class in a rectangle, which may cross the image's border.

    Attributes:
        label: Class, from 0.
        x: Left edge of the rectangle in pixels. May be negative.
        y: Upper edge in pixels. May be negative.
        width: Width in pixels.
        height: Height in pixels.
        ink: RGB, 0 to 255.
    """

    label: int
    x: int
    y: int
    width: int
    height: int
    ink: tuple[int, int, int]


class Object(NamedTuple):
    """An object as Pascal VOC annotates it.

    Attributes:
        label: Class, from 0.
        box: (left, top, right, bottom) of its pixels within the image, inclusive, counted from 1.
        truncated: Whether part of it is outside the image.
        difficult: Whether its box is narrower than an eighth of the image's longer side.
    """

    label: int
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


@dataclass(frozen=True)
class Scene:
    """An image before it is drawn.

    Attributes:
        name: Seed of everything that is drawn at random.
        width: Width in pixels.
        height: Height in pixels.
        things: Objects to draw.
    """

    name: str
    width: int
    height: int
    things: tuple[Thing, ...]

    def picture(self) -> Image.Image:
        """Draw the image, RGB."""
        random = drawing.generator(f"pixels of {self.name}")
        pattern = list(drawing.PATTERNS)[random.integers(len(drawing.PATTERNS))]
        tint = drawing.colour(int(random.integers(360)), int(random.integers(5, 26)), 90)
        period = max(2, max(self.width, self.height) // int(random.integers(8, 25)))
        pixels = drawing.backdrop(random, self.width, self.height, pattern, period, tint)
        for thing in self.things:
            pixels[self.mask(thing)] = thing.ink
        return drawing.grain(random, pixels, 20)

    def mask(self, thing: Thing) -> drawing.Mask:
        """Return the pixels of a thing within the image, bool, (height, width)."""
        inside = np.zeros((self.height, self.width), bool)
        left, top = max(thing.x, 0), max(thing.y, 0)
        part = _stamp(thing)[top - thing.y :, left - thing.x :]
        part = part[: self.height - top, : self.width - left]
        inside[top : top + part.shape[0], left : left + part.shape[1]] = part
        return inside

    def objects(self) -> list[Object]:
        """Return the annotations of all things, in their order."""
        return [self._annotate(thing) for thing in self.things]

    def _annotate(self, thing: Thing) -> Object:
        mask = self.mask(thing)
        rows, columns = mask.nonzero()
        left, right = int(columns.min()) + 1, int(columns.max()) + 1
        top, bottom = int(rows.min()) + 1, int(rows.max()) + 1
        narrow = min(right - left + 1, bottom - top + 1) * 8 < max(self.width, self.height)
        truncated = bool(mask.sum() < _stamp(thing).sum())
        return Object(thing.label, (left, top, right, bottom), truncated, narrow)


def compose(name: str, classes: int, size: int, empty: bool = False) -> Scene:
    """Compose a scene of 1 to 4 objects; fewer if there is no space.

    Args:
        name: Seed of everything that is drawn at random.
        classes: Number of classes, 1 to 20.
        size: Longer side in pixels.
        empty: If True, leave out the objects.

    Returns:
        Scene whose objects' boxes do not overlap.
    """
    random = drawing.generator(name)
    short = size * (100, 75, 75, 67)[random.integers(4)] // 100
    width, height = (short, size) if random.integers(4) == 0 else (size, short)
    scene = Scene(name, width, height, ())
    for _ in range(0 if empty else random.integers(1, MOST_OBJECTS + 1)):
        for _ in range(_TRIES):
            more = Scene(name, width, height, (*scene.things, _thing(random, scene, classes)))
            if _apart(more.objects()):
                scene = more
                break
    return scene


def _thing(random: np.random.Generator, scene: Scene, classes: int) -> Thing:
    label = int(random.integers(classes))
    size = max(scene.width, scene.height)
    small, over_border = random.integers((10, 6)) == 0
    percent = int(random.integers(7, 12) if small else random.integers(20, 41))
    wide = max(4, size * percent // 100)
    high = max(4, wide * int(random.integers(75, 134)) // 100)
    x, y = random.integers(0, (scene.width - wide + 1, scene.height - high + 1)).tolist()
    if over_border and not small:
        out = int(random.integers(10, 36))
        x, y = (
            (-wide * out // 100, y),
            (scene.width - wide + wide * out // 100, y),
            (x, -high * out // 100),
            (x, scene.height - high + high * out // 100),
        )[random.integers(4)]
    hue = _hue(label) + int(random.integers(-8, 9))
    saturation, value = random.integers((80, 70), 101).tolist()
    red, green, blue = drawing.colour(hue, saturation, value).tolist()
    return Thing(label, x, y, wide, high, (red, green, blue))


def appearance(label: int) -> str:
    """Return what the objects of a class look like, such as ``red disc``.

    Args:
        label: Class, from 0 to 19. Each has its own appearance.
    """
    hue = _hue(label) % 360
    colour = min(_COLOURS, key=lambda name: abs((hue - _COLOURS[name] + 180) % 360 - 180))
    return f"{colour} {_shape(label)}"


def _hue(label: int) -> int:
    return 72 * label + 18 * (label // 5)


def _shape(label: int) -> str:
    shapes = list(drawing.SHAPES)
    return shapes[(label + label // 5) % len(shapes)]


def _stamp(thing: Thing) -> drawing.Mask:
    return drawing.stamp(_shape(thing.label), thing.width, thing.height)


def _apart(objects: list[Object]) -> bool:
    *others, (_, (left, top, right, bottom), *_) = objects
    return all(
        right < x0 or x1 < left or bottom < y0 or y1 < top for _, (x0, y0, x1, y1), *_ in others
    )

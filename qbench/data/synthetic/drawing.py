"""Noise, patterns, shapes and colours of drawn images.

All arithmetic is in integers, so that every machine draws the same pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.int64]
Mask = NDArray[np.bool_]
Coverage = Callable[[Pixels, Pixels], Mask]
Wave = Callable[[Pixels, Pixels, int], Pixels]

UNIT = 1024
SHAPES: dict[str, Coverage] = {
    "disc": lambda u, v: u**2 + v**2 <= UNIT**2,
    "square": lambda u, v: (abs(u) <= UNIT) & (abs(v) <= UNIT),
    "triangle": lambda u, v: 2 * abs(u) <= v + UNIT,
    "ring": lambda u, v: (u**2 + v**2 <= UNIT**2) & (u**2 + v**2 >= UNIT**2 // 3),
    "cross": lambda u, v: (abs(u) <= UNIT // 3) | (abs(v) <= UNIT // 3),
}
PATTERNS: dict[str, Wave] = {
    "rows": lambda x, y, period: y // period % 2 + 0 * x,
    "columns": lambda x, y, period: x // period % 2 + 0 * y,
    "diagonals": lambda x, y, period: (x + y) // period % 2,
    "checks": lambda x, y, period: (x // period + y // period) % 2,
    "dots": lambda x, y, period: (
        (x % (2 * period) - period) ** 2 + (y % (2 * period) - period) ** 2 < period**2 // 2
    ).astype(np.int64),
}


def generator(name: str) -> np.random.Generator:
    """Return the random number generator of an image.

    Draw only integers from it: floating-point numbers may differ between machines.

    Args:
        name: Name of the image. It is the seed.
    """
    return np.random.default_rng(int.from_bytes(name.encode(), "big"))


def colour(hue: int, saturation: int, value: int) -> Pixels:
    """Convert a colour from HSV to RGB.

    Args:
        hue: Hue in degrees, any integer.
        saturation: Saturation in percent, 0 to 100.
        value: Value in percent, 0 to 100.

    Returns:
        RGB, int64, (3,), 0 to 255.
    """
    rgb = colorsys.hsv_to_rgb(hue % 360 / 360, saturation / 100, value / 100)
    return np.array([round(255 * part) for part in rgb])


def stamp(shape: str, width: int, height: int) -> Mask:
    """Draw a shape into its rectangle.

    Args:
        shape: Key of ``SHAPES``.
        width: Width in pixels, 1 or more.
        height: Height in pixels, 1 or more.

    Returns:
        Covered pixels, bool, (height, width).
    """
    y, x = np.ogrid[:height, :width]
    u = (2 * x + 1 - width) * UNIT // width
    v = (2 * y + 1 - height) * UNIT // height
    return np.broadcast_to(SHAPES[shape](u, v), (height, width))


def backdrop(
    random: np.random.Generator, width: int, height: int, pattern: str, period: int, tint: Pixels
) -> Pixels:
    """Draw a background: a pattern in two shades under uneven light.

    Args:
        random: Generator of the position of the pattern and of the light.
        width: Width in pixels.
        height: Height in pixels.
        pattern: Key of ``PATTERNS``.
        period: Half a period of the pattern in pixels.
        tint: RGB of the lighter shade, (3,), 0 to 255.

    Returns:
        RGB, int64, (height, width, 3).
    """
    y, x = np.ogrid[:height, :width]
    shift = random.integers(0, 2 * period, 2)
    wave = PATTERNS[pattern](x + shift[0], y + shift[1], period)
    light = random.integers(60, 140, (3, 4)).astype(np.uint8)
    percent = np.asarray(Image.fromarray(light).resize((width, height), Image.Resampling.BICUBIC))
    shade = (70 + 30 * wave) * percent.astype(np.int64)
    return shade[..., None] * tint // 10_000


def grain(random: np.random.Generator, pixels: Pixels, strength: int) -> Image.Image:
    """Add noise to pixels and convert them to an image.

    Args:
        random: Generator of the noise.
        pixels: RGB, int64, (height, width, 3).
        strength: Largest change of a channel, from 0. Results are clipped to 0…255.

    Returns:
        RGB image.
    """
    moved = pixels + random.integers(-strength, strength + 1, pixels.shape)
    return Image.fromarray(moved.clip(0, 255).astype(np.uint8))

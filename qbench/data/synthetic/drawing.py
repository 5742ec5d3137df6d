"""Noise, patterns, shapes and colours of drawn images, in whole numbers: alike on every machine."""

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
    """Random numbers of one image, by its name; draw whole ones only, floats may differ."""
    return np.random.default_rng(int.from_bytes(name.encode(), "big"))


def colour(hue: int, saturation: int, value: int) -> Pixels:
    """RGB, 0…255, shape (3,), of a hue in degrees, and a saturation and a value in percent."""
    rgb = colorsys.hsv_to_rgb(hue % 360 / 360, saturation / 100, value / 100)
    return np.array([round(255 * part) for part in rgb])


def stamp(shape: str, width: int, height: int) -> Mask:
    """Where a shape of ``SHAPES`` covers its rectangle, shape (height, width)."""
    y, x = np.ogrid[:height, :width]
    u = (2 * x + 1 - width) * UNIT // width
    v = (2 * y + 1 - height) * UNIT // height
    return np.broadcast_to(SHAPES[shape](u, v), (height, width))


def backdrop(
    random: np.random.Generator, width: int, height: int, pattern: str, period: int, tint: Pixels
) -> Pixels:
    """A background: a pattern of ``PATTERNS`` in two shades under uneven light.

    Args:
        random: where its place and its light come from.
        width: in pixels.
        height: in pixels.
        pattern: which.
        period: pixels of half a wave.
        tint: RGB of the lighter shade, shape (3,).

    Returns:
        RGB, shape (height, width, 3).
    """
    y, x = np.ogrid[:height, :width]
    shift = random.integers(0, 2 * period, 2)
    wave = PATTERNS[pattern](x + shift[0], y + shift[1], period)
    light = random.integers(60, 140, (3, 4)).astype(np.uint8)
    percent = np.asarray(Image.fromarray(light).resize((width, height), Image.Resampling.BICUBIC))
    shade = (70 + 30 * wave) * percent.astype(np.int64)
    return shade[..., None] * tint // 10_000


def grain(random: np.random.Generator, pixels: Pixels, strength: int) -> Image.Image:
    """An RGB image of pixels, each channel moved by up to ``strength``."""
    moved = pixels + random.integers(-strength, strength + 1, pixels.shape)
    return Image.fromarray(moved.clip(0, 255).astype(np.uint8))

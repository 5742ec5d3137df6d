"""Figure of the detections in a few test images, by network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from qbench.report.figures.style import ACROSS, COLORS, PANEL, STYLE, legend, save
from qbench.spec.result import ImageDetections

TRUTH: dict[str, Any] = {"color": "white", "linestyle": "--", "linewidth": 1.1}
DIFFICULT: dict[str, Any] = TRUTH | {"linestyle": ":"}
UNDER: dict[str, Any] = {"color": "black", "linewidth": 2.0, "alpha": 0.55}
WORDS: dict[str, Any] = {"fontsize": 6.5, "color": "white", "clip_on": True}
_GREY = "0.45"  # legible on light and on dark ground, and a photograph cannot be inverted
_TRANSPARENT: dict[str, Any] = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": _GREY,
    "axes.labelcolor": _GREY,
}
_NAMES = 0.3  # inches for the names of networks

Detections = Sequence[ImageDetections]


def detections(
    images: Tensor,
    targets: Sequence[dict[str, Tensor]],
    found: Mapping[str, Detections],
    classes: Sequence[str],
    folder: Path,
    stem: str = "detections",
    least_score: float = 0.5,
) -> list[Path]:
    """Draw test images with objects and detections, a row for each network.

    Objects are dashed, difficult objects are dotted, detections are solid. The ground is
    transparent.

    Args:
        images: Tensor of shape (N, 3, H, W) with values in [0, 1]. The first four are drawn.
        targets: The objects of each image: ``boxes`` of shape (n, 4), in pixels as x1, y1, x2, y2,
            and ``difficult`` of shape (n,).
        found: The detections of each network in each image, by the name of the network. One whose
            list is empty, as of an imported trial, is left out.
        classes: Names of the classes. The first one has label 1.
        folder: An existing folder for the files.
        stem: Name of the files without suffix.
        least_score: Detections with a score in [0, 1] below this are not drawn.

    Returns:
        Paths of ``{stem}.png`` and ``{stem}.svg``. Empty if there are no images or no networks.

    Raises:
        OSError: The folder cannot be written.
    """
    found = {network: each for network, each in found.items() if each}
    columns = min(len(images), ACROSS)
    if not columns or not found:
        return []
    height = PANEL * images.shape[2] / images.shape[3]
    with mpl.rc_context(STYLE | _TRANSPARENT):
        size = (_NAMES + PANEL * columns, 0.3 + height * len(found))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(found), columns, squeeze=False)
        for row, (network, each) in zip(grid, found.items(), strict=True):
            for axes, image, target, boxes in zip(row, images, targets, each, strict=False):
                pixels = image.permute(1, 2, 0).clamp(0, 1).numpy()
                axes.imshow(
                    pixels, interpolation="none"
                )  # so that the SVG embeds the pixels unchanged
                axes.set(xticks=[], yticks=[])
                _objects(axes, target)
                _found(axes, boxes, classes, least_score)
            row[0].set_ylabel(network)
        named = {"object": TRUTH | {"color": _GREY}}
        if any(target["difficult"].any() for target in targets[:columns]):
            named["difficult object"] = DIFFICULT | {"color": _GREY}
        legend(figure, named)
        return save(figure, stem, folder)


def _objects(axes: Axes, target: dict[str, Tensor]) -> None:
    for box, difficult in zip(target["boxes"].tolist(), target["difficult"].tolist(), strict=True):
        for look in (UNDER, DIFFICULT if difficult else TRUTH):
            _rectangle(axes, box, **look)


def _found(axes: Axes, found: ImageDetections, classes: Sequence[str], least_score: float) -> None:
    """Draw detections, the highest score on top."""
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    objects = sorted(zip(found.scores, found.labels, found.boxes, strict=True), key=itemgetter(0))
    for score, label, box in objects:
        if score < least_score:
            continue
        left, top, right, _ = box
        color = COLORS[(label - 1) % len(COLORS)]
        _rectangle(axes, box, color, linewidth=1.4)
        axes.text(
            right if left > 0.7 * width else left,
            top,
            f"{classes[label - 1]} {score:.2f}",
            ha="right" if left > 0.7 * width else "left",
            va="top" if top < 0.08 * height else "bottom",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 0.8},
            **WORDS,
        )


def _rectangle(axes: Axes, box: Sequence[float], color: Any, **look: Any) -> None:
    left, top, right, bottom = box
    corner = (left - 0.5, top - 0.5)  # the origin of matplotlib is the centre of a pixel
    axes.add_patch(
        Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=color, **look)
    )

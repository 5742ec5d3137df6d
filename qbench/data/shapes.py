"""Drawn shapes in the format of Pascal VOC. A small detector learns them in a minute."""

from __future__ import annotations

from torchvision.transforms import v2

from qbench.data.synthetic.scene import appearance
from qbench.data.voc.classes import VOC_CLASSES
from qbench.data.voc.voc import VOC
from qbench.spec.recipe import Recipe


class Shapes(VOC):
    """Drawn shapes of five classes, one to four per image, as ``qbench data voc-like`` writes them.

    The tree of files is like that of `VOC`, in ``root`` or in ``$QBENCH_DATA/shapes``. Annotations
    name the first five classes of VOC, figures name what is drawn. Images have 96×96 pixels.
    Training images are flipped at random, for speed the only augmentation. Arguments, items and
    errors are those of `VOC`.
    """

    title = "Shapes"
    augmented = "flip"
    source = "drawn by `qbench data voc-like`"
    loader_workers = 2
    folder = "shapes"
    annotated = VOC_CLASSES[:5]
    classes = tuple(map(appearance, range(5)))
    size = 96
    training = {2007: 200, 2012: 200}
    testing = 100
    full_precision_recipe = Recipe(
        epochs=15, batch_size=16, optimizer="adam", lr=2e-3, weight_decay=5e-4, schedule="cosine"
    )
    aligned_recipe = Recipe(
        epochs=9,  # three for each phase of Quantization Networks
        batch_size=16,
        optimizer="adam",
        lr=1e-3,
        weight_decay=5e-4,
        schedule="cosine",
        gradient_clip=10.0,
        initialization="pretrained",
    )

    def augmentation(self) -> list[v2.Transform]:
        """Return a horizontal flip."""
        return [v2.RandomHorizontalFlip()]

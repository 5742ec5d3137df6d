"""The verb `qbench data`: download a dataset, or draw images in the layout of a known one."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.command import PlainCommand
from qbench.files import expanded

if TYPE_CHECKING:
    from qbench.data.synthetic.tree import Track

app = typer.Typer(
    help="Download a dataset, or write drawn images in the layout of a known one.\n\n"
    "Use drawn images to rehearse a suite without its data: everything that reads, trains and "
    "measures is the same, but what is trained on them is not a result. Try:"
    "\n\n  qbench data fashion-mnist data/fashion_mnist  70,000 images, 30 MB\n\n"
    "  qbench data imagenet-like data/imagenet  10 classes, 600 images\n\n"
    "  qbench data voc-like data/voc            500 images and their boxes",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        parser=expanded,
        help="Folder to write to. It must be empty or not exist yet.",
    ),
]


@app.command("fashion-mnist", cls=PlainCommand)
def fashion_mnist(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", parser=expanded, help="Folder to write to."),
    ],
) -> None:
    """Download Fashion-MNIST.

    torchvision downloads the four files, 30 MB, to DIR/FashionMNIST/raw and compares their
    checksums. Files that are there already are not downloaded again. Where Debian's package
    dataset-fashion-mnist is installed, the dataset is found without a download.
    """
    from torchvision.datasets import FashionMNIST

    from qbench.errors import QbenchError

    try:
        FashionMNIST(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise QbenchError(
            f"{folder}: Fashion-MNIST cannot be downloaded: {reason}. On Debian and "
            "Ubuntu, `apt-get install dataset-fashion-mnist` brings the same files"
        ) from error
    print(f"{folder} has Fashion-MNIST: 60,000 training and 10,000 test images.")
    print(
        f"Next:\n  {shlex.join(['qbench', 'run', 'fashion_quick', '--set', f'data.root={folder}'])}"
    )


@app.command("imagenet-like", cls=PlainCommand)
def imagenet_like(
    folder: Folder,
    classes: Annotated[int, typer.Option(metavar="N", help="Number of classes, 2 to 1000.")] = 10,
    per_class: Annotated[
        int,
        typer.Option(
            metavar="N", help="Training images of each class; a fifth as many are for validation."
        ),
    ] = 50,
    size: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Typical shorter side in pixels; it varies from 0.3 to 1.7 times this.",
        ),
    ] = 160,
) -> None:
    """Write drawn images in the folders of ImageNet.

    The files are DIR/train/WNID/*.JPEG and DIR/val/WNID/*.JPEG. A class is the colour of a shape,
    the shape, and the pattern behind it; a small network learns them. As in ImageNet, sizes differ,
    some images are greyscale or CMYK, one is a PNG named .JPEG, and one is rotated by its EXIF
    orientation. One training image is broken. DIR/train.txt and DIR/val.txt list all images in the
    format that the code of Quantization Networks reads.

    The same arguments give the same bytes. Images that exist already are not written again.
    """
    from qbench.data.synthetic import imagenet_like as tree

    written = tree.write(folder, classes, per_class, size, _track())
    print(
        f"{_wrote(folder, written.files)}: {written.train} training and {written.val} validation "
        f"images of {classes} classes, and their lists train.txt and val.txt."
    )
    print(f"Broken on purpose, cut off in the middle: {written.broken}")
    words = ["qbench", "run", "suites/qn_pretrained.yaml", "--set", "dataset=imagenet"]
    words += ["--set", f"data.root={folder}", "--set", "data.image_size=64"]
    words += ["--set", "models=[resnet18]", "--set", "seeds=[0]"]
    words += ["--set", "recipe.epochs=1", "--set", "full_precision.epochs=1"]
    print(f"Next:\n  {shlex.join(words)}")


@app.command("voc-like", cls=PlainCommand)
def voc_like(
    folder: Folder,
    train: Annotated[
        int,
        typer.Option(metavar="N", help="Training images, one half each in VOC2007 and VOC2012."),
    ] = 400,
    test: Annotated[int, typer.Option(metavar="N", help="Test images, in VOC2007.")] = 100,
    classes: Annotated[
        int, typer.Option(metavar="N", help="How many of VOC's classes, 2 to 20.")
    ] = 5,
    size: Annotated[int, typer.Option(metavar="N", help="Longer side of an image in pixels.")] = 96,
) -> None:
    """Write drawn images and boxes in the folders of Pascal VOC.

    The folders are DIR/VOCdevkit/VOC2007 and DIR/VOCdevkit/VOC2012; 2012 has no test images. One
    image in twenty is empty; all others show 1 to 4 objects that do not overlap. A class is a shape
    and a colour, such as a red disc; its name in the annotations, which are in VOC's XML, is one of
    VOC's, since programs that read VOC know no others. A box bounds the drawn pixels tightly,
    inclusive and counted from 1. Objects that cross the border are marked truncated, very small
    ones difficult.

    The same arguments give the same bytes. Images that exist already are not written again.
    """
    from qbench.data.synthetic import voc_like as tree

    written = tree.write(folder, train, test, classes, size, _track())
    of_2007, of_2012 = written.trainval
    print(
        f"{_wrote(folder, written.files)}: {of_2007} training images of VOC2007 and {of_2012} of "
        f"VOC2012, {written.test} test images."
    )
    names = ", ".join(
        f"{drawn} ({name})" for drawn, name in zip(written.drawn, written.classes, strict=True)
    )
    print(f"They show drawn shapes under names of Pascal VOC: {names}.")


def _wrote(folder: Path, files: int) -> str:
    return f"Wrote {folder}" if files else f"{folder} is there already, and nothing was written"


def _track() -> Track:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return partial(
        track,
        description="Drawing",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

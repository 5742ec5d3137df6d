"""Deploy a network of one's own: `qbench.deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qbench.deployment.dialect import Dialect
from qbench.deployment.graph import Written, write_onnx
from qbench.deployment.network import Architecture, describe
from qbench.deployment.packed import PackedSizes, write_packed
from qbench.deployment.qonnx import QONNX
from qbench.deployment.standard import ONNX
from qbench.errors import QbenchError, nearest
from qbench.files import expanded
from qbench.quant.handle import Handle

FORMATS = ("packed", "onnx", "qonnx")


def check_format(to: str, fold_batch_norm: bool = False, exact: bool = False) -> None:
    """Raise QbenchError if networks cannot be deployed to a format.

    Args:
        to: Name of the format.
        fold_batch_norm: Whether batch normalization is to be folded.
        exact: Whether layers are to be compared on integers.
    """
    if to not in FORMATS:
        raise QbenchError(f"--to {to}: no such format{nearest(to, FORMATS)}")
    for option, wanted in (("--fold-batch-norm", fold_batch_norm), ("--exact", exact)):
        if wanted and to != "onnx":
            raise QbenchError(f"{option} is for --to onnx, and this is --to {to}")


def dialect_of(to: str) -> Dialect:
    """Return what ``onnx`` or ``qonnx`` models are written with."""
    return {"onnx": ONNX, "qonnx": QONNX}[to]


def deploy(
    handle: Handle,
    path: str | Path,
    images: Any,
    *,
    to: str = "packed",
    architecture: Architecture | None = None,
) -> PackedSizes | Written:
    """Write a quantized network to a file that needs neither its method nor full precision.

    Args:
        handle: The handle that `qbench.attach` returned, after training, on the CPU. Its model is
            hardened.
        path: The file to write. Its folder must exist.
        images: Batch of inputs, (N, …). Two images are enough.
        to: ``packed``: codes of k bits and the numbers of their levels, for `qbench.load_packed`.
            ``onnx``: an ONNX model of opset 25 with integer weights. ``qonnx``: a model for FINN
            and hls4ml.
        architecture: How to build the network again. None: `qbench.load_packed` is to be given a
            network of the same architecture.

    Returns:
        The sizes of a packed file, or how the parts of an ONNX model were written.

    Raises:
        QbenchError: The format is unknown, or cannot express the network. The message says why.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> import qbench
        >>> def network():
        ...     return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> images = torch.randn(4, 8)
        >>> handle = qbench.attach(network(), "lsq", bits="4/4", calibration=[images])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sizes = qbench.deploy(handle, f"{folder}/net.safetensors", images)
        ...     loaded = qbench.load_packed(f"{folder}/net.safetensors", network())
        >>> sizes.payload
        428
        >>> torch.equal(loaded(images), handle.model(images))
        True
    """
    check_format(to)
    network = describe(handle, images)
    if to == "packed":
        return write_packed(network, expanded(path), architecture)
    return write_onnx(network, expanded(path), images, dialect_of(to))


__all__ = ["FORMATS", "Architecture", "check_format", "deploy", "dialect_of"]

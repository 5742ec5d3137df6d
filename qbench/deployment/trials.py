"""Deploy finished trials, and prove that what is deployed is the network that was measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qbench import registry
from qbench.deployment.deploy import check_format, dialect_of
from qbench.deployment.exact import compare_integers
from qbench.deployment.graph import Written, write_onnx
from qbench.deployment.latency import Speed, measure
from qbench.deployment.network import Architecture, HardNetwork, describe
from qbench.deployment.packed import load_packed, write_packed, wrong_part
from qbench.deployment.proof import environment, prove
from qbench.errors import QbenchError
from qbench.files import write_atomic
from qbench.method import Method
from qbench.quant.options import build_method, determining_options
from qbench.quant.preparation import preparation_of
from qbench.spec.bits import BitWidths
from qbench.spec.predictions import Predictions
from qbench.spec.result import PlainData
from qbench.spec.trial import FP32, Preparation, Trial
from qbench.store.mlflow import Store
from qbench.store.recording import PREDICTIONS_FILE, WEIGHTS_FILE
from qbench.store.run import Run
from qbench.store.tags import PREDICTIONS
from qbench.train.building import ExecutionEnvironment
from qbench.train.trial import rebuild

Status = Literal["green", "red", "refused"]


class Deployment(PlainData):
    """Result of deploying a trial.

    Attributes:
        key: Key of the trial.
        name: Its readable name.
        to: The format.
        status: ``green``: the file is the network that was measured. ``red``: it is not.
            ``refused``: the format cannot express the network.
        reason: Why it is red or refused, or an empty string.
        file: Path of the file, or an empty string.
        bytes: Sizes in bytes, by what takes them; ``file`` is the whole.
        images: Number of images that were compared.
        top1: Top-1 accuracy in percent, by what computed it.
        flips: Number of predictions that differ from the recorded ones, by what computed them.
            Empty if none are recorded.
        difference: Largest difference of a logit to that of the hardened network in torch, by what
            computed it.
        parts: How each weight and each activation quantizer was written to ONNX, by name.
        speed: How fast the model is beside full precision, with one thread and with all.
        environment: Versions, the processor, and what executed the model.
        notes: Further findings, a sentence each.
    """

    key: str
    name: str
    to: str
    status: Status = "green"
    reason: str = ""
    file: str = ""
    bytes: dict[str, int] = {}
    images: int = 0
    top1: dict[str, float] = {}
    flips: dict[str, int] = {}
    difference: dict[str, float] = {}
    parts: dict[str, str] = {}
    speed: list[Speed] = []
    environment: dict[str, str] = {}
    notes: list[str] = []


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished trial whose network was built again.

    Attributes:
        trial: The trial.
        network: Its hardened network.
        architecture: How to build the network again.
        images: Images of the split that it was measured on, (N, C, H, W).
        batches: Sizes of the batches that it was measured in.
        labels: Their labels, (N,).
        recorded: Its recorded predictions; None if there are none.
    """

    trial: Trial
    network: HardNetwork
    architecture: Architecture
    images: Tensor
    batches: tuple[int, ...]
    labels: Tensor
    recorded: list[int] | None


def load_finished(store: Store, run: Run, data: Mapping[str, Any]) -> Finished:
    """Build the network of a finished trial again.

    Args:
        store: The store that recorded it.
        run: Its run.
        data: Options of the dataset, ``root`` among them.

    Returns:
        The network, with the images that it was measured on.

    Raises:
        QbenchError: The trial is not finished or no classifier, its weights are not stored, or its
            data are missing.
    """
    trial = store.trial(run)
    if run.status != "FINISHED":
        raise QbenchError(f"{trial.name} ({trial.key}) failed: it has no network")
    if trial.task != "classification":
        raise QbenchError(f"{trial.name} ({trial.key}): only classifiers can be deployed")
    with tempfile.TemporaryDirectory() as scratch:
        weights = store.fetch(run, WEIGHTS_FILE, Path(scratch)).read_bytes()
    loop = rebuild(trial, weights, ExecutionEnvironment(data=data))
    loop.handle.model.cpu()
    images, labels = zip(*((x.cpu(), y.cpu()) for x, y in loop.evaluation), strict=True)
    recorded = None
    if PREDICTIONS in run.tags:
        recorded = Predictions.model_validate(store.read(run, PREDICTIONS_FILE)).values
    architecture = Architecture(
        model=trial.architecture,
        num_classes=loop.dataset.num_classes,
        in_channels=loop.dataset.image_shape[0],
        prepared=_preparation(trial, loop.dataset.num_classes, loop.dataset.image_shape[0]),
    )
    return Finished(
        trial,
        describe(loop.handle, images[0][:8]),
        architecture,
        torch.cat(images),
        tuple(map(len, images)),
        torch.cat(labels),
        recorded,
    )


def _preparation(trial: Trial, classes: int, channels: int) -> Preparation | None:
    """Return how the network of a trial is changed before quantizers are attached."""
    if trial.method == FP32:
        return trial.prepared
    method = build_method(trial.method, trial.options)
    bits = BitWidths.parse(trial.bits)
    if type(method).prepare is not Method.prepare and method.keeps_weights:
        options = determining_options(method)
        return Preparation(method=trial.method, options=options, bits=trial.bits)
    return preparation_of(
        method, bits, lambda: registry.build_model(trial.architecture, classes, channels)
    )


def deploy_finished(
    finished: Finished,
    to: str,
    folder: Path,
    fold_batch_norm: bool = False,
    exact: bool = False,
) -> Deployment:
    """Write the network of a finished trial to a file, and compare it with what was measured.

    Args:
        finished: The trial with its network.
        to: The format, one of `qbench.deployment.deploy.FORMATS`.
        folder: Folder of the file, which is named after the key. The result is written beside it,
            as JSON.
        fold_batch_norm: Whether to fold batch normalization into the scales and biases of an ONNX
            model.
        exact: Whether to compare the layers of an ONNX model on integers too.

    Returns:
        What became of it.

    Raises:
        QbenchError: There is no such format, or it has no such option.
        OSError: The folder cannot be written.
    """
    check_format(to, fold_batch_norm, exact)
    folder.mkdir(parents=True, exist_ok=True)
    trial = finished.trial
    found = Deployment(key=trial.key, name=trial.name, to=to, images=len(finished.images))
    expected = logits(finished.network.model, finished)
    compare(found, "torch", expected, expected, finished)
    if found.flips.get("torch"):
        found.status = "red"
        found.reason = (
            "the network that was built again does not predict what was recorded: "
            "the weights are stored as they were, so the code or this machine computes otherwise"
        )
    try:
        if to == "packed":
            _packed(found, finished, folder, expected)
        else:
            _onnx(found, finished, folder, expected, fold_batch_norm, exact)
    except QbenchError as error:
        found.status, found.reason = "refused", str(error)
    record = folder / f"{trial.key}{'.folded' * fold_batch_norm}.{to}.json"
    with write_atomic(record) as scratch:
        scratch.write_text(found.model_dump_json(indent=2), encoding="utf-8")
    return found


def _packed(found: Deployment, finished: Finished, folder: Path, expected: Tensor) -> None:
    trial = finished.trial
    file = folder / f"{trial.key}.safetensors"
    about = {"trial": trial.key, "name": trial.name}
    sizes = write_packed(finished.network, file, finished.architecture, about)
    found.file = str(file)
    found.bytes = {
        "payload": sizes.payload,
        "buffers": sizes.buffers,
        "activations": sizes.activations,
        "index": sizes.header,
        "file": sizes.file,
    }
    found.notes += finished.network.undeclared
    compare(found, "packed", logits(load_packed(file), finished), expected, finished)
    if found.difference["packed"]:
        found.status, found.reason = "red", "the reloaded network computes other logits"
    if reason := wrong_part(finished.network, file):
        found.status, found.reason = "red", reason


def _onnx(
    found: Deployment,
    finished: Finished,
    folder: Path,
    expected: Tensor,
    fold_batch_norm: bool,
    exact: bool,
) -> None:
    dialect = dialect_of(found.to)
    suffix = ".onnx" if found.to == "onnx" else f".{found.to}.onnx"
    file = folder / f"{finished.trial.key}{'.folded' * fold_batch_norm}{suffix}"
    written = write_onnx(finished.network, file, finished.images, dialect, fold_batch_norm)
    found.file, found.bytes = str(file), {"file": written.size}
    found.parts = {**written.weights, **written.activations}
    found.environment = environment(found.to)
    proof = prove(finished.network, file, written, finished.images, expected, dialect)
    for how, got in proof.logits.items():
        compare(found, how, got, expected, finished)
    if proof.first is not None:
        found.notes.append(
            f"{proof.first.count} of {proof.first.values} levels at '{proof.first.place}' differ, "
            f"{proof.first.unexplained} by more than rounding"
        )
    if proof.reason:
        found.status, found.reason = "red", proof.reason
    if fold_batch_norm:
        found.notes.append(_told_of_folding(written, found.top1))
    if exact:
        same = compare_integers(finished.network, file, written, finished.images)
        found.notes.append(same.text)
        if same.wrong:
            found.status, found.reason = "red", same.wrong
    if found.to == "onnx":
        found.speed = measure(file, written.full, finished.images, "all")


def _told_of_folding(written: Written, top1: Mapping[str, float]) -> str:
    changes = (
        f"{value - top1['torch']:+.2f} points ({how})"
        for how, value in top1.items()
        if how != "torch"
    )
    stays = f", and stays behind {', '.join(written.kept)}" if written.kept else ""
    return (
        f"batch normalization is folded into {len(written.folded)} weights{stays}; top-1 changes "
        f"by {', '.join(changes)}"
    )


@torch.inference_mode()
def logits(model: nn.Module, finished: Finished) -> Tensor:
    """Return the logits of a network on the images of a trial, (N, classes)."""
    parts = finished.images.split(list(finished.batches))
    return torch.cat([model(images).float() for images in parts])


def compare(
    found: Deployment, what: str, got: Tensor, expected: Tensor, finished: Finished
) -> None:
    """Add how logits compare with those of the hardened network and with recorded predictions.

    Args:
        found: What to add to.
        what: What computed them.
        got: The logits, (N, classes).
        expected: Those of the hardened network in torch.
        finished: The trial.
    """
    predicted = got.argmax(1)
    found.top1[what] = 100 * float((predicted == finished.labels).double().mean())
    found.difference[what] = float((got - expected).abs().max())
    if finished.recorded is not None:
        recorded = torch.tensor(finished.recorded)
        found.flips[what] = int((predicted != recorded).sum())

"""Golden numerics: what every method comes to after a dozen training steps.

    python -m tests.helpers.golden [METHOD ...]

trains the methods (by default all) at their main widths, on one thread of a CPU, and writes the
results to tests/methods/golden_numerics.json. Run it after raising a revision or adding a method.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from qbench import registry
from qbench.quant.options import build_method, determining_options
from qbench.quant.staircase import kernels
from qbench.spec.bits import BitWidths
from qbench.spec.placement import LAYER_INPUTS
from qbench.spec.recipe import Recipe
from qbench.spec.trial import Trial, full_precision_trial
from qbench.train import fingerprint
from qbench.train.checkpoint import load_weights
from qbench.train.trial import Training

FILE = Path(__file__).parents[1] / "methods" / "golden_numerics.json"
WIDTHS = ("1/32", "2/32", "3(±4)/32", "4/32", "1/1", "1/2", "2/2", "4/4")
ACTIVATION_WIDTHS = ("32/1", "32/2")  # of a method that quantizes activations only
# Options that shorten what a default would spend minutes on.
OPTIONS: dict[str, dict[str, Any]] = {
    "adaround": {"iterations": 50},
    "brecq": {"iterations": 50, "step_iterations": 20},
    "qdrop": {"iterations": 50},
}
PLACED_MODEL = "resnet_tiny"  # has additions
RECIPE = Recipe(
    epochs=2, steps=6, batch_size=32, optimizer="sgd", lr=0.05, weight_decay=1e-4,
    calibration_images=64,
)  # fmt: skip
_NOTHING = Recipe(epochs=0, batch_size=32, optimizer="sgd", lr=1.0, calibration_images=64)


def widths(method: str) -> list[str]:
    """Return the main widths that a method supports."""
    if method == "fp32":
        return ["32/32"]
    built = build_method(method, OPTIONS.get(method, {}))

    def supported(widths: tuple[str, ...]) -> list[str]:
        parsed = {bits: BitWidths.parse(bits) for bits in widths}
        return [b for b, pair in parsed.items() if built.supports(pair, "classification") is None]

    return supported(WIDTHS) or supported(ACTIVATION_WIDTHS)


def cells(method: str) -> list[str]:
    """Return what a method is trained at: ``W/A``, or ``W/A PLACEMENT``.

    All have activation quantizers at the inputs of layers. A method that has them elsewhere is also
    trained with those.
    """
    found = widths(method)
    own = registry.method_class(method).placement
    if own == LAYER_INPUTS:
        return found
    return found + [f"{bits} {own}" for bits in found if not bits.endswith("/32")]


def train(method: str, cell: str) -> dict[str, Any]:
    """Train a method for a dozen steps on digits and describe the result.

    Args:
        method: Name of the method.
        cell: One of `cells`.

    Returns:
        ``state``: SHA-256 of the hardened state. ``norms``: L2 norm of each of its tensors.
        ``losses``: mean training loss of each epoch.

    Raises:
        AssertionError: The trial failed.
    """
    bits, _, placement = cell.partition(" ")
    trial = _trial(method, bits)
    if placement:
        own = registry.method_class(method).placement
        trial = trial.model_copy(update={"placement": own, "model": PLACED_MODEL})
    training = Training(trial, _full_precision(trial.model) if trial.full_precision else None)
    list(training.epochs())
    assert training.weights is not None, training.result.reason
    state = load_weights(training.weights)
    return {
        "state": _digest(state.values()),
        "norms": {name: float(f"{t.double().norm():.4g}") for name, t in sorted(state.items())},
        "losses": [record["train_loss"] for record in training.result.history],
    }


def revisions(method: str) -> dict[str, int]:
    """Return the revisions that a method's results depend on."""
    return {
        "revision": registry.method_class(method).revision,
        "numerics": fingerprint.NUMERICS,
    }


@functools.cache
def arithmetic() -> str:
    """Return a hash of what this machine computes for fixed inputs.

    Machines that agree in it, with the same torch, are taken to compute the same last bits.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 16, 9, 9, generator=generator)
    w = torch.randn(16, 16, 3, 3, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [
            F.conv2d(x, w), F.batch_norm(x, None, None, training=True), F.softmax(x.flatten(1), 1),
            x.flatten(1) @ x.flatten(1).T, x.sum((0, 2, 3)), x.std(), x.exp(), x.tanh(),
            x.sigmoid(), x.abs().log2(), x.abs() ** 0.3,
        ]  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return _digest(found) + ("" if kernels.load() is not None else " without C kernels")


def _trial(method: str, bits: str) -> Trial:
    trains = registry.method_class(method).trains
    dataset = registry.build_dataset("digits")
    return Trial(
        method=method,
        options=determining_options(build_method(method, OPTIONS.get(method, {}))),
        model="convnet_tiny",
        dataset="digits",
        task="classification",
        bits=bits,
        recipe=RECIPE if trains else _NOTHING,
        full_precision=None if trains else RECIPE,
        seed=0,
        data=dataset.identity(),
    )


@functools.cache
def _full_precision(model: str) -> bytes:
    """Weights of a model that methods without training start from."""
    trial = _trial("fp32", "32/32").model_copy(update={"model": model})
    training = Training(full_precision_trial(trial, RECIPE))
    list(training.epochs())
    assert training.weights is not None
    return training.weights


def _digest(tensors: Any) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(_bytes(tensor))
    return found.hexdigest()[:16]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def _record(methods: list[str]) -> None:
    """Write the file: what is there, with the results of some methods in place of the old ones."""
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"methods": {}}
    found = kept["methods"]
    for method in methods:
        print(method, flush=True)
        results = {bits: train(method, bits) for bits in cells(method)}
        if results:  # else its library is not installed
            found[method] = {**revisions(method), "widths": results}
    content = {"arithmetic": arithmetic(), "torch": torch.__version__, "methods": found}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    text = re.sub(r"\n {5,}", " ", text)  # a line for each width
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    _record(sys.argv[1:] or registry.names("methods"))

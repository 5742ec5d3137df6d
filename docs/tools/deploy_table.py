"""Write the table of methods and formats in ``docs/deploy.md``, with a reason for each gap.

``python docs/tools/deploy_table.py`` attaches each method to a small network, trains it for a few
steps, and asks each format how it writes the parts. It takes some minutes. Nothing is known here of
what a method does.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import qbench
from qbench import registry
from qbench.deployment.deploy import dialect_of
from qbench.deployment.network import HardNetwork, describe
from qbench.errors import QbenchError
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from qbench.spec.trial import FP32

PAGE = Path(__file__).parents[1] / "deploy.md"
_BETWEEN = re.compile(
    r"(?<=<!-- formats: docs/tools/deploy_table.py writes it -->\n).*?(?=<!-- end -->)", re.DOTALL
)
_BOTH, _ONE = ("1/1", "2/2", "4/4"), ("4/32", "2/32", "1/2", "1/32", "32/2")
_OPTIONS = {  # that make methods fast
    "adaround": {"iterations": 5},
    "brecq": {"iterations": 5, "step_iterations": 5},
    "qdrop": {"iterations": 5},
}
_VARIANTS = {"xnor": {"scale_map": True}}  # further options that change what is computed
_HEADINGS = ("method", "bits", "packed: weights", "ONNX: weights", "ONNX: activations", "QONNX")


def table() -> str:
    """Return the table with its notes, as Markdown."""
    notes: list[str] = []
    lines = [_line(_HEADINGS), _line(["---"] * len(_HEADINGS))]
    for name in registry.names("methods"):
        if name != FP32:
            lines += [_line(row) for row in rows(name, notes)]
        if name in _VARIANTS:
            lines += [_line(row) for row in rows(name, notes, _VARIANTS[name])]
    numbered = [f"{number}. {reason}" for number, reason in enumerate(notes, 1)]
    return "\n".join([*lines, "", *numbered]) + "\n"


def rows(
    name: str, notes: list[str], options: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[list[str]]:
    """Yield the rows of a method. Widths that are written alike share one.

    Args:
        name: Name of the method.
        notes: Reasons so far. New ones are appended.
        options: Options of the method that differ from the defaults.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for bits in _widths(name):
        network = _hardened(name, bits, options)
        cells = (
            _cell(_packed(network), notes),
            *(_cell(each, notes) for each in _written(network, "onnx")),
            _cell(list(dict.fromkeys(itertools.chain(*_written(network, "qonnx")))), notes),
        )
        found.setdefault(cells, []).append(bits)
    for cells, widths in found.items():
        named = "".join(f", `{option}: {json.dumps(value)}`" for option, value in options.items())
        yield [f"`{name}`{named}", ", ".join(widths), *cells]


def _widths(name: str) -> list[str]:
    method = build_method(name, {})

    def supported(bits: str) -> bool:
        return method.supports(BitWidths.parse(bits), "classification") is None

    return [bits for bits in _BOTH if supported(bits)] or [next(filter(supported, _ONE))]


def _hardened(name: str, bits: str, options: Mapping[str, Any]) -> HardNetwork:
    """Return a network with a convolution and a linear layer, trained for a few steps."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )
    x = torch.randn(32, 1, 6, 6)
    method = build_method(name, {**_OPTIONS.get(name, {}), **options})
    handle = qbench.attach(model, method, bits=bits, layers="all", calibration=[x])
    if handle.method.trains:
        optimizer = torch.optim.SGD(handle.parameter_groups(0.02, 1e-4), lr=0.02, momentum=0.9)
        handle.attach_optimizer(optimizer)
        handle.on_epoch_start(1, 1, 3)
        handle.model.train()
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(handle.model(x), torch.arange(32) % 3)
            (loss + handle.regularization_loss()).backward()
            optimizer.step()
    return describe(handle, x)


def _packed(network: HardNetwork) -> list[str]:
    reasons = [each.reason for each in network.activations if each.steps is None]
    if reasons:
        return [f"!{reasons[0]}"]
    forms = [packed.form for packed in network.weights.values()]
    return list(dict.fromkeys(f"`{form}`" for form in forms))


def _written(network: HardNetwork, to: str) -> tuple[list[str], list[str]]:
    """Return how the weights and the activations are written; a reason begins with ``!``."""
    dialect = dialect_of(to)
    weights, activations = [], []
    for name, packed in network.weights.items():
        module = network.model.get_submodule(name.rpartition(".")[0])
        try:
            how = dialect.weight_nodes(packed, module)[1]
            weights.append(re.sub(r"^U?INT\d", "integers", re.sub(r", \d+ bits", "", how)))
        except QbenchError as error:
            weights.append(f"!of weights: {error}")
    for each in network.activations:
        if each.steps is None:
            activations.append(f"!{each.reason}")
            continue
        try:
            activations.append(dialect.emitter_of(each.steps, len(each.shape) + 1).name)
        except QbenchError as error:
            activations.append(f"!of activations: {error}")
    return list(dict.fromkeys(weights)), list(dict.fromkeys(activations))


def _cell(parts: list[str], notes: list[str]) -> str:
    """Return the text of a cell. Reasons become numbers of notes, and replace everything else."""
    reasons = [part.removeprefix("!") for part in parts if part.startswith("!")]
    notes += [reason for reason in dict.fromkeys(reasons) if reason not in notes]
    if reasons:
        return "no (" + ", ".join(str(notes.index(each) + 1) for each in reasons) + ")"
    return ", ".join(parts) or "–"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def current() -> str:
    """Return the page with the table as the methods are now."""
    found = table()
    return _BETWEEN.sub(lambda _: found, PAGE.read_text(encoding="utf-8"), count=1)


if __name__ == "__main__":
    PAGE.write_text(current(), encoding="utf-8")

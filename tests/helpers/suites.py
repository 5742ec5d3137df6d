"""Suites as YAML texts."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from qbench.errors import QbenchError
from qbench.suite.grid import PlannedTrial, expand
from qbench.suite.suite import Suite, load_suite

GOOD = """\
name: good
dataset: digits
models: [convnet_tiny]
bits: [1/32, 2/2]
methods: [ste, bwn]
seeds: [0, 1]
"""


ROWS = """\
name: rows
dataset: digits
models: [convnet_tiny]
bits: [2/32]
methods:
  - quantization_networks: {phases: [1, 1, 1]}
    label: Pretrained
    published: fine-tuned
  - quantization_networks:
    label: From scratch
    recipe: {initialization: scratch, epochs: 3}
  - quantization_networks: {phases: [2, 1, 1]}
seeds: [0]
"""


BY_MODEL = """\
name: by_model
dataset: imagenet
models: [resnet18, resnet50]
bits: [1/32, 2/32, 1/1]
weights: {resnet18: torchvision}
methods:
  - fp32
  - bwn: {}
    bits: [1/32]
  - quantization_networks: {temperature_rate: 10}
    label: QN
    bits: {resnet18: [1/1, 2/32]}
  - quantization_networks: {}
    label: QN
    bits: {resnet50: [2/32]}
seeds: [0]
published:
  - {paper: "arXiv:1911.09464", table: 2, dataset: imagenet, model: resnet18}
  - {paper: "arXiv:1911.09464", table: 3, dataset: imagenet, model: resnet50}
"""


def load(tmp_path: Path, text: str, *assignments: str) -> Suite:
    """Return the suite of a YAML text."""
    path = tmp_path / "suite.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return load_suite(path, assignments)


def problems(tmp_path: Path, text: str, *assignments: str) -> list[str]:
    """Return the mistakes that are found in a YAML text, a line for each."""
    with pytest.raises(QbenchError) as error:
        load(tmp_path, text, *assignments)
    return str(error.value).replace(f"{tmp_path}/", "").splitlines()


def grid(tmp_path: Path, *assignments: str) -> list[PlannedTrial]:
    """Return the trials of `GOOD` with some changes."""
    return expand(load(tmp_path, GOOD, *assignments))

"""QONNX models: the same network in qonnx's executor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qbench.deployment.graph import write_onnx
from qbench.deployment.network import HardNetwork, describe
from qbench.deployment.proof import prove
from qbench.errors import QbenchError
from tests.helpers.hardened import images, trained

pytest.importorskip("qonnx")
ir = pytest.importorskip("onnx_ir")
from qbench.deployment.qonnx import QONNX, weight_nodes  # noqa: E402

X = images(8)


def hard(method: str, bits: str) -> HardNetwork:
    return describe(trained(method, bits), X)


@pytest.mark.parametrize(
    ("method", "bits", "weights", "activations"),
    [
        ("jacob", "8/8", "Quant, 8 bits", {"Quant", "Quant of a wider integer"}),
        ("lsq", "4/4", "Quant, 4 bits", {"Quant"}),
        ("react_net", "1/1", "BipolarQuant", {"MultiThreshold"}),
        ("bireal", "1/1", "BipolarQuant", {"BipolarQuant"}),
        ("tbn", "1/2", "BipolarQuant", {"Quant of comparisons for each image"}),
    ],
)
def test_a_model_is_the_network_that_was_hardened(
    method: str, bits: str, weights: str, activations: set[str], tmp_path: Path
) -> None:
    network = hard(method, bits)
    written = write_onnx(network, tmp_path / "net.qonnx", X, QONNX)
    assert set(written.weights.values()) == {weights}
    assert set(written.activations.values()) == activations
    with torch.no_grad():
        expected = network.model(X)
    proof = prove(network, tmp_path / "net.qonnx", written, X, expected, QONNX)
    assert proof.reason == ""
    assert proof.logits.keys() == {"qonnx"}


@pytest.mark.parametrize(
    ("method", "bits", "reason"),
    [
        ("dorefa", "3/32", "the weight '0.weight': its levels are no integers times a scale"),
        ("quest", "2/2", "the activation quantizer at '.*': its levels are not evenly spaced"),
    ],
)
def test_levels_that_are_not_even_are_refused(
    method: str, bits: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(QbenchError, match=reason):
        write_onnx(hard(method, bits), tmp_path / "net.qonnx", X, QONNX)


def test_a_scale_for_each_group_of_weights_is_refused() -> None:
    network = describe(trained("ste", "4/4", granularity="per_group(3)"), X)
    with pytest.raises(QbenchError, match="no scale for each group"):
        weight_nodes(network.weights["0.weight"], network.model[0])  # type: ignore[index]

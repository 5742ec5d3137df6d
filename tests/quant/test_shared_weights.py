"""Layers that share a weight have one quantizer, and are hardened, audited and counted once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.quant.audit import audit
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidths
from tests.helpers.methods import FEW, NAMES


def tied() -> nn.Sequential:
    """Return four linear layers, of which the second and the third share a weight."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
        nn.Linear(8, 3),
    )  # fmt: skip
    model[4].weight = model[2].weight
    return model


def images(seed: int = 0) -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))


def widths(name: str) -> str:
    """Return bit-widths that a method supports."""
    method = build_method(name, {})
    return next(
        bits
        for bits in ("4/4", "1/1", "2/32", "1/2", "4/32", "1/32", "32/2")
        if method.supports(BitWidths.parse(bits), "classification") is None
    )


def attached(name: str, bits: str) -> Handle:
    method = build_method(name, FEW.get(name, {}))
    return attach(tied(), method, bits=bits, calibration=[images()])


def train(handle: Handle) -> None:
    if not handle.method.trains:
        return
    optimizer = torch.optim.SGD(handle.parameter_groups(0.01, 1e-4), lr=0.01)
    handle.attach_optimizer(optimizer)
    handle.on_epoch_start(1, 1, steps=3)
    handle.model.train()
    for step in range(3):
        labels = torch.arange(16) % 3
        loss = F.cross_entropy(handle.model(images(step)), labels) + handle.regularization_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_every_method_hardens_a_shared_weight_once(name: str) -> None:
    bits = widths(name)
    handle = attached(name, bits)
    train(handle)
    model = handle.model.eval()
    layers = list(handle.layers)
    with torch.no_grad():
        expected = model(images(9))
    handle.harden()
    with torch.no_grad():
        assert torch.equal(model(images(9)), expected)
    if not bits.startswith("32"):
        shared = {id(layer.module.weight) for layer in layers if layer.name in ("2", "4")}
        assert len(shared) == 1
    counts = audit(layers, model.state_dict(), model, images())
    assert not [count for count in counts if not count.holds]


def test_layers_that_share_a_weight_share_its_quantizer() -> None:
    first, second = attached("lsq", "4/4").layers
    assert first.weight_quantizer is second.weight_quantizer
    assert first.latent_weight is second.latent_weight
    assert first.activation_quantizer is not second.activation_quantizer


def test_removing_the_quantizers_leaves_the_weight_shared() -> None:
    handle = attached("lsq", "4/4")
    before = handle.layers[0].latent_weight
    model = handle.remove()
    assert model[2].weight is model[4].weight is before  # type: ignore[index]


def test_the_state_of_a_shared_weight_survives_a_round_trip() -> None:
    handle, other = attached("lsq", "4/4"), attached("lsq", "4/4")
    train(handle)
    other.model.load_state_dict(handle.model.state_dict())
    assert torch.equal(handle.model(images(3)), other.model(images(3)))


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"2": "4/32", "4": "2/32"}, ["'2' and '4' share a weight", "4 and 2 bits"]),
        (["2"], ["'2' and '4' share a weight", "4 and 32 bits"]),
    ],
)
def test_different_widths_for_a_shared_weight_are_refused_by_name(
    layers: object, words: list[str]
) -> None:
    with pytest.raises(QbenchError) as refused:
        attach(tied(), "lsq", bits="4/32", layers=layers)  # type: ignore[arg-type]
    for each in words:
        assert each in str(refused.value)

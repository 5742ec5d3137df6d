"""Every method quantizes weights that a parametrization of the user's computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations

from qbench.quant.attach import attach
from qbench.quant.audit import audit
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from qbench.quant.parametrizations import assign_weight, computed_weight
from qbench.spec.bits import BitWidths
from tests.helpers.methods import FEW, NAMES

KINDS = [parametrizations.weight_norm, parametrizations.spectral_norm]


def images(seed: int = 0) -> Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))


def network(kind: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    kind(model[2])
    return model


def attached(name: str, kind: Callable[[nn.Module], nn.Module]) -> Handle | None:
    """Attach a method to a network, at bit-widths that it supports; None if it has no weights."""
    method = build_method(name, FEW.get(name, {}))
    for bits in ("4/4", "1/1", "2/32", "1/2", "4/32", "1/32"):
        if method.supports(BitWidths.parse(bits), "classification") is None:
            return attach(network(kind), method, bits=bits, calibration=[images()])
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains_and_hardens_a_computed_weight(
    name: str, kind: Callable[[nn.Module], nn.Module]
) -> None:
    handle = attached(name, kind)
    if handle is None:
        pytest.skip("it quantizes activations only")
    if handle.method.trains:
        optimizer = torch.optim.SGD(handle.parameter_groups(0.05, 0.0), lr=0.05)
        handle.attach_optimizer(optimizer)
        handle.on_epoch_start(1, 20, steps=3)  # at a low temperature, if there is one
        before = handle.layers[0].latent_weight.detach().clone()
        for step in range(3):
            output = handle.model.train()(images(step))
            loss = F.cross_entropy(output, torch.arange(16) % 3) + handle.regularization_loss()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert not torch.equal(handle.layers[0].latent_weight, before)
    layers, model = list(handle.layers), handle.model.eval()
    with torch.no_grad():
        expected = model(images(9))
    handle.harden()
    with torch.no_grad():
        assert torch.equal(model(images(9)), expected)
    assert not hasattr(layers[0].module, "parametrizations")
    counts = audit(layers, model.state_dict(), model, images())
    assert not [count for count in counts if not count.holds]


def test_a_hooks_change_of_the_weight_is_assigned_through_the_parametrization() -> None:
    handle = attach(network(parametrizations.weight_norm), "binary_connect", bits="1/32")
    optimizer = torch.optim.SGD(handle.parameter_groups(1.0, 0.0), lr=100.0)
    handle.attach_optimizer(optimizer)
    handle.model(images()).square().sum().backward()
    optimizer.step()
    assert float(handle.layers[0].latent_weight.abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_assigned_is_computed_again(kind: Callable[[nn.Module], nn.Module]) -> None:
    layer = network(kind).eval()[2]
    value = computed_weight(layer, 1).detach() * 1.0
    assign_weight(layer, 1, value)
    assert torch.allclose(computed_weight(layer, 1), value, atol=1e-6)

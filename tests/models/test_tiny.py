from __future__ import annotations

import pytest

from qbench.models.network import Network
from tests.helpers.networks import build


@pytest.mark.parametrize(("name", "last"), [("convnet_tiny", 0.129625), ("resnet_tiny", 0.092186)])
def test_the_tiny_networks_start_from_the_weights_that_results_were_made_with(
    name: str, last: float
) -> None:
    weights = [p.detach() for p in build(name, channels=1).parameters()]
    assert weights[0].flatten()[:2].tolist() == pytest.approx([-0.0024956, 0.1788145], abs=1e-6)
    assert float(weights[-1][-1]) == pytest.approx(last, abs=1e-6)


def test_the_tiny_networks_are_where_they_were() -> None:
    import qbench.models as package

    assert type(build("convnet_tiny")) is package.ConvNetTiny
    assert type(build("resnet_tiny")) is package.ResNetTiny
    assert not issubclass(package.ConvNetTiny, Network)

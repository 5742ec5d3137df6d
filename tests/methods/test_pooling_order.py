"""The order of pooling and normalization in networks of methods with binary activations.

Such methods move max-pooling before batch normalization: after it, nearly every sign would be +1.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qbench.quant.attach import attach
from tests.helpers.pooled_network import images, kinds, network


def positive_share(x: Tensor) -> float:
    return float((x > 0).float().mean())


def zero_share(x: Tensor) -> float:
    return float((x == 0).float().mean())


@pytest.mark.parametrize(
    ("name", "bits", "share"),
    [
        *[(name, "1/1", positive_share) for name in ("bnn", "binary_connect", "xnor", "bireal")],
        *[
            ("react_net", "1/1", positive_share),
            ("tbn", "1/2", positive_share),
            ("hwgq", "1/2", zero_share),
        ],
    ],
)
@pytest.mark.parametrize("relu", [nn.ReLU, nn.ReLU6])
def test_half_of_what_was_pooled_lies_below_zero(
    name: str, bits: str, share: Callable[[Tensor], float], relu: type[nn.Module]
) -> None:
    handle = attach(network(relu=relu), name, bits=bits, calibration=[images()])
    seen: list[Tensor] = []
    layer = handle.layers[0]
    layer.module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    handle.model.train()(images())
    low, high = (0.25, 0.45) if name == "tbn" else (0.4, 0.6)  # a third is ternary's zero
    assert low < share(seen[0]) < high


@pytest.mark.parametrize(("name", "bits"), [("dorefa", "2/2"), ("binary_connect", "1/32")])
def test_where_nothing_depends_on_it_the_order_stays(name: str, bits: str) -> None:
    handle = attach(network(), name, bits=bits, calibration=[images()])
    assert kinds(handle.model)[1:4] == ["BatchNorm2d", "ReLU", "MaxPool2d"]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("name", ["bireal", "react_net"])
def test_a_shortcut_averages_over_the_windows_that_its_convolution_is_pooled_over(
    name: str, norm_first: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *network(norm_first=norm_first)[:4])
    model[1] = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    handle = attach(model, name, bits="1/1", layers="all", calibration=[images()])
    block = handle.model[1:].eval()  # type: ignore[index]
    assert sum(type(m).__name__ == "Shortcut" for m in block.modules()) == 1
    x = torch.rand(2, 8, 15, 15)
    with torch.no_grad():
        handle.layers[1].latent_weight.zero_()
        found = block(x)
    torch.testing.assert_close(found, nn.functional.adaptive_avg_pool2d(x, 7))

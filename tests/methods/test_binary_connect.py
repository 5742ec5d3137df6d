"""BinaryConnect (Courbariaux et al., NeurIPS 2015, arXiv:1511.00363).

Weights follow Eq. 1 and 2 and are clipped as in Algorithm 1. Binary activations follow BNN
(arXiv:1602.02830, Eq. 4).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qbench.quant.attach import attach
from tests.helpers.gradients import gradient
from tests.helpers.quantizers import (
    activation_quantizer,
    attach_everywhere,
    quantized_weight,
    weight_quantizer,
)
from tests.helpers.references import sign
from tests.helpers.tensors import normal


def test_binary_connect_weights_are_plus_and_minus_one() -> None:
    w = normal(6, 4, 3, 3, scale=0.1)
    np.testing.assert_array_equal(quantized_weight("binary_connect", w, 1), sign(w.numpy()))


def test_binary_connect_drawn_weights_have_the_clipped_weight_as_their_mean() -> None:
    torch.manual_seed(0)
    w = torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)
    draws = weight_quantizer("binary_connect", w, 1, stochastic=True)(w.expand(40_000, 13))
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    # Five standard deviations of a mean of as many signs.
    np.testing.assert_allclose(draws.mean(0).numpy(), w.clamp(-1, 1).numpy(), atol=0.025)


def test_binary_connect_draws_nothing_where_the_weight_is_at_its_bounds() -> None:
    w = torch.tensor([-1.0, 1.0]).expand(1000, 2)
    drawn = weight_quantizer("binary_connect", w, 1, stochastic=True)(w)
    assert torch.equal(drawn, w)


def test_binary_connect_drawn_weights_are_evaluated_as_signs() -> None:
    w = normal(50, 50)
    quantizer = weight_quantizer("binary_connect", w, 1, stochastic=True).eval()
    np.testing.assert_array_equal(quantizer(w).numpy(), sign(w.numpy()))


def test_binary_connect_clips_quantized_weights_after_the_step_and_no_others() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)).double()
    for parameter in model.parameters():
        parameter.data = normal(*parameter.shape, scale=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    handle = attach(model, "binary_connect", bits="1/32")
    handle._after_optimizer_step()
    handle.remove()
    after = dict(model.named_parameters())
    clipped = before.pop("1.weight").clamp(-1, 1)
    assert float(clipped.detach().abs().max()) == 1
    assert torch.equal(after["1.weight"], clipped)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_binary_connect_inputs_are_signs_with_a_gradient_between_minus_and_plus_one() -> None:
    x, g = normal(300, scale=1.5), normal(300, seed=1)
    quantizer = activation_quantizer("binary_connect", x, 1)
    np.testing.assert_array_equal(quantizer(x).numpy(), sign(x.numpy()))
    window = np.abs(x.numpy()) <= 1
    assert 0 < window.sum() < 300
    np.testing.assert_array_equal(gradient(quantizer, x, g), g.numpy() * window)


@pytest.mark.parametrize(("bits", "kind"), [("1/1", nn.Hardtanh), ("1/32", nn.ReLU)])
def test_binary_connect_lets_negative_values_reach_binary_inputs(
    bits: str, kind: type[nn.Module]
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.ReLU()), nn.Linear(4, 2))
    handle = attach_everywhere(model, "binary_connect", bits, calibration=[torch.randn(4, 3)])
    found = [type(m) for m in handle.model.modules() if isinstance(m, nn.ReLU | nn.Hardtanh)]
    assert found == [kind, kind]

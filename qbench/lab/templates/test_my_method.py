"""Tests of my_method. Run them with `pytest test_my_method.py`."""

from pathlib import Path

import numpy as np
import torch

from qbench.lab.check import MethodCheck, parametrize_with_checks
from qbench.method import Layer
from qbench.plugins import Plugin, load_plugin
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidth

FILE = Path(__file__).with_name("my_method.py")
FLOAT = BitWidth(32)
(NAME,) = load_plugin(Plugin.read(FILE))


@parametrize_with_checks([NAME])
def test_it_keeps_the_contract(check: MethodCheck) -> None:
    """Each promise of the contract is a test: `pytest --collect-only` lists them."""
    check()


def test_its_weights_are_what_the_paper_says() -> None:
    """Compare with the equation in plain numpy."""
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    for bits in (2, 3, 4, 8):
        layer = Layer("layer", torch.nn.Identity(), BitWidth(bits), FLOAT)
        quantizer = build_method(NAME, {}).weight_quantizer(layer, weight)
        assert quantizer is not None
        w, n = weight.numpy(), 2 ** (bits - 1) - 1
        s = 3 * np.abs(w).mean() / n
        np.testing.assert_allclose(
            quantizer(weight).numpy(), s * np.clip(np.round(w / s), -n, n), rtol=1e-5
        )

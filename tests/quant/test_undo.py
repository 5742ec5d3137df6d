"""A model that could not be quantized is what it was before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench.errors import QbenchError
from qbench.method import Integers, Layer, Method
from qbench.quant.attach import attach


class FailsAt(Method):
    """Fails at one step, after the others have changed the model."""

    weights = Integers()
    activations = Integers()
    step: str = "calibrate"

    def prepare(self, model: nn.Module, bits: Any) -> nn.Module:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.zeros_(module.weight).requires_grad_(False)
        if isinstance(model, nn.Sequential):
            model[2] = nn.Hardtanh()
            model.append(nn.Linear(4, 4))
        return model

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        return self._built("weight")

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module:
        return self._built("activation")

    def output_module(self, layer: Layer) -> nn.Module:
        return self._built("output")

    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        self._built("calibrate")

    def _built(self, step: str) -> nn.Module:
        if step == self.step:
            raise RuntimeError(f"no {step}")
        return nn.Identity()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


def attention() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)


def look(model: nn.Module) -> Iterator[tuple[Any, ...]]:
    """All that a user of a model can see of it."""
    for name, module in model.named_modules():
        members = {
            key: list(each.items()) if isinstance(each, dict) else each
            for key, each in vars(module).items()
        }
        yield name, module, type(module), members
    for name, value in model.state_dict(keep_vars=True).items():
        yield name, value.detach().tolist(), value.requires_grad


@pytest.mark.parametrize("placement", ["layer_inputs", "after_activation"])
@pytest.mark.parametrize("step", ["weight", "activation", "output", "calibrate"])
def test_an_error_at_any_step_leaves_the_model_as_it_was(step: str, placement: Any) -> None:
    model, x = network(), torch.randn(2, 3, 6, 6)
    before = list(look(model))
    with pytest.raises(RuntimeError, match=f"no {step}"):
        attach(
            model, FailsAt(step=step), bits="2/2", layers="all", placement=placement,
            calibration=[x],
        )  # fmt: skip
    assert list(look(model)) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"calibration": []},
        {"calibration": [torch.randn(2, 3, 9)]},
        {"calibration": [torch.full((2, 3, 12), torch.nan)]},
        {"layers": ["linear3"]},
        {"placement": "after_activation", "calibration": []},
        {"state_dict": {}},
    ],
    ids=str,
)
def test_an_error_after_attention_was_exchanged_exchanges_it_back(wrong: dict[str, Any]) -> None:
    model = attention()
    before = list(look(model))
    given = {"layers": "all", "calibration": [torch.randn(2, 3, 12)], **wrong}
    with pytest.raises((RuntimeError, QbenchError)):
        attach(model, "lsq", bits="2/2", **given)
    assert list(look(model)) == before


def test_weights_that_fit_in_part_change_no_value() -> None:
    model, other = network(), network()
    nn.init.zeros_(other[0].weight)  # type: ignore[arg-type]
    other[6] = nn.Linear(128, 5)
    before = list(look(model))
    with pytest.raises(RuntimeError, match="size mismatch"):
        attach(model, "twn", bits="2/32", state_dict=other.state_dict())
    assert list(look(model)) == before


def test_hooks_of_the_user_can_still_be_removed() -> None:
    model = network()
    layer: nn.Module = model[3]
    hook = layer.register_forward_pre_hook(lambda module, args: None)
    with pytest.raises(RuntimeError, match="no calibrate"):
        attach(model, FailsAt(), bits="2/2", calibration=[torch.randn(2, 3, 6, 6)])
    hook.remove()
    assert not layer._forward_pre_hooks
    assert attach(model, "lsq", bits="2/2", calibration=[torch.randn(2, 3, 6, 6)]).layers

"""Networks that a method changes: their full-precision trials, and what starts from these."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench.quant import attach as attach_module
from qbench.quant.handle import Handle
from qbench.spec.recipe import Recipe
from qbench.spec.trial import Trial
from qbench.suite.grid import expand
from qbench.suite.suite import Suite
from qbench.train import building
from qbench.train.building import ExecutionEnvironment
from qbench.train.checkpoint import load_weights, pack, unpack
from qbench.train.trial import Training
from tests.helpers.checkpoints import Kept
from tests.helpers.training import train

SHORT: dict[str, Any] = {"epochs": 1, "steps": 3, "batch_size": 64}


def planned(
    method: str, bits: str = "1/1", model: str = "convnet_tiny", **options: Any
) -> tuple[Trial, Trial]:
    """Return the trial of a method, and the full-precision trial that it starts from."""
    suite = Suite.model_validate(
        {
            "name": "changed",
            "dataset": "digits",
            "models": [model],
            "bits": [bits],
            "methods": [{"method": method, "options": options}],
            "seeds": [0],
            "full_precision": SHORT,
            "recipe": {"changes": {**SHORT, "calibration_images": 64}},
        }
    )
    found = [each.trial for each in expand(suite)]
    (quantized,) = (each for each in found if each.method == method)
    (base,) = (each for each in found if each.key == quantized.source)
    return quantized, base


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Handle, dict[str, Tensor]]]:
    """What trials attach: the handle, and the state of the network before any step."""
    found = []

    def recording(*arguments: Any, **named: Any) -> Handle:
        handle = attach_module.attach(*arguments, **named)
        state = {name: value.clone() for name, value in handle.model.state_dict().items()}
        found.append((handle, state))
        return handle

    monkeypatch.setattr(building, "attach", recording)
    return found


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


def test_the_full_precision_network_is_the_changed_one(
    attached: list[tuple[Handle, dict[str, Tensor]]],
) -> None:
    _, base = planned("xnor")
    result, weights = train(base)
    assert result.status == "done", result.reason
    assert weights is not None
    ((handle, _),) = attached
    found = [kind for kind in kinds(handle.model) if kind in ("ReLU", "Hardtanh")]
    assert found == ["Hardtanh"] * 3 + ["ReLU"], "a ReLU stays before the classifier"
    assert handle.quantizers == []
    names = [type(module).__name__ for module in handle.model.children()]
    assert names.index("MaxPool2d") < names.index("BatchNorm2d", names.index("Hardtanh"))


@pytest.mark.parametrize(
    ("method", "bits", "options"),
    [
        ("xnor", "1/1", {}),
        ("xnor", "1/1", {"scale_map": True}),
        ("hwgq", "1/2", {"plain_norm": True}),
        ("react_net", "1/1", {}),
        ("wrpn", "2/2", {"widen": 2}),
    ],
)
def test_a_quantized_trial_starts_from_the_changed_network_bit_for_bit(
    method: str,
    bits: str,
    options: dict[str, Any],
    attached: list[tuple[Handle, dict[str, Tensor]]],
) -> None:
    quantized, base = planned(method, bits, **options)
    _, weights = train(base)
    assert weights is not None
    result, hardened = train(quantized, weights)
    assert result.status == "done", result.reason
    assert hardened is not None
    (full, initial), (_, start) = attached
    trained = load_weights(weights)
    own = {
        name.replace("parametrizations.weight.original", "weight"): start[name] for name in start
    }
    assert trained.keys() <= own.keys()
    assert all(torch.equal(own[name], value) for name, value in trained.items())
    moved = {name for name, p in full.model.named_parameters() if p.requires_grad}
    assert all(not torch.equal(initial[name], trained[name]) for name in moved)


def test_what_a_method_adds_to_the_network_is_trained_with_it() -> None:
    _, base = planned("react_net")
    _, weights = train(base)
    assert weights is not None
    added = {name: value for name, value in load_weights(weights).items() if ".after." in name}
    assert added, "RPReLU has parameters"
    slopes = [value for name, value in added.items() if name.endswith("slope")]
    assert all(len(value.unique()) > 1 for value in slopes)


def test_a_trial_trains_and_starts_from_the_network_that_its_method_declares(
    attached: list[tuple[Handle, dict[str, Tensor]]],
) -> None:
    quantized, base = planned("hwgq", "1/2", model="resnet_tiny")
    assert (quantized.network, base.network) == ("hwgq_resnet8", "hwgq_resnet8")
    _, weights = train(base)
    result, _ = train(quantized, weights)
    assert result.status == "done", result.reason
    assert [type(handle.model).__name__ for handle, _ in attached] == ["HWGQResNet"] * 2


def test_weights_of_a_network_that_the_method_does_not_declare_are_an_error() -> None:
    quantized, _ = planned("hwgq", "1/2", model="resnet_tiny")
    plain = Trial.model_validate({**quantized.model_dump(), "network": ""})
    assert plain.base is not None
    _, weights = train(plain.base)
    result, hardened = train(plain, weights)
    assert (result.status, hardened) == ("failed", None)
    assert "of the unchanged resnet_tiny, and hwgq changes it" in result.reason


@pytest.mark.parametrize("method", ["xnor", "react_net"])
def test_weights_of_the_unchanged_network_are_an_error(method: str) -> None:
    quantized, _ = planned(method)
    plain = quantized.model_copy(update={"prepared": None})
    plain = Trial.model_validate(plain.model_dump())
    assert plain.base is not None
    assert plain.base.prepared is None
    _, weights = train(plain.base)
    result, hardened = train(plain, weights)
    assert (result.status, hardened) == ("failed", None)
    assert result.reason == (
        "the weights that it starts from are of the unchanged convnet_tiny, and "
        f"{method} changes it"
    )


def test_from_scratch_the_network_is_changed_without_a_start() -> None:
    quantized, _ = planned("xnor")
    scratch = quantized.recipe.model_copy(update={"initialization": "scratch"})
    own = {**quantized.model_dump(), "recipe": scratch, "full_precision": None, "prepared": None}
    result, _ = train(Trial.model_validate(own))
    assert result.status == "done", result.reason


@pytest.mark.parametrize("recorded", ["absent", "another"])
def test_a_checkpoint_of_another_start_is_not_used(recorded: str) -> None:
    quantized, base = planned("xnor")
    longer = Recipe.model_validate({**quantized.recipe.model_dump(), "epochs": 2})
    quantized = Trial.model_validate({**quantized.model_dump(), "recipe": longer})
    _, weights = train(base)
    kept = Kept()
    environment = ExecutionEnvironment(checkpoints=kept, checkpoint_seconds=0)
    next(Training(quantized, weights, environment).epochs())
    assert kept.data is not None
    content = unpack(kept.data)
    assert content["source"] == base.key
    again = Training(quantized, weights, ExecutionEnvironment(checkpoints=kept))
    assert [record["epoch"] for record in again.epochs()] == [2], "its own is used"
    if recorded == "absent":
        del content["source"]
    else:
        content["source"] = "0123456789abcdef"
    kept.data = pack(content)
    again = Training(quantized, weights, ExecutionEnvironment(checkpoints=kept))
    assert [record["epoch"] for record in again.epochs()] == [1, 2]

"""What `attach` does with a model and with any method; `Handle`."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.errors import QbenchError
from qbench.method import Layer, Learned, Method
from qbench.quant.attach import attach
from qbench.quant.handle import Handle
from qbench.quant.options import build_method
from qbench.spec.bits import BitWidth, BitWidths

WIDTHS = ["1/32", "2/32", "3/32", "3(±2)/32", "3(±4)/32", "1/1", "1/2", "2/2", "4/4", "32/4"]
NAMES = [name for name in registry.names("methods") if name != "fp32"]


def reason_against(name: str, bits: str) -> str | None:
    return build_method(name, {}).supports(BitWidths.parse(bits), "classification")


REFUSED = [(name, bits) for name in NAMES for bits in WIDTHS if reason_against(name, bits)]


def network() -> nn.Sequential:
    """Two ordinary convolutions, a depthwise one between them, and two linear layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def images(seed: int = 0) -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def train(handle: Handle, steps: int = 2, dtype: torch.dtype = torch.float32) -> None:
    """A few steps of training, as the harness takes them."""
    torch.manual_seed(1)
    handle.model.train()
    optimizer = torch.optim.SGD(handle.parameter_groups(lr=0.05, weight_decay=1e-4), lr=0.05)
    for step in range(steps):
        optimizer.zero_grad()
        backward(handle, images(step).to(dtype))
        optimizer.step()
        handle._after_optimizer_step()


def backward(handle: Handle, x: Tensor) -> None:
    target = torch.arange(len(x)) % 4
    loss = nn.functional.cross_entropy(handle.model(x), target) + handle.regularization_loss()
    loss.backward()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize(("name", "bits"), REFUSED)
def test_a_width_a_method_cannot_do_is_refused_with_the_reason(name: str, bits: str) -> None:
    model = network()
    before = state(model)
    with pytest.raises(QbenchError) as refused:
        attach(model, name, bits=bits, calibration=[images()])
    reason = reason_against(name, bits)
    assert reason
    assert str(refused.value) == f"{name} cannot do {bits}: {reason}"
    assert same(state(model), before)


def attached(method: str = "quantization_networks", bits: str = "2/2") -> Handle:
    """A method on the network, briefly trained."""
    handle = with_method(network(), method, bits)
    train(handle)
    return handle


def with_method(model: nn.Module, method: str, bits: str) -> Handle:
    """A method on all layers of a model, ready for its first epoch."""
    first = next(model.parameters())
    calibration = [images().to(first), images(1).to(first)]
    handle = attach(model, method, bits=bits, layers="all", calibration=calibration)
    handle.on_epoch_start(1, 3, steps=1)
    return handle


def test_hardening_twice_is_hardening_once() -> None:
    handle = attached()
    model = handle.harden().eval()
    with torch.no_grad():
        output = model(images(3))
        assert torch.equal(handle.harden().eval()(images(3)), output)


def test_a_model_detached_after_hardening_still_runs() -> None:
    handle = attached()
    handle.harden()
    assert handle.remove()(images()).isfinite().all()


@pytest.mark.parametrize("end", [Handle.harden, Handle.remove])
def test_hardening_or_detaching_a_deep_copy_leaves_the_original_attached(
    end: Callable[[Handle], nn.Module],
) -> None:
    handle = attached()
    before = state(handle.model)
    with torch.no_grad():
        output = handle.model.eval()(images(3))
        end(copy.deepcopy(handle))
        assert torch.equal(handle.model(images(3)), output)
    assert same(state(handle.model), before)


@pytest.mark.parametrize("end", [Handle.harden, Handle.remove])
def test_after_the_original_was_hardened_or_detached_its_deep_copy_still_works(
    end: Callable[[Handle], nn.Module],
) -> None:
    handle = attached()
    twin = copy.deepcopy(handle.model).eval()
    with torch.no_grad():
        output = twin(images(3))
        end(handle)
        assert torch.equal(twin(images(3)), output)


def test_a_model_can_be_attached_to_again_after_it_was_detached() -> None:
    plain = network()
    handle = attached()
    handle.remove()
    handle.model.load_state_dict(plain.state_dict())
    again = with_method(handle.model, "ste", "4/4")
    fresh = with_method(plain, "ste", "4/4")
    with torch.no_grad():
        assert torch.equal(again.model.eval()(images(3)), fresh.model.eval()(images(3)))


def test_detaching_gives_the_float_model_back() -> None:
    model = network()
    before = state(model)
    handle = with_method(model, "quantization_networks", "2/2")
    assert handle.remove() is model
    assert same(state(model), before)
    assert [type(m) for m in model.modules()] == [type(m) for m in network().modules()]


def test_it_trains_in_float64_after_the_model_was_moved_there() -> None:
    handle = with_method(network(), "quantization_networks", "2/2")
    handle.model.double()
    train(handle, dtype=torch.float64)
    assert {layer.module.weight.dtype for layer in handle.layers} == {torch.float64}


class Doubles(Method):
    """Doubles every output of the layers it is on."""

    weights = Learned()

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module:
        return nn.Identity()

    def output_module(self, layer: Layer) -> nn.Module:
        return Shaped(lambda y: 2 * y)

    def calibrate(self, model: nn.Module, batches: list[Tensor]) -> None:
        assert not model.training
        self.seen = batches


def test_an_output_module_is_between_a_layer_and_the_next_until_it_is_detached() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).train()
    x = torch.ones(1, 2)
    plain = model[0](x)
    handle = attach(model, Doubles(), bits="2/32", layers=["0"])
    assert torch.equal(model[0](x), 2 * plain)
    assert torch.equal(handle.harden()[0](x), 2 * plain)  # type: ignore[index]
    handle.remove()
    assert torch.equal(model[0](x), plain)


def test_a_method_that_calibrates_is_given_the_batches_and_a_model_in_evaluation() -> None:
    method = Doubles()
    model = network().train()
    batches = [(images(), torch.zeros(8)), images(1)]
    attach(model, method, bits="2/32", calibration=iter(batches))
    assert [torch.equal(a, b) for a, b in zip(method.seen, [images(), images(1)], strict=True)]
    assert model.training


# attach -------------------------------------------------------------------------------------


class Shaped(nn.Module):
    """Returns its input in another shape, dtype or kind."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(x)


class Misshapen(Method):
    """Quantizers that do not return what they were given."""

    weights = Learned()
    activations = Learned()
    on: str = "weight"
    change: Any = None

    def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module | None:
        return Shaped(self.change) if self.on == "weight" else None

    def activation_quantizer(self, layer: Layer, sample: Tensor) -> nn.Module | None:
        return Shaped(self.change) if self.on == "activation" else None


def names_of(layers: Any, bits: str = "2/32") -> dict[str, str]:
    """The layers that a policy quantizes, with their widths."""
    handle = attach(network(), "ste", bits=bits, layers=layers, calibration=[images()])
    return {layer.name: f"{layer.weight_bits}/{layer.activation_bits}" for layer in handle.layers}


@pytest.mark.parametrize(
    ("wrote", "meant"), [("twm", "twn"), ("lqnets", "lq_nets"), ("STE", "ste")]
)
def test_an_unknown_method_names_the_nearest(wrote: str, meant: str) -> None:
    with pytest.raises(QbenchError, match=f"'{wrote}'; did you mean '{meant}'"):
        attach(network(), wrote, bits="2/32")


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(
        QbenchError, match="twn: treshold: no such option; did you mean 'threshold'"
    ):
        attach(network(), "twn", bits="2/32", treshold=0.5)


def test_an_option_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(QbenchError, match="write per_tensor, per_channel or per_group"):
        attach(network(), "twn", bits="2/32", scope="network")


def test_options_reach_the_method() -> None:
    handle = attach(network(), "twn", bits="2/32", threshold=1.5)
    assert handle.method.threshold == 1.5  # type: ignore[attr-defined]


def test_a_method_already_built_takes_no_options() -> None:
    built = build_method("twn", {})
    assert attach(network(), built, bits="2/32").method is built
    with pytest.raises(QbenchError, match="options go with a method's name"):
        attach(network(), build_method("twn", {}), bits="2/32", threshold=1.0)


def test_a_misspelt_placement_names_the_nearest_and_leaves_the_model_alone() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(QbenchError, match="is no placement; did you mean 'after_activation'"):
        attach(model, "lsq", bits="2/2", placement="after_activaton", layers="all")  # type: ignore[arg-type]
    assert type(model.self_attn) is nn.MultiheadAttention


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("2", "write weights/activations as 2/32"),
        ("two/32", "'two' is no bit-width"),
        ("9/32", "1 to 8 bits"),
        ("3(±7)/32", "the nearest that does is 3(±4)"),
        ("2/3(±4)", "write 2/3"),
    ],
)
def test_what_is_no_width_is_refused(bits: str, message: str) -> None:
    with pytest.raises(QbenchError, match=re.escape(message)):
        attach(network(), "quantization_networks", bits=bits)


def test_bits_may_be_given_parsed() -> None:
    handle = attach(network(), "ste", bits=BitWidths(BitWidth(3), BitWidth(32)))
    assert {str(layer.weight_bits) for layer in handle.layers} == {"3"}


def test_quantizing_inputs_needs_calibration_data() -> None:
    with pytest.raises(QbenchError, match=r"'3' saw no calibration data.*calibration="):
        attach(network(), "ste", bits="2/2")


def test_quantizing_weights_needs_none() -> None:
    assert len(attach(network(), "quantization_networks", bits="2/32").layers) == 3


@pytest.mark.parametrize(
    "batches",
    [
        [images(), images(1)],
        [(images(), torch.zeros(8)), (images(1), torch.zeros(8))],
        [[images()], [images(1)]],
    ],
    ids=["tensors", "tuples", "lists"],
)
def test_calibration_takes_tensors_or_pairs(batches: list[Any]) -> None:
    handle = attach(network(), "ste", bits="2/2", layers=["0"], calibration=batches)
    quantizer = handle.layers[0].activation_quantizer
    assert quantizer is not None
    largest = max(float(images().abs().max()), float(images(1).abs().max()))
    assert float(quantizer(torch.tensor(1e6))) == pytest.approx(largest)


@pytest.mark.parametrize("trained", [True, False])
def test_calibration_samples_a_layers_own_inputs_as_they_are_in_evaluation(trained: bool) -> None:
    model = network()
    if trained:
        model(images(1))
    plain = copy.deepcopy(model).train(not trained)  # there are no statistics yet to evaluate with
    with torch.no_grad():
        largest = float(plain[:6](images()).max())
    before = state(model)
    handle = attach(model, "ste", bits="32/2", layers=["6"], calibration=[images()])
    quantizer = handle.layers[0].activation_quantizer
    assert quantizer is not None
    assert float(quantizer(torch.tensor(1e6))) == pytest.approx(largest)
    after = state(model)
    assert same({name: after[name] for name in before}, before)


@pytest.mark.parametrize("training", [True, False])
def test_attaching_leaves_modes_and_batch_statistics_alone(training: bool) -> None:
    model = network().train(training)
    model[1].train(not training)
    modes = {name: module.training for name, module in model.named_modules()}
    before = state(model)
    attach(model, "ste", bits="32/4", calibration=[images()])
    found = state(model)
    assert all(torch.equal(found[name], before[name]) for name in before)
    after = dict(model.named_modules())
    assert all(after[name].training is modes[name] for name in modes)


def test_by_default_the_first_and_the_last_layer_stay_full_precision() -> None:
    expected = {"3": "2/4", "6": "2/4", "11": "2/4"}
    assert names_of("skip_first_last", "2/4") == expected
    handle = attach(network(), "ste", bits="2/4", calibration=[images()])
    assert [layer.name for layer in handle.layers] == list(expected)


def test_all_means_all() -> None:
    assert names_of("all") == dict.fromkeys(["0", "3", "6", "11", "13"], "2/32")


@pytest.mark.parametrize(("bits", "ends"), [("2/4", "8/8"), ("2/32", "8/32"), ("32/4", "32/8")])
def test_the_ends_may_have_eight_bits(bits: str, ends: str) -> None:
    middle = dict.fromkeys(["3", "6", "11"], bits)
    assert names_of("first_last_8bit", bits) == {"0": ends, **middle, "13": ends}


def test_the_image_or_the_inputs_of_the_ends_may_stay_full_precision() -> None:
    middle = dict.fromkeys(["3", "6", "11"], "2/4")
    assert names_of("all_but_image", "2/4") == {"0": "2/32", **middle, "13": "2/4"}
    assert names_of("first_last_8bit_weights", "2/4") == {"0": "8/32", **middle, "13": "8/32"}


def test_layers_may_be_listed() -> None:
    assert names_of(["11", "0"]) == {"0": "2/32", "11": "2/32"}


def test_layers_may_each_have_their_widths() -> None:
    found = names_of({"13": "8/8", "3": "4/32", "6": "32/32"})
    assert found == {"3": "4/32", "13": "8/8"}


@pytest.mark.parametrize("layers", [["3", "12"], {"12": "2/32"}])
def test_an_unknown_layer_is_refused(layers: Any) -> None:
    with pytest.raises(QbenchError, match="the model has no conv or linear layer '12'"):
        attach(network(), "ste", bits="2/32", layers=layers)


def test_an_unknown_layer_names_the_nearest() -> None:
    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "classifier": nn.Linear(2, 2)})
    with pytest.raises(QbenchError, match="'clasifier'; did you mean 'classifier'"):
        attach(model, "ste", bits="2/32", layers=["clasifier"])


@pytest.mark.parametrize("layers", [["3"], {"3": "1/1"}])
@pytest.mark.parametrize("name", ["bireal", "react_net"])
def test_a_layer_named_is_quantized_wherever_a_method_moves_it(name: str, layers: Any) -> None:
    model = network()
    named = model.get_submodule("3")
    handle = attach(model, name, bits="1/1", layers=layers, calibration=[images()])
    assert [layer.module for layer in handle.layers] == [named]
    assert handle.model.get_submodule(handle.layers[0].name) is named


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(QbenchError, match="'first_last' is no layer policy; did you mean '"):
        attach(network(), "ste", bits="2/32", layers="first_last")


def test_a_width_in_a_mapping_that_is_none_is_refused() -> None:
    with pytest.raises(QbenchError, match="no bit-width"):
        attach(network(), "ste", bits="2/32", layers={"3": "two/32"})


@pytest.mark.parametrize(
    ("method", "width"), [("bwn", "4/32"), ("twn", "2/2"), ("ste", "3(±2)/32")]
)
def test_a_width_in_a_mapping_that_the_method_cannot_do_is_refused(method: str, width: str) -> None:
    good = "1/32" if method == "bwn" else "2/32"
    with pytest.raises(QbenchError, match=f"{method} cannot do"):
        attach(network(), method, bits=good, layers={"3": width}, calibration=[images()])


@pytest.fixture(params=["weight", "activation"])
def tensor(request: pytest.FixtureRequest) -> str:
    """Which of a layer's two tensors a quantizer is for."""
    return str(request.param)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (torch.flatten, "must keep shape and dtype"),
        (Tensor.double, "must keep shape and dtype"),
        (Tensor.tolist, "not a tensor"),
    ],
)
def test_a_quantizer_that_returns_something_else_is_refused(
    tensor: str, change: Callable[[Tensor], Any], found: str
) -> None:
    method = Misshapen(on=tensor, change=change)
    with pytest.raises((TypeError, ValueError)) as refused:
        attach(network(), method, bits="2/2", layers=["6"], calibration=[images()])
    for part in ("misshapen", f"{tensor} quantizer", "'6'", found):
        assert part in str(refused.value)


def test_what_is_not_quantized_may_have_a_learning_rate_of_its_own() -> None:
    model = registry.build_model("convnet_tiny", 10, 1)
    handle = attach(model, "lsq", bits="4/32")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    quantized, other, learned = handle.parameter_groups(0.1, 5e-4, other_lr=0.001)
    assert {names[id(p)] for p in quantized["params"]} == {
        f"{layer}.parametrizations.weight.original" for layer in (3, 7, 10)
    }
    assert len(other["params"]) + len(quantized["params"]) + len(learned["params"]) == len(names)
    assert (quantized["lr"], other["lr"], learned["lr"]) == (0.1, 0.001, 0.1)
    assert quantized["weight_decay"] == other["weight_decay"] == 5e-4


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (["*"], ["0", "3", "6", "11", "13"]),
        (["1*"], ["11", "13"]),
        (["*", "!0"], ["3", "6", "11", "13"]),
        (["*", "!1*", "13"], ["0", "3", "6", "13"]),
        ({"*": "4/32", "1*": "8/32"}, ["0", "3", "6", "11", "13"]),
    ],
)
def test_layers_may_be_patterns_and_left_out_again(layers: Any, names: list[str]) -> None:
    assert list(names_of(layers)) == names


def test_a_later_pattern_of_a_mapping_counts() -> None:
    assert names_of({"*": "4/32", "1*": "8/32"})["11"] == "8/32"


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(QbenchError, match=r"no conv or linear layer 'head\.\*'"):
        attach(network(), "ste", bits="2/32", layers=["head.*"])


class Headed(nn.Module):
    """A network with an auxiliary head that is called in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8))
        self.aux = nn.Linear(8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x) + self.aux(x) if self.training else self.head(x)


def test_a_layer_that_is_never_called_in_evaluation_is_named_with_a_way_out() -> None:
    x = torch.randn(4, 6)
    with pytest.raises(QbenchError, match="'aux': never called in evaluation") as refused:
        attach(Headed(), "ste", bits="2/2", calibration=[x])
    assert "leave it out with layers=['*', '!aux']" in str(refused.value)
    assert attach(Headed(), "ste", bits="2/2", layers=["*", "!aux"], calibration=[x]).layers


def test_the_projections_of_attention_are_layers() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    handle = attach(model, "lsq", bits="2/2", layers="all", calibration=[torch.randn(2, 3, 8)])
    names = [layer.name for layer in handle.layers]
    assert names == ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2"]


@pytest.mark.parametrize(("method", "options", "factor"), [
    ("lsq", {}, 1.0), ("qil", {}, 0.01), ("ewgs", {"lr_factor": 0.5}, 0.5),
    ("quantization_networks", {"lr_factor": 0.25}, 0.25),
])  # fmt: skip
def test_quantizers_learn_at_the_rate_of_their_method_without_decay(
    method: str, options: dict[str, Any], factor: float
) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.rand(16, 8)
    handle = attach(model, method, bits="2/2", layers="all", calibration=[x], **options)
    network, quantizers = handle.parameter_groups(lr=0.3, weight_decay=1e-4)
    assert network["weight_decay"] == 1e-4
    assert (quantizers["lr"], quantizers["weight_decay"]) == (0.3 * factor, 0.0)


def test_one_tensor_in_place_of_batches_is_refused() -> None:
    with pytest.raises(QbenchError, match=r"pass a list of batches, as in \[images\]"):
        attach(network(), "ste", bits="2/2", calibration=images())


@pytest.mark.parametrize("epoch", [0, 4])
def test_an_epoch_that_is_none_of_training_is_refused(epoch: int) -> None:
    handle = attach(network(), "quantization_networks", bits="2/32")
    with pytest.raises(ValueError, match=f"epoch {epoch} of 3"):
        handle.on_epoch_start(epoch, 3, steps=1)


def test_a_method_without_levels_is_told_to_declare_some() -> None:
    class Undeclared(Method):
        """Declares nothing."""

    with pytest.raises(QbenchError, match="declares no levels"):
        attach(network(), Undeclared(), bits="2/2")

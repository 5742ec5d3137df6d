"""Coverage: which share of weights and multiply-adds is quantized."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qbench import registry
from qbench.errors import QbenchError
from qbench.quant.attach import attach
from qbench.spec.policies import LayerPolicy
from tests.helpers.flops import counted_by_torch
from tests.helpers.transformers import Functional, Recurrent, tiny_swin, tiny_vit

TRANSFORMERS = {
    "vit": (tiny_vit, (3, 8, 8)),
    "swin": (tiny_swin, (3, 16, 16)),
    "encoder": (
        lambda: nn.Sequential(
            nn.Linear(16, 16),
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
            nn.Linear(16, 3),
        ),
        (5, 16),
    ),
}


def small() -> nn.Sequential:
    """64, 64 and 16 weights; as many multiply-adds."""
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))


def test_shares_are_those_counted_by_hand() -> None:
    x = torch.randn(4, 8)
    found = attach(small(), "lsq", bits="2/2", calibration=[x]).coverage()
    assert found.weights == found.multiply_adds == pytest.approx(64 / 144)
    assert found.weight_operands == found.activation_operands == pytest.approx(64 / 144)
    assert [(each.parameter, each.elements, each.multiply_adds) for each in found.left_out] == [
        ("0.weight", 64, 2 * 64),
        ("3.weight", 16, 2 * 16),
    ]
    assert not found.partly


def test_weights_alone_leave_activations() -> None:
    found = attach(small(), "twn", bits="2/32", layers="all").coverage(torch.randn(1, 8))
    assert (found.weights, found.weight_operands) == (1, 1)
    assert (found.activation_operands, found.multiply_adds) == (0, 0)
    assert found.float_inputs == ("0", "2", "3")
    assert not found.partly


def test_a_policy_of_names_promises_these_layers() -> None:
    found = attach(small(), "twn", bits="2/32", layers=["0"]).coverage(torch.randn(1, 8))
    assert found.weights == pytest.approx(64 / 144)
    assert not found.partly


@pytest.mark.parametrize(
    ("layers", "float_inputs"),
    [
        ("all_but_image", ("0",)),
        ("first_last_8bit_weights", ("0", "3")),
        ({"0": "8/32", "2": "2/2"}, ("0", "3")),
    ],
)
def test_inputs_that_a_policy_leaves_at_full_precision_are_not_missing(
    layers: LayerPolicy, float_inputs: tuple[str, ...]
) -> None:
    x = torch.randn(4, 8)
    found = attach(small(), "lsq", bits="2/2", layers=layers, calibration=[x]).coverage()
    assert found.float_inputs == float_inputs
    assert not found.partly


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("bits", ["2/32", "2/2"])
def test_transformers_are_covered_but_for_the_ends(name: str, bits: str) -> None:
    build, shape = TRANSFORMERS[name]
    x = torch.randn(2, *shape)
    model = build()
    handle = attach(model, "lsq", bits=bits, calibration=[x])
    found = handle.coverage(x)
    assert len(found.left_out) == 2
    assert not found.partly
    if bits == "2/2":
        assert len(found.float_inputs) == 2  # the first and the last layer
    handle.harden()
    assert handle.coverage(x).shares == found.shares


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_train_with_quantized_activations(name: str) -> None:
    build, shape = TRANSFORMERS[name]
    x = torch.randn(2, *shape)
    handle = attach(build(), "lsq", bits="2/2", calibration=[x])
    handle.model.train()(x).square().mean().backward()
    learned = [p for q in handle.quantizers for p in q.parameters()]
    assert learned
    assert all(p.grad is not None for p in learned)
    expected = handle.model.eval()(x)
    assert torch.allclose(handle.harden()(x), expected, atol=1e-5)


def test_inputs_of_attention_have_no_more_levels_than_promised() -> None:
    x = torch.randn(2, 3, 8, 8)
    handle = attach(tiny_vit(), "lsq", bits="2/2", calibration=[x])
    model = handle.harden()
    seen: dict[str, int] = {}
    for place in handle.places:
        hook = lambda m, a, y, name=place.name: seen.__setitem__(name, len(y.unique()))  # noqa: E731
        assert place.activation_quantizer is not None
        place.activation_quantizer.register_forward_hook(hook)
    with torch.no_grad():
        model(x)
    parts = ("in_proj", "query", "key", "softmax", "value", "out_proj")
    where = "encoder.layers.encoder_layer_0.self_attention"
    assert all(1 < seen[f"{where}.{part}"] <= 4 for part in parts)


def test_removing_the_quantizers_restores_a_transformer() -> None:
    model, x = tiny_vit().eval(), torch.randn(2, 3, 8, 8)
    expected, names = model(x), set(model.state_dict())
    attach(model, "lsq", bits="2/2", calibration=[x]).remove()
    assert torch.equal(model(x), expected)
    assert set(model.state_dict()) == names


def test_levels_that_start_at_zero_are_refused_inside_attention() -> None:
    with pytest.raises(QbenchError, match=r"self_attention.in_proj' has \d+ % negative values"):
        attach(tiny_vit(), "dorefa", bits="2/2", calibration=[torch.randn(2, 3, 8, 8)])


def test_attention_with_keys_of_its_own_is_refused() -> None:
    attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    with pytest.raises(QbenchError, match="'0' adds a key"):
        attach(nn.Sequential(attention), "twn", bits="2/32", layers="all")


def test_recurrent_layers_and_bare_parameters_are_named() -> None:
    found = attach(Recurrent(), "twn", bits="2/32", layers="all").coverage(torch.tensor([[1, 2]]))
    assert found.left_out[0].parameter == "lstm.weight_ih_l0"
    assert len(found.left_out) == 8
    assert "LSTM" in found.left_out[0].why
    assert found.partly == "'lstm.weight_ih_l0' and 7 more in full precision"
    model = nn.Sequential(Functional(), nn.Linear(2, 2))
    found = attach(model, "twn", bits="2/32", layers="all").coverage(torch.randn(1, 3, 8, 8))
    names = {each.parameter for each in found.left_out}
    assert names == {"0.kernel", "0.gain", "0.matrix", "0.last"}


def test_what_a_method_leaves_out_is_named() -> None:
    from qbench.method import Layer, Method, Uniform

    class Half(Method):
        weights = Uniform()

        def weight_quantizer(self, layer: Layer, weight: Tensor) -> nn.Module | None:
            return nn.Identity() if layer.name == "2" else None

    found = attach(small(), Half(), bits="2/32", layers="all").coverage(torch.randn(1, 8))
    why = {each.parameter: each.why for each in found.left_out}
    assert why["0.weight"] == "the method leaves it at full precision"
    assert found.partly == "'0.weight' and 1 more in full precision"


def test_without_calibration_data_a_batch_is_needed() -> None:
    with pytest.raises(QbenchError, match="pass a batch"):
        attach(small(), "twn", bits="2/32").coverage()


def shares_by_torch(model: nn.Module, x: Tensor, ends: tuple[str, str]) -> tuple[float, float]:
    """Shares of the multiply-adds that are not of the ends, of all and of those with a weight.

    They follow from what torch counts in each module of the network without quantizers.
    """
    counts = counted_by_torch(model, x).get_flop_counts()
    total = sum(counts["Global"].values())
    inside = sum(
        n for op, n in counts["Global"].items() if "attention" in str(op) or "bmm" in str(op)
    )
    outside = sum(sum(counts[f"{type(model).__name__}.{name}"].values()) for name in ends)
    assert inside > 0 < outside
    return 1 - outside / total, 1 - outside / (total - inside)


@pytest.mark.parametrize(
    ("name", "shape", "ends"),
    [
        ("vit_tiny", (1, 14, 14), ("embed", "head")),
        pytest.param(
            *("vit_b_32", (3, 224, 224), ("conv_proj", "heads.head")), marks=pytest.mark.slow
        ),
    ],
)
def test_the_share_of_a_transformer_is_that_of_torch(
    name: str, shape: tuple[int, int, int], ends: tuple[str, str]
) -> None:
    model, x = registry.build_model(name, 10, shape[0]).eval(), torch.randn(2, *shape)
    every, weighted = shares_by_torch(model, x, ends)
    found = attach(model, "lsq", bits="2/2", calibration=[x]).coverage(x)
    assert found.multiply_adds == pytest.approx(every, abs=1e-9)
    assert found.weight_operands == pytest.approx(weighted, abs=1e-9)

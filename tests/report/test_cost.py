from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from qbench import registry
from qbench.data import Dataset
from qbench.data.digits import Digits
from qbench.method import Granularity, Layer, Method, PerChannel, PerGroup, PerTensor, Uniform
from qbench.quant.options import build_method, method_options
from qbench.report.cost import Cost, Footprints, MultiplyAdds, cost, multiply_adds
from qbench.spec.bits import BitWidth
from qbench.spec.recipe import Recipe
from qbench.spec.trial import Preparation, Trial

PER_TENSOR = PerTensor()
RECIPE = Recipe(epochs=1, batch_size=1, optimizer="sgd", lr=0.1)


def small() -> nn.Module:
    """On digits of 1×8×8: 144 weights, 16 biases and norms; 36 outputs on 6×6, then 40 × 3."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),  # 36 weights; 4·6·6 outputs × 9 = 1296 multiply-adds
        nn.BatchNorm2d(4),  # 8 parameters
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2, padding=1),  # 72 weights, 4 biases; 144 × 18 = 2592
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),  # 40 weights, 10 biases; 40
    ).eval()


def layer(
    model: nn.Module,
    name: str,
    weight: int,
    activation: int,
    granularity: Granularity = PER_TENSOR,
) -> Layer:
    levels = Uniform(granularity=granularity) if weight < 32 else None
    module, widths = model.get_submodule(name), (BitWidth(weight), BitWidth(activation))
    return Layer(name, module, *widths, weight_levels=levels)


def test_multiply_adds_are_those_counted_by_hand() -> None:
    counted = multiply_adds(small(), Digits())
    assert counted.by_layer == {"0": 1296, "3": 2592, "6": 40}
    assert counted.total == 1296 + 2592 + 40


def test_full_precision_has_32_bits_everywhere() -> None:
    model = small()
    parameters = 36 + 8 + 72 + 4 + 40 + 10
    assert cost(model, [], multiply_adds(model, Digits())) == Cost(
        32 * parameters, 32 * 32 * (1296 + 2592 + 40)
    )


def test_a_quantized_layer_is_packed_with_its_scales() -> None:
    model = small()
    found = cost(model, [layer(model, "3", 2, 4)], multiply_adds(model, Digits()))
    rest = 36 + 8 + 4 + 40 + 10
    assert found.weight_bits == 32 * rest + 2 * 72 + 2 * 32
    assert found.bops == 1024 * (1296 + 40) + 2 * 4 * 2592
    assert found.megabytes == found.weight_bits / 8 / 1e6
    assert found.gbops == found.bops / 1e9


def test_each_filter_has_scales_where_levels_are_its_own() -> None:
    model = small()
    counted = multiply_adds(model, Digits())
    whole = cost(model, [layer(model, "3", 2, 4)], counted).weight_bits
    by_filter = cost(model, [layer(model, "3", 2, 4, PerChannel())], counted).weight_bits
    assert by_filter - whole == (4 - 1) * 2 * 32
    by_group = cost(model, [layer(model, "3", 2, 4, PerGroup(10))], counted).weight_bits
    assert by_group - whole == (4 * 2 - 1) * 2 * 32  # 18 weights of a filter: 10, and 8 left


def test_a_weight_that_layers_share_is_counted_once() -> None:
    first, second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    layers = [layer(model, name, 2, 2) for name in ("0", "1")]
    counted = MultiplyAdds(2 * 64**2, {"0": 64**2, "1": 64**2})
    assert cost(model, layers, counted).weight_bits == 2 * 64**2 + 2 * 32


def test_full_precision_weights_of_a_layer_stay_as_they_are() -> None:
    model = small()
    counted = multiply_adds(model, Digits())
    found = cost(model, [layer(model, "3", 32, 2)], counted)
    assert found.weight_bits == cost(model, [], counted).weight_bits
    assert found.bops == 1024 * (1296 + 40) + 32 * 2 * 2592


def trial(method: str, bits: str, dataset: Dataset, **more: object) -> Trial:
    values = {
        "method": method,
        "options": method_options(build_method(method, {})),
        "model": "convnet_tiny",
        "dataset": type(dataset).__name__.lower(),
        "task": dataset.task,
        "bits": bits,
        "recipe": RECIPE,
        "seed": 0,
    }
    return Trial.model_validate({**values, **more})


def test_a_trials_network_is_counted_without_memory() -> None:
    digits = Digits()
    found = Footprints(digits).of(trial("lsq", "2/32", digits, layers="first_last_8bit"))
    assert found is not None
    assert (found.first_layer, found.last_layer) == ("8/32", "8/32")
    assert found.full.megabytes / found.cost.megabytes > 8
    full = Footprints(digits).of(trial("fp32", "32/32", digits))
    assert full is not None
    assert full.cost == full.full == found.full
    assert (full.first_layer, full.last_layer) == ("32/32", "32/32")


def test_resnet18_has_what_is_known_of_it() -> None:
    imagenet = registry.build_dataset("imagenet", {"root": "nowhere"})
    found = Footprints(imagenet).of(trial("dorefa", "1/2", imagenet, model="resnet18"))
    assert found is not None
    assert found.full.weight_bits == 32 * 11_689_512
    assert found.full.bops == 1024 * 1_814_073_344
    assert found.cost.megabytes == pytest.approx(3.52, abs=0.01)


def test_a_widened_network_is_counted_as_it_is() -> None:
    digits = Digits()
    options = method_options(build_method("wrpn", {"widen": 2}))
    wide = Footprints(digits).of(trial("wrpn", "2/2", digits, options=options))
    narrow = Footprints(digits).of(trial("wrpn", "2/2", digits))
    assert wide is not None
    assert narrow is not None
    assert wide.full == narrow.full
    assert wide.cost.bops > 2 * narrow.cost.bops


def test_a_declared_network_costs_what_it_is() -> None:
    digits = Digits()
    own = {"model": "resnet_tiny", "options": method_options(build_method("hwgq", {}))}
    found = Footprints(digits).of(trial("hwgq", "1/2", digits, network="hwgq_resnet8", **own))
    plain = Footprints(digits).of(trial("hwgq", "1/2", digits, **own))
    assert found is not None
    assert plain is not None
    assert found.full == plain.full, "that of the model"
    norms = 2 * (16 + 32)  # of the inputs of all blocks but the first
    assert found.cost.weight_bits - plain.cost.weight_bits == 32 * norms


def test_a_method_that_breaks_costs_its_own_columns_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(Method):
        def prepare(self, model: nn.Module, bits: object) -> nn.Module:
            raise RuntimeError("no such luck")

    monkeypatch.setitem(registry._of_files["methods"], "broken", Broken)
    digits = Digits()
    assert Footprints(digits).of(trial("broken", "2/2", digits)) is None


def test_a_detector_is_counted_too(tmp_path: Path) -> None:
    shapes = registry.build_dataset("shapes", {"root": str(tmp_path)})
    model = "ssd_tiny"
    found = Footprints(shapes).of(trial("dorefa", "2/2", shapes, model=model))
    assert found is not None
    assert 1 < found.full.bops / found.cost.bops < 256
    network = registry.build_model(model, shapes.num_classes, 3)
    assert found.full.weight_bits == 32 * sum(p.numel() for p in network.parameters())


def test_a_changed_network_in_full_precision_costs_what_it_is() -> None:
    change = Preparation(method="wrpn", options={"widen": 2}, bits="1/1")
    own = {"method": "fp32", "bits": "32/32", "recipe": RECIPE, "seed": 0}
    where = {"model": "convnet_tiny", "dataset": "digits", "task": "classification"}
    plain = Trial.model_validate({**own, **where})
    wide = Trial.model_validate({**own, **where, "prepared": change})
    footprints = Footprints(Digits())
    one, other = footprints.of(plain), footprints.of(wide)
    assert one is not None
    assert other is not None
    assert other.full == one.full == one.cost
    assert 3 < other.cost.weight_bits / one.cost.weight_bits < 4
    assert 3 < other.cost.bops / one.cost.bops < 4


@pytest.mark.parametrize("model", ["swin_t", "vit_b_32"])
def test_layers_that_are_not_called_cost_what_their_weights_cost(model: str) -> None:
    imagenet = registry.build_dataset("imagenet", {"root": "nowhere"})
    found = Footprints(imagenet).of(trial("lsq", "2/32", imagenet, model=model))
    assert found is not None
    counted = found.full.bops / 1024
    with torch.device("meta"):
        network = registry.build_model(model, 1000, 3).eval()
    by_layer = multiply_adds(network, imagenet).by_layer
    assert all(by_layer.values())
    names = list(by_layer)
    inner = sum(count for name, count in by_layer.items() if name not in (names[0], names[-1]))
    assert found.cost.bops == 1024 * (counted - inner) + 64 * inner


def test_products_of_attention_cost_the_widths_of_their_factors() -> None:
    imagenet = registry.build_dataset("imagenet", {"root": "nowhere"})
    footprints = Footprints(imagenet)
    float_inputs, both = (
        footprints.of(trial("lsq", bits, imagenet, model="vit_b_32")) for bits in ("2/32", "2/4")
    )
    assert float_inputs is not None
    assert both is not None
    products = 12 * 2 * 50**2 * 768  # layers, products, tokens, channels
    ends = 1024 * (49 * 3 * 32**2 * 768 + 768 * 1000)
    inner = (float_inputs.cost.bops - ends - 1024 * products) // 64  # multiply-adds
    assert both.cost.bops == ends + 4 * 4 * products + 2 * 4 * inner


REGNETS = ["regnet_x_400mf", "regnet_y_400mf"]
LARGER = [
    *(f"regnet_x_{size}" for size in ("800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")),
    *(f"regnet_y_{size}" for size in ("800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf", "128gf")),
]


@pytest.mark.parametrize(
    "model", [*REGNETS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)]
)
def test_a_network_that_cannot_be_built_on_the_meta_device_has_a_cost(model: str) -> None:
    imagenet = registry.build_dataset("imagenet", {"root": "nowhere"})
    footprints = Footprints(imagenet)
    found = footprints.of(trial("lsq", "2/32", imagenet, model=model))
    assert not footprints.problems
    assert found is not None
    assert 10 < found.full.bops / found.cost.bops < 16


def test_a_shared_weight_belongs_to_the_layer_that_computes_with_it() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64)).eval()
    model[2].weight = model[1].weight
    assert multiply_adds(model, Digits()).by_layer == {"1": 64**2, "2": 64**2}

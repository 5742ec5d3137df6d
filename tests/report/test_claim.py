from __future__ import annotations

from typing import Any

import pytest

from qbench import registry
from qbench.quant.options import build_method
from qbench.report.claim import Likeness, likeness
from qbench.suite.grid import expand
from qbench.suite.suite import Published, Suite

IMAGENET = {
    "name": "s",
    "dataset": "imagenet",
    "models": ["resnet18"],
    "bits": ["2/32"],
    "methods": [{"method": "quantization_networks"}],
    "seeds": [0],
    "recipe": {"name": "paper"},
    "data": {"root": "nowhere"},
}
TABLE_2 = {"paper": "arXiv:1911.09464", "table": "2", "dataset": "imagenet", "model": "resnet18"}


def of(
    rehearsal: bool = False,
    published: dict[str, str] = TABLE_2,
    network: str | None = None,
    **changes: Any,
) -> Likeness:
    """How like the published setting the last trial of a suite is."""
    suite = Suite.model_validate({**IMAGENET, **changes})
    planned = expand(suite, rehearsal)[-1]
    dataset = registry.build_dataset(suite.dataset, suite.data)
    method = build_method(planned.trial.method, planned.trial.options)
    wanted = Published.model_validate(published)
    return likeness(planned, wanted, suite, dataset, method, network)


def test_the_papers_own_setting_is_judged_without_a_word() -> None:
    assert of() == Likeness()


@pytest.mark.parametrize(
    ("changes", "unlike"),
    [
        ({"dataset": "digits", "data": {}, "models": ["convnet_tiny"]}, "imagenet, not digits"),
        ({"models": ["resnet50"]}, "published for resnet18, not resnet50"),
        ({"recipe": {"name": "paper", "changes": {"epochs": 2}}}, "2 of 55 epochs"),
        ({"recipe": {"name": "paper", "changes": {"steps": 9}}}, "epochs of 9 steps"),
        ({"data": {"root": "nowhere", "image_size": 64}}, "other data than the original"),
    ],
)
def test_another_setting_is_not_judged(changes: dict[str, Any], unlike: str) -> None:
    assert unlike in of(**changes).unlike


@pytest.mark.parametrize(
    ("method", "bits", "unlike"),
    [
        ("xnor", "1/1", "another network: the authors' resnet18 is not public"),
        ("abc_net", "1/1", "another network: the authors' code is not public"),
        ("abc_net", "5/32", ""),
        ("hwgq", "1/2", ""),
        ("tbn", "1/2", ""),
    ],
)
def test_a_network_that_is_not_the_authors_is_not_judged(
    method: str, bits: str, unlike: str
) -> None:
    assert of(methods=[{"method": method}], bits=[bits]).unlike == unlike


def test_a_network_with_its_quantizers_elsewhere_is_not_judged() -> None:
    def unlike(**row: Any) -> str:
        rows = [{"method": "quantization_networks", **row}]
        return of(methods=rows, bits=["2/2"]).unlike

    assert unlike() == unlike(placement="after_activation") == ""
    assert unlike(placement="layer_inputs") == (
        "activations quantized at layer_inputs, not after_activation"
    )


@pytest.mark.parametrize(
    ("network", "departure"),
    [
        ("resnet18", ""),
        ("preact_resnet18", "published for preact_resnet18, not resnet18"),
        ("the ResNet of its code", "published for the ResNet of its code, not resnet18"),
        ("", "the network of the number is not known"),
        (None, ""),
    ],
)
def test_a_network_is_compared_with_that_of_the_number(network: str | None, departure: str) -> None:
    found = of(methods=[{"method": "lq_nets"}], network=network)
    assert (found.unlike, found.network) == (departure, departure)


def test_the_network_that_a_method_declares_is_compared() -> None:
    rows = [{"method": "hwgq"}]
    assert of(methods=rows, bits=["1/2"], network="hwgq_resnet18").network == ""
    found = of(methods=rows, bits=["1/2"], network="resnet18")
    assert found.network == "published for resnet18, not hwgq_resnet18"


def test_the_declared_network_may_depend_on_the_bit_widths() -> None:
    rows = [{"method": "lq_nets"}]
    assert of(methods=rows, bits=["1/2"], network="preact_resnet18").network == ""
    assert of(methods=rows, bits=["2/32"], network="resnet18").network == ""


def test_a_network_may_be_named_by_the_suite_in_place_of_the_tables_model() -> None:
    rows = [{"method": "lq_nets"}]
    changes: dict[str, Any] = {"models": ["preact_resnet18"], "methods": rows, "bits": ["1/2"]}
    assert of(**changes, network="preact_resnet18") == Likeness()
    assert of(**changes).network == "published for resnet18, not preact_resnet18"


def test_a_network_departs_by_the_places_of_its_quantizers_too() -> None:
    rows = [{"method": "pact", "placement": "after_activation"}]
    found = of(methods=rows, bits=["1/2"], network="resnet18")
    assert found.network == "activations quantized at after_activation, not layer_inputs"


def test_a_rehearsal_departs_and_its_network_does_not() -> None:
    found = of(rehearsal=True, network="resnet18")
    assert (found.unlike, found.network) == ("a rehearsal", "")


def test_a_rehearsal_is_not_judged() -> None:
    assert "a rehearsal" in of(rehearsal=True).unlike


def test_epochs_that_a_row_has_from_its_sources_are_no_shortening() -> None:
    rows = [{"method": "quantization_networks", "recipe": {"epochs": 35}}]
    assert of(methods=rows).unlike == ""


def test_a_paper_s_epochs_may_be_shorter_than_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    method = registry.method_class("quantization_networks")
    own = method.paper_recipe
    assert own is not None
    monkeypatch.setattr(method, "paper_recipe", own.model_copy(update={"steps": 9}))
    assert of().unlike == ""
    assert of(recipe={"name": "paper", "changes": {"steps": 8}}).unlike == "epochs of 8 steps"


def test_departures_that_leave_a_claim_to_be_judged_are_told() -> None:
    recipe = {"name": "aligned", "changes": {"epochs": 60, "lr": 0.5}}
    assert of(recipe=recipe, layers="all") == Likeness(
        "", "recipe aligned; epochs 60; lr 0.5; layers all, not skip_first_last"
    )


def test_layers_chosen_by_name_are_told_in_short() -> None:
    assert of(layers=["layer1.0.conv1"]).apart == "layers chosen by name, not skip_first_last"


def test_a_detector_is_not_measured_by_a_classifiers_epochs() -> None:
    table = {**TABLE_2, "dataset": "voc07", "model": "ssd300_vgg16"}
    rows = [{"method": "lq_nets"}]
    found = of(published=table, dataset="voc", models=["ssd300_vgg16"], methods=rows, recipe={})
    assert (found.unlike, found.apart) == ("", "recipe aligned")


def test_voc_is_known_by_the_name_of_its_papers() -> None:
    table = {**TABLE_2, "table": "4", "dataset": "voc07", "model": "ssd300_vgg16"}
    assert of(published=table, dataset="voc", models=["ssd300_vgg16"]).unlike == ""

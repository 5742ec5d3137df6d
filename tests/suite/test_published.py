from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from qbench import registry
from qbench.errors import QbenchError
from qbench.spec.bits import BitWidths
from qbench.suite.bundled import bundled_folder
from qbench.suite.published import PublishedNumbers, differences
from qbench.suite.suite import MethodRow, Published

QN = MethodRow(method="quantization_networks")


def table(number: str, model: str, results: Path = Path("nowhere")) -> PublishedNumbers:
    wanted = Published(paper="arXiv:1911.09464", table=number, dataset="imagenet", model=model)
    return PublishedNumbers(results, wanted)


def test_words_that_select_no_number_are_a_mistake() -> None:
    numbers = table("2", "resnet18")
    assert numbers.check(QN) == ""
    wrong = numbers.check(QN.model_copy(update={"published": "fine tuned"}))
    assert "quantization_networks: no note of arXiv:1911.09464, Table 2, resnet18 has the" in wrong
    assert "'fine tuned' of published" in wrong


@pytest.mark.parametrize(
    ("bits", "top1"),
    [
        ("1/32", 66.5),
        ("2/32", 69.1),
        ("3(±2)/32", 69.9),
        ("3(±4)/32", 70.4),
        ("3/32", None),  # −3…3, which the paper has not
        ("5/32", 70.6),
        ("1/1", 53.6),
        ("1/2", 63.4),
        ("32/2", 65.7),
        ("4/32", None),
    ],
)
def test_a_width_finds_the_number_of_its_own_levels(bits: str, top1: float | None) -> None:
    """Table 2 of the paper, read there."""
    found = table("2", "resnet18").find(QN, BitWidths.parse(bits))
    assert (found and found.values["top1"]) == top1


def test_a_number_says_where_it_is_from() -> None:
    found = table("2", "resnet18").find(QN, BitWidths.parse("1/1"))
    assert found is not None
    assert found.source == (
        "resnet18 on imagenet, where full precision has 70.3 (arXiv:1911.09464, Table 2)"
    )


def test_a_source_without_tables_is_named_alone() -> None:
    wanted = Published(
        paper="zkkli/RepQ-ViT README", dataset="imagenet", model="timm:deit_tiny_patch16_224"
    )
    row = MethodRow(method="rep_q_vit")
    found = PublishedNumbers(Path("nowhere"), wanted).find(row, BitWidths.parse("4/4"))
    assert found is not None
    assert found.values == {"top1": 57.43}
    assert found.source == (
        "timm:deit_tiny_patch16_224 on imagenet, where full precision has 72.21 "
        "(zkkli/RepQ-ViT README)"
    )


def test_one_of_several_rows_is_chosen_by_its_note() -> None:
    ablation = table("5", "alexnet_bn")
    bits = BitWidths.parse("2/32")
    assert ablation.find(QN, bits) is None
    uniform = ablation.find(QN.model_copy(update={"published": "linear (uniform)"}), bits)
    k_means = ablation.find(QN.model_copy(update={"published": "non-uniform"}), bits)
    assert uniform is not None
    assert k_means is not None
    assert (uniform.values["top1"], k_means.values["top1"]) == (60.6, 60.9)


@pytest.mark.parametrize(
    ("number", "model", "message"),
    [
        ("77", "resnet18", "published.table '77'"),
        ("5", "alexnet", "published.model 'alexnet'; did you mean 'alexnet_bn'"),
    ],
)
def test_a_table_that_is_not_there_is_named(number: str, model: str, message: str) -> None:
    with pytest.raises(QbenchError, match=message):
        table(number, model)


def test_the_file_in_the_results_folder_comes_first(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text("paper,table\n")
    with pytest.raises(QbenchError, match=r"published\.csv: has no column 'dataset'"):
        table("2", "resnet18", tmp_path)


@pytest.mark.parametrize(
    ("method", "bits", "network"),
    [
        ("quantization_networks", "1/1", "resnet18"),
        ("lq_nets", "2/32", "resnet18"),
        ("lq_nets", "1/2", "preact_resnet18"),
        ("hwgq", "1/2", "hwgq_resnet18"),
        ("xnor", "1/1", ""),
    ],
)
def test_a_number_names_the_network_that_it_was_measured_on(
    method: str, bits: str, network: str
) -> None:
    found = table("2", "resnet18").find(MethodRow(method=method), BitWidths.parse(bits))
    assert found is not None
    assert found.network == network


def test_networks_of_numbers_are_models_or_described() -> None:
    frame = pd.read_csv(bundled_folder() / "published.csv", dtype=str, keep_default_na=False)
    for name in {name for name in frame["network"] if name and not name.startswith("the ")}:
        registry.check_model_name(name)


def test_a_file_without_networks_says_nothing_of_them(tmp_path: Path) -> None:
    frame = pd.read_csv(bundled_folder() / "published.csv", dtype=str, keep_default_na=False)
    frame.drop(columns="network").to_csv(tmp_path / "published.csv", index=False)
    found = table("2", "resnet18", tmp_path).find(QN, BitWidths.parse("1/1"))
    assert found is not None
    assert found.network is None


def test_differences_are_between_methods_of_one_table_at_the_same_bits(tmp_path: Path) -> None:
    columns = pd.read_csv(bundled_folder() / "published.csv", nrows=0).columns
    rows = [
        ("P", "1", "lsq", "2", "2", "70.0"),
        ("P", "1", "pact", "2", "2", "68.5"),
        ("P", "1", "pact", "4", "4", "69.0"),
        ("P", "2", "pact", "2", "2", "10.0"),
        ("P", "1", "lsq", "2", "2", "69.0"),
        ("P", "1", "fp32", "2", "2", "71.0"),
        ("P", "1", "dorefa", "2", "2", ""),
    ]
    names = ["paper", "table", "method", "w_bits", "a_bits", "top1"]
    frame = pd.DataFrame(rows, columns=names).reindex(columns=columns, fill_value="")
    frame.to_csv(tmp_path / "published.csv", index=False)
    assert differences(tmp_path, "top1") == {("2", "2"): [1.5, 0.5], ("4", "4"): []}
    assert differences(tmp_path, "test_loss") == {}
    assert len(differences(Path("nowhere"), "top1")["2", "2"]) > 10

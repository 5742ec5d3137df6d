from __future__ import annotations

from tests.helpers.frames import full, texts, trials
from tests.helpers.tables import (
    best,
    only,
)


def test_one_seed_has_no_deviation() -> None:
    found = only(trials("A", 97.224), full(98.6))
    assert texts(found) == {"A": ["97.22"]}
    assert "one seed (n = 1)" in found.caption
    assert "Full precision: 98.60 (n = 1)." in found.caption


def test_the_caption_says_what_the_numbers_are() -> None:
    found = only(full(98.45, 98.61, 98.77), trials("A", 97.0, 98.0, 99.0))
    assert found.caption == (
        "net on digits: top-1 accuracy in % on the test split, of the hard-quantized network "
        "after the last epoch, mean ± standard deviation over n = 3 seeds; recipe aligned: every "
        "method trained by the same recipe, 20 epochs. Full precision: 98.61 ± 0.16 (n = 3)."
    )


def test_the_caption_names_the_papers_recipes() -> None:
    assert (
        "recipe paper: each method's published recipe."
        in only(trials("A", 97.0, recipe="paper")).caption
    )


def test_a_tuned_table_counts_studies() -> None:
    rows = (trials("A", 97.0, 98.0, recipe="tuned"), trials("B", 90.0, 91.1, recipe="tuned"))
    found = only(full(99.0, 99.0), *rows)
    assert "mean ± standard deviation over n = 2 studies; recipe tuned:" in found.caption
    assert "A study is the mean over the fresh seeds of its winner." in found.caption
    assert "Differences that n = 2 studies find with a power of 80 %" in found.caption
    assert "one study (n = 1)" in only(trials("A", 97.0, recipe="tuned")).caption


def test_full_precision_that_has_not_finished_has_no_number() -> None:
    found = only(full("missing"), trials("A", "missing"))
    assert "Full precision: not finished (n = 0)." in found.caption


def test_one_seed_tests_nothing_and_nothing_is_bold() -> None:
    found = only(trials("A", 90.0), trials("B", 50.0))
    assert best(found) == []
    assert "With one seed no difference is tested, and none is bold." in found.caption
    assert "Bold:" not in found.caption


def test_one_epoch_is_singular() -> None:
    assert "same recipe, 1 epoch." in only(trials("A", 97.0, epochs=1)).caption
    both = only(trials("A", 97.0, epochs=1), trials("B", 97.0, epochs=20))
    assert "same recipe, 1 or 20 epochs." in both.caption

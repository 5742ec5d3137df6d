from __future__ import annotations

import pytest
import torch

from qbench.train.checkpoint import load_weights
from qbench.train.recorder import _levels, _spread
from tests.helpers.training import RECIPE, train, trial


def test_the_distribution_of_every_quantized_weight_is_recorded() -> None:
    result, hardened = train(trial(bits="3(±4)/2"))
    assert hardened is not None
    state = load_weights(hardened)
    assert [weights.layer for weights in result.weights] == ["3", "7", "10"]
    for weights in result.weights:
        count = state[f"{weights.layer}.weight"].numel()
        assert sum(weights.before) == sum(weights.after) == count
        assert len(weights.edges) == len(weights.before) + 1
        found = state[f"{weights.layer}.weight"].unique()
        assert weights.levels == pytest.approx(found.tolist(), rel=1e-5)
        assert len(weights.thresholds) == len(weights.levels) - 1
        assert weights.thresholds == sorted(weights.thresholds)


def test_weights_quantized_filter_by_filter_have_no_levels_of_the_layer() -> None:
    result, _ = train(trial("bwn", bits="1/32"))
    assert result.weights[0].levels == result.weights[0].thresholds == []
    assert sum(result.weights[0].after) > 0
    assert result.curve is None


def test_the_function_that_quantizes_is_recorded_as_it_hardens() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 6})
    result, _ = train(trial(bits="2/32", recipe=recipe))
    curve = result.curve
    assert curve is not None
    assert curve.layer == "3"
    assert {1, 6} <= curve.soft.keys() <= set(range(1, 7))
    assert len(set(curve.hard)) == 3
    hard = torch.tensor(curve.hard)
    distances = [
        float((torch.tensor(y) - hard).abs().mean()) for _, y in sorted(curve.soft.items())
    ]
    assert distances == sorted(distances, reverse=True)


def test_levels_and_the_thresholds_between_them_are_read_from_the_weights() -> None:
    weights = torch.tensor([0.9, -1.0, 0.1, -0.2])
    levels, thresholds = _levels(weights, torch.tensor([1.0, -1.0, 0.0, 0.0]), most=3)
    assert levels == [-1.0, 0.0, 1.0]
    assert thresholds == pytest.approx([-0.6, 0.5])


def test_a_function_that_falls_has_no_thresholds() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0])
    assert _levels(weights, torch.tensor([0.0, 1.0, 0.0]), most=2) == ([0.0, 1.0], [])


@pytest.mark.parametrize("epochs", [1, 2, 6, 100])
def test_the_function_is_recorded_after_the_first_and_the_last_epoch(epochs: int) -> None:
    chosen = _spread(epochs)
    assert {1, epochs} <= chosen <= set(range(1, epochs + 1))
    assert len(chosen) <= 6

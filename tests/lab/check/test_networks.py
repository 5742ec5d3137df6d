"""Handles that checks share as copies."""

from __future__ import annotations

import torch

from qbench.lab.check.networks import Case
from qbench.lab.check.steps import difference, state_of, train, trained
from qbench.plugins import Plugin, load_plugin
from tests.helpers.plugins import GOOD

KEEPS_A_GENERATOR = """
class Generating(MedianSign):
    def prepare(self, model, bits):
        self.numbers = (number for number in range(3))  # which cannot be copied
        return model
"""


def test_a_copy_is_what_attaching_and_training_give() -> None:
    case = Case("lsq", {}, "linear", "2/2")
    for _ in range(2):
        made = case.attached()
        drawn = torch.rand(())
        fresh = case.attach()
        assert difference(state_of(fresh.model), state_of(made.model)) is None
        assert torch.rand(()) == drawn
        train(fresh)
        assert difference(state_of(fresh.model), state_of(trained(case).model)) is None
        train(made, first=5)


def test_a_method_that_cannot_be_copied_is_attached_each_time() -> None:
    load_plugin(Plugin("good.py", GOOD + KEEPS_A_GENERATOR))
    case = Case("generating", {}, "linear", "1/32")
    handle, other = case.attached(), case.attached()
    assert handle.model is not other.model
    train(other)
    assert difference(state_of(handle.model), state_of(case.attached().model)) is None

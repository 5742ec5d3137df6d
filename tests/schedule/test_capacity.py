from __future__ import annotations

import pytest

from qbench.errors import QbenchError
from qbench.schedule.capacity import Share, share_of_process, trials_at_once
from qbench.suite.suite import Resources


@pytest.mark.parametrize(
    ("process", "processes", "nodes", "expected"),
    [
        (Share(1, 0), 1, [Share(2, 0)], 2),
        (Share(1, 0.1), 1, [Share(64, 1)], 10),
        (Share(8, 1), 1, [Share(16, 8)], 2),
        (Share(1, 1), 2, [Share(4, 1), Share(4, 2)], 1),  # on both nodes together
        (Share(4, 0), 1, [Share(2, 0), Share(2, 0)], 0),
    ],
)
def test_trials_at_once(process: Share, processes: int, nodes: list[Share], expected: int) -> None:
    assert trials_at_once(process, processes, nodes) == expected


def test_a_trial_that_no_node_can_hold_is_an_error() -> None:
    nodes = [Share(2, 0), Share(4, 0)]
    assert share_of_process(Resources(cpus=4), nodes, 1) == Share(4, 0)
    with pytest.raises(QbenchError, match="a trial takes 5 CPUs and 0 GPUs, and the largest node"):
        share_of_process(Resources(cpus=5), nodes, 1)

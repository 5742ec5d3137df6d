"""Comparison of a trial with the setting of a published number."""

from __future__ import annotations

from dataclasses import dataclass

from qbench.data import Dataset
from qbench.method import Method
from qbench.spec.bits import BitWidths
from qbench.spec.placement import resolve_placement
from qbench.spec.policies import policy_widths
from qbench.spec.words import counted
from qbench.suite.grid import PlannedTrial
from qbench.suite.suite import Published, Suite


@dataclass(frozen=True)
class Likeness:
    """Departures of a trial from the setting of a published number.

    Attributes:
        unlike: Why the number is not judged: other data, another network or a shortened recipe. An
            empty string if it is judged.
        apart: Other departures. They are noted with the verdict. An empty string if there are none.
    """

    unlike: str = ""
    apart: str = ""


def likeness(
    planned: PlannedTrial, wanted: Published, suite: Suite, dataset: Dataset, method: Method
) -> Likeness:
    """Compare a trial with the setting that a number was published for.

    Args:
        planned: The trial, with its row in the suite.
        wanted: The published table that the number is from.
        suite: The suite that the trial belongs to.
        dataset: Dataset of the suite.
        method: Method of the row.

    Returns:
        The departures of the trial.
    """
    trial = planned.trial
    bits = BitWidths.parse(trial.bits)
    paper = method.paper_recipe_for(bits)
    # The epochs of a row come from its sources; changes by the suite do not. The recipe of a method
    # is for classification: how long its paper trains detectors is not known.
    usual = paper.epochs if paper is not None and dataset.task == "classification" else None
    epochs = planned.row.recipe.get("epochs", usual)
    unlike = ["a rehearsal"] if trial.rehearsal else []
    if wanted.dataset not in (trial.dataset, *dataset.published_as):
        unlike.append(f"published for {wanted.dataset}, not {trial.dataset}")
    elif trial.data:
        unlike.append("other data than the original: " + ", ".join(map(str, trial.data)))
    if wanted.model != trial.model:
        unlike.append(f"published for {wanted.model}, not {trial.model}")
    if departure := method.network_departure(trial.model, bits):
        unlike.append(f"another network: {departure}")
    own = resolve_placement(method.placement, policy_widths(trial.layers, bits))
    if trial.placement != own:
        unlike.append(f"activations quantized at {trial.placement}, not {own}")
    steps = planned.row.recipe.get("steps", paper.steps if paper is not None else None)
    if trial.recipe.steps is not None and trial.recipe.steps != steps:
        unlike.append(f"epochs of {counted(trial.recipe.steps, 'step')}")
    if method.trains and epochs is not None and trial.recipe.epochs < epochs:
        unlike.append(f"{trial.recipe.epochs} of {epochs} epochs")
    apart = []
    if method.trains and planned.recipe != "paper":
        apart.append(f"recipe {planned.recipe}")
    elif method.trains and paper is None:
        apart.append("recipe of the data set: the method has none of its own")
    apart += [f"{name} {value}" for name, value in suite.recipe.changes.items()]
    if trial.layers != method.paper_layers:
        layers = trial.layers if isinstance(trial.layers, str) else "chosen by name"
        apart.append(f"layers {layers}, not {method.paper_layers}")
    return Likeness("; ".join(unlike), "; ".join(apart))

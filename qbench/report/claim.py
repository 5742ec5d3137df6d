"""Comparison of a trial with the setting of a published number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qbench.data import Dataset
from qbench.method import Method
from qbench.spec.bits import BitWidths
from qbench.spec.placement import resolve_placement
from qbench.spec.policies import policy_widths
from qbench.spec.trial import Trial
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
        network: How the network departs from that of the number, which `unlike` says too: its
            model, its blocks, or the places of its activation quantizers. An empty string if it is
            that network.
    """

    unlike: str = ""
    apart: str = ""
    network: str = ""


def likeness(
    planned: PlannedTrial,
    wanted: Published,
    suite: Suite,
    dataset: Dataset,
    method: Method,
    network: str | None = None,
) -> Likeness:
    """Compare a trial with the setting that a number was published for.

    Args:
        planned: The trial, with its row in the suite.
        wanted: The published table that the number is from.
        suite: The suite that the trial belongs to.
        dataset: Dataset of the suite.
        method: Method of the row.
        network: Network of the number, as in `qbench.suite.published.Number`.

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
    departures = list(_network_departures(trial, wanted.model, method, network))
    unlike += departures
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
    return Likeness("; ".join(unlike), "; ".join(apart), "; ".join(departures))


def _network_departures(
    trial: Trial, model: str, method: Method, network: str | None
) -> Iterator[str]:
    """Yield how the network of a trial departs from the one that a number was published for."""
    bits = BitWidths.parse(trial.bits)
    if network is None:  # the file of numbers names the model of the table only
        published, own = model, trial.model
    else:
        published, own = network, trial.architecture
    departure = method.network_departure(trial.model, bits)
    if departure:
        yield f"another network: {departure}"
    elif not published:
        yield "the network of the number is not known"
    if published and published != own:
        yield f"published for {published}, not {own}"
    placement = resolve_placement(method.placement, policy_widths(trial.layers, bits))
    if trial.placement != placement:
        yield f"activations quantized at {trial.placement}, not {placement}"

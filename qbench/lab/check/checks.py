"""The checks of the contract, one for each promise of a method.

Each takes a `Case`, one method at one pair of bit-widths on one small network, and raises
`BrokenPromiseError` with a message that the method's author can act on.
"""

from __future__ import annotations

from qbench.lab.check.execution import (
    compiles,
    evaluates_under_autocast,
    runs_on_its_device,
    trains_under_autocast,
)
from qbench.lab.check.gradients import has_gradients_everywhere, trains
from qbench.lab.check.levels import (
    hardens_to_what_it_evaluates,
    has_the_levels_it_promises,
    needs_its_granularity,
)
from qbench.lab.check.promise import Check
from qbench.lab.check.purity import (
    is_independent_of_other_models,
    leaves_its_input_alone,
    reads_only_its_own,
    takes_any_shape,
    takes_large_inputs,
    treats_images_alone,
)
from qbench.lab.check.state import (
    copies,
    evaluates_without_a_trace,
    is_deterministic,
    survives_a_checkpoint,
    updates_once_a_step,
)
from qbench.lab.check.structure import (
    attaches,
    changes_only_its_own,
    comes_off,
    gives_its_parameters_once,
    keeps_shape_and_dtype,
    shares_a_quantizer,
)
from qbench.method import Method

_EVERYWHERE: tuple[Check, ...] = (
    attaches,
    keeps_shape_and_dtype,
    leaves_its_input_alone,
    has_the_levels_it_promises,
    hardens_to_what_it_evaluates,
    is_deterministic,
    survives_a_checkpoint,
    copies,
    evaluates_without_a_trace,
    reads_only_its_own,
    treats_images_alone,
    comes_off,
    evaluates_under_autocast,
    gives_its_parameters_once,
)
_TRAINING: tuple[Check, ...] = (
    has_gradients_everywhere,
    trains,
    updates_once_a_step,
    changes_only_its_own,
    trains_under_autocast,
)
_ONCE: tuple[Check, ...] = (
    needs_its_granularity,
    shares_a_quantizer,
    takes_any_shape,
    runs_on_its_device,
    is_independent_of_other_models,
)
_THOROUGH: tuple[Check, ...] = (takes_large_inputs, compiles)


def checks_of(method: Method, *, once: bool, thorough: bool = False) -> tuple[Check, ...]:
    """Return the checks that apply to a method.

    Args:
        method: The method.
        once: Whether to include those that one network is enough for.
        thorough: Whether to include those of them that take seconds.
    """
    checks = _EVERYWHERE + (_TRAINING if method.trains else ())
    return checks + (_ONCE if once else ()) + (_THOROUGH if once and thorough else ())

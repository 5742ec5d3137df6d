"""The promises about state: determinism, checkpoints, copies, and what changes when."""

from __future__ import annotations

import copy
import io
import pickle

import torch

from qbench.lab.check.networks import EPOCHS_OF_CHECK, STEPS_OF_CHECK, Case, images, seed_cpu
from qbench.lab.check.promise import BrokenPromiseError
from qbench.lab.check.steps import (
    difference,
    equal,
    optimizer_of,
    state_of,
    take_steps,
    train,
    trained,
)
from qbench.quant.layers import layer_weight


def is_deterministic(case: Case) -> None:
    """Check that two runs with the same seed give the same bits."""
    first = state_of(trained(case).harden())
    torch.rand(3)
    handle = case.attach()
    train(handle)
    if name := difference(first, state_of(handle.harden())):
        raise BrokenPromiseError(
            f"two runs with one seed differ in {name}: draw random numbers from torch's "
            "generator, and iterate over nothing unordered"
        )


def survives_a_checkpoint(case: Case) -> None:
    """Check that a network with other weights that loads a state_dict becomes the same.

    It evaluates the same, and trains on to the same bits.
    """
    handle = case.attached()
    handle.on_epoch_start(2, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
    optimizer = train(handle)
    buffer = io.BytesIO()
    torch.save({"model": handle.model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    try:
        saved = torch.load(buffer, weights_only=True)
    except pickle.UnpicklingError as error:
        raise BrokenPromiseError(
            "its state_dict holds more than tensors and plain values, which a checkpoint may not; "
            "see get_extra_state"
        ) from error
    fresh = case.attach(seed=1)
    fresh.model.load_state_dict(saved["model"])
    other = optimizer_of(fresh)
    other.load_state_dict(saved["optimizer"])
    for each in (handle, fresh):
        each.on_epoch_start(3, EPOCHS_OF_CHECK, STEPS_OF_CHECK)
    with torch.no_grad():
        if not equal(handle.model.eval()(images(3)), fresh.model.eval()(images(3))):
            raise BrokenPromiseError(
                "a network with other weights that loads the state_dict computes something else: "
                "what a quantizer computes from the weight or the sample belongs in parameters, "
                "buffers or get_extra_state"
            )
    for each, its in ((handle, optimizer), (fresh, other)):
        take_steps(each, its, range(2, 4))
    if name := difference(state_of(handle.model), state_of(fresh.model)):
        raise BrokenPromiseError(
            f"training that goes on from a checkpoint differs in {name}: what changes over time "
            "belongs in parameters, buffers or get_extra_state"
        )


def copies(case: Case) -> None:
    """Check that a deep copy is equal and independent, and that the hardened model pickles."""
    handle = case.attach()
    train(handle)
    twin = copy.deepcopy(handle)
    before = state_of(handle.model)
    if name := difference(before, state_of(twin.model)):
        raise BrokenPromiseError(f"a deep copy differs in {name}")
    train(twin, first=5)
    if name := difference(before, state_of(handle.model)):
        raise BrokenPromiseError(f"training a deep copy changes {name} of the original")
    train(handle, first=5)
    if name := difference(state_of(handle.model), state_of(twin.model)):
        raise BrokenPromiseError(f"a deep copy trains differently: {name}")
    model = handle.harden().eval()
    try:
        again = pickle.loads(pickle.dumps(model))  # noqa: S301 - of this process's own making
    except Exception as error:
        raise BrokenPromiseError(
            f"the hardened model cannot be pickled: {error}; define quantizers at the top of the "
            "file, and keep no lambdas in them"
        ) from error
    with torch.no_grad():
        if not equal(again(images(3)), model(images(3))):
            raise BrokenPromiseError("the pickled model computes something else")


def updates_once_a_step(case: Case) -> None:
    """Check that reading a weight changes nothing: state changes once a step."""
    handle, curious = trained(case), case.attached()
    optimizer = optimizer_of(curious)
    for step in range(2):
        curious.model.train()
        for layer in curious.layers:
            reads = []
            for _ in range(2):
                seed_cpu(step)  # what is drawn may be drawn again
                reads.append(layer_weight(layer).detach().clone())
            if not equal(*reads):
                raise BrokenPromiseError(
                    f"{layer.name}.weight is another each time it is read: forward must change no "
                    "state, see Quantizer.observe"
                )
        take_steps(curious, optimizer, range(step, step + 1))
    if name := difference(state_of(handle.model), state_of(curious.model)):
        raise BrokenPromiseError(
            f"reading weights between steps changes {name}: state that is not learned moves in "
            "Quantizer.observe, which is called once a step"
        )


def evaluates_without_a_trace(case: Case) -> None:
    """Check that evaluation changes no state and gives the same result each time."""
    handle = trained(case)
    before = state_of(handle.model)
    with torch.no_grad():
        seed_cpu(0)
        first = handle.model.eval()(images(3))
        handle.model(5 * images(4))
        if not equal(handle.model(images(3)), first):
            raise BrokenPromiseError(
                "evaluating twice gives different results: in evaluation, draw no random numbers "
                "and keep nothing between calls"
            )
    if name := difference(before, state_of(handle.model)):
        raise BrokenPromiseError(f"evaluation changes {name}")

"""Checks of steps: a step works or refuses, is deterministic, sees no test data and leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.api import Step
from harness.build.plan import describe
from harness.errors import describe_error
from harness.testing.bench import REASON, Bench
from harness.testing.blame import fail_check, some
from harness.testing.world import NETWORKS, ODD

if TYPE_CHECKING:
    from harness.testing.observation import Observation


def test_step_works_or_refuses(step: Step, network: str, bench: Bench) -> None:
    """On a network of stock layers it gives a network, or raises Unsupported with a reason."""
    _works_or_refuses(step, bench.see(step, network))


def test_step_works_on_an_odd_network_or_refuses(step: Step, bench: Bench) -> None:
    """So it does on a network without layers, whose forward pass branches on the data."""
    _works_or_refuses(step, bench.see(step, ODD))


def test_step_works_on_some_network(step: Step, bench: Bench) -> None:
    """There is a network in the kit that it does not refuse, else nothing else can be checked."""
    reasons = [bench.see(step, network).refused for network in NETWORKS]
    if all(reason is not None for reason in reasons):
        fail_check(
            describe(step),
            wanted="one of the kit's networks (convolutions, an LSTM, linear layers) that it handles",
            got=some([str(reason) for reason in reasons]),
            fix="let examples() give a value that handles one of them, or override the fixture `network` with the "
            "names of your own architectures, and deselect this check",
        )


def test_step_works_with_another_seed(step: Step, network: str, bench: Bench) -> None:
    """Another seed may give another model, but gives one."""
    bench.see(step, network).applied()
    other = bench.with_other_seed(step, network)
    if other.failed:
        fail_check(
            other.thing,
            wanted="a network with seed 1, as there is with seed 0",
            got=str(other.problem),
            fix="look for what depends on chance: a choice that may come out empty, a fixed index",
        )


def _works_or_refuses(step: Step, found: Observation) -> None:
    if found.failed and found.undeclared:
        pytest.skip(f"{found.thing}: stopped for a training that is not declared; see test_step_declares_its_trainings")
    if found.refused is not None and len(str(found.refused)) < REASON:
        fail_check(
            found.thing,
            wanted="Unsupported with a reason that tells the user which network it needs",
            got=repr(str(found.refused)),
            fix="name the layer or property that it cannot handle",
        )
    if found.refused is not None or not found.failed:
        return
    raised = found.sighting.raised
    got = str(found.problem) if raised is None else describe_error(raised, type(step))
    fail_check(
        found.thing,
        wanted="a network, or Unsupported with a reason where the step is not made for this one",
        got=got,
        fix="return the changed network; where it lacks what the step needs, raise harness.Unsupported, so that its "
        "cells are skipped and not failed",
    )


def test_step_is_deterministic(step: Step, network: str, bench: Bench) -> None:
    """With one seed it gives the same bits, in another store and whatever was drawn in the process before."""
    from harness.testing.observation import unlike

    first, second = bench.see(step, network), bench.again(step, network)
    difference = unlike(first.kept().file, second.kept().file)
    if difference:
        fail_check(
            first.thing,
            wanted="two runs with one seed give the same bits",
            got=difference,
            fix="draw from context.generator() or seed with context.seed('purpose'), iterate over nothing unordered, "
            "and keep nothing between two calls of apply",
        )


def test_step_does_not_touch_test_data(step: Step, network: str, bench: Bench) -> None:
    """It opens no file of the test split, and with another test split gives the same bits."""
    from harness.testing.observation import unlike

    first, again = bench.see(step, network), bench.again(step, network)
    opened = first.sighting.opened
    if opened:
        fail_check(
            first.thing,
            wanted="no file of the test split is opened while apply runs",
            got=f"opened {some(opened, 1)}",
            fix="use context.calibration() and context.fit() for data: test data chooses nothing",
        )
    if unlike(first.kept().file, again.kept().file):
        pytest.skip(f"{first.thing}: not deterministic, so that this cannot be told")
    other = bench.with_other_test_data(step, network)
    difference = "it fails there" if other.failed else unlike(first.kept().file, other.kept().file)
    if difference:
        fail_check(
            first.thing,
            wanted="another test split changes nothing",
            got=difference,
            fix="use context.calibration() and context.fit() for data, and do not look into the harness' objects",
        )


def test_step_leaves_its_input(step: Step, network: str, bench: Bench) -> None:
    """The network that apply is given is afterwards as it was: values, structure, modes, gradients, hooks."""
    found = bench.see(step, network)
    found.applied()
    if found.sighting.changed:
        fail_check(
            found.thing,
            wanted="the network that apply was given is left as it was",
            got=f"changed: {some(found.sighting.changed)}",
            fix="begin apply with model = copy.deepcopy(model)",
        )


def test_step_leaks_nothing(step: Step, network: str, bench: Bench) -> None:
    """It leaves no thread, process or open file (on Linux) behind, and no setting of the process changed.

    Only what is left each time counts: a library may set itself up once.
    """
    found, again = bench.see(step, network), bench.again(step, network)
    found.applied()
    kinds = {_kind_of(entry) for entry in again.sighting.left}
    left = [entry for entry in found.sighting.left if _kind_of(entry) in kinds]
    left += [f"{name} random state was not put back" for name in found.drawn]
    if left:
        fail_check(
            found.thing,
            wanted="the process as it was: no thread, process or open file left, no setting changed",
            got=some(left),
            fix="use with statements: for files and pools, torch.no_grad(), torch.random.fork_rng(); draw from "
            "context.generator() instead of seeding torch",
        )


def test_step_prints_nothing(step: Step, network: str, bench: Bench) -> None:
    """It writes nothing to the standard output, which belongs to the tables and JSON of the harness."""
    found = bench.see(step, network)
    found.applied()
    if found.sighting.printed:
        fail_check(
            found.thing,
            wanted="nothing on the standard output",
            got=repr(found.sighting.printed[:200]),
            fix="tell facts by context.report(name=value), and how far it is by context.progress(done, total)",
        )


def _kind_of(entry: str) -> str:
    return entry.split(" changed from ")[0]


__all__ = [name for name in dir() if name.startswith("test_")]

"""What can be told from shapes alone: parameters, multiply-accumulates, and a guess at durations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import toy
from toy import Broken, Halve, Nothing, Picky, Shift, Tune

from harness import Matrix, Step, train
from harness.build.estimate import NOMINAL_RATE, DurationEstimate, Previews, Shape
from harness.build.executor import Executor
from harness.build.plan import Plan, make
from harness.plugin.manager import Plugins
from harness.store.local import Store
from harness.suite.presets import preset

TASK = toy.Toy.task
#: 4 filters of 2 x 3 at 14 positions, and 28 inputs to 2 outputs; by hand.
MACS = 4 * 2 * 3 * 14 + 28 * 2
#: Filters, scale and shift of the normalization, linear layer.
PARAMETERS = 4 * 2 * 3 + 2 * 4 + (28 * 2 + 2)


def shape(plugins: Plugins, *steps: Step, architecture: str = "conv") -> Shape:
    return Previews(plugins).shape(architecture, TASK, steps)


def test_parameters_and_macs_by_hand(plugins: Plugins) -> None:
    assert shape(plugins) == shape(plugins, train(), Halve()) == Shape(PARAMETERS, MACS)


def test_an_lstm_counts_every_step_of_time(plugins: Plugins) -> None:
    gates = 4 * 4
    found = shape(plugins, train(), architecture="lstm")
    assert found.macs == 16 * gates * (2 + 4) + 4 * 2
    assert found.parameters == gates * (2 + 4 + 2) + 4 * 2 + 2


def test_a_step_that_cannot_tell_hides_what_follows(plugins: Plugins) -> None:
    assert shape(plugins, train(), Nothing(), Halve()) == Shape(None, None)


def test_a_step_that_refuses_is_the_problem_of_what_follows(plugins: Plugins) -> None:
    assert shape(plugins, Picky(), Halve()) == Shape(None, None, "picky cannot prune a Sequential")


def test_a_step_with_a_bug_is_a_problem_of_its_cell(plugins: Plugins) -> None:
    problem = shape(plugins, Broken()).problem
    assert problem is not None
    assert problem.startswith(
        "plugin toy (toy-plugin 1.2): preview() of step 'broken' raised ZeroDivisionError: the toy broke ("
    )


def test_a_network_with_a_bug_is_a_problem_of_its_cell(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Conv, "build", lambda self, task: 1 / 0)
    problem = shape(plugins, train()).problem
    assert problem is not None
    assert problem.startswith(
        "plugin toy (toy-plugin 1.2): build() of architecture 'conv' raised ZeroDivisionError: division by zero ("
    )


def test_a_careless_step_does_not_change_what_others_see(plugins: Plugins) -> None:
    previews = Previews(plugins)
    assert previews.shape("conv", TASK, (train(), Shift(1.0))).parameters == PARAMETERS - 29
    assert previews.shape("conv", TASK, (train(), Halve())).parameters == PARAMETERS
    assert previews.shape("conv", TASK, (train(),)).parameters == PARAMETERS


def test_each_network_is_built_once_and_no_seed_is_touched(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = toy.Conv.build
    monkeypatch.setattr(toy.Conv, "build", lambda self, task: built.append(1) or build(self, task))
    before = torch.random.get_rng_state()
    previews = Previews(plugins)
    for step in (Halve(), Halve(0.25), Tune(), Shift(1.0)):
        previews.shape("conv", TASK, (train(), step))
    assert built == [1]
    assert torch.equal(torch.random.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------------ durations


def plan(plugins: Plugins, size: str, **axes: Any) -> Plan:
    cells = Matrix(dataset="toy-synthetic", architecture="conv", **axes).cells("m")
    return make(cells, plugins, lambda name: "f", preset(size), "cpu")


def estimate(plan: Plan, plugins: Plugins, store: Store) -> DurationEstimate:
    return DurationEstimate(plan, plugins, store)


def test_training_is_three_passes_over_what_the_preset_visits(plugins: Plugins, store: Store) -> None:
    for size, visits in (("study", 4 * 60), ("quick", 2 * 48), ("smoke", 1 * 60)):
        made = plan(plugins, size, steps={"a": [train()]})
        fresh, trained = made.nodes.values()
        guess = estimate(made, plugins, store)
        assert guess.build(fresh) == 0
        assert guess.build(trained) == pytest.approx(3 * visits * MACS / NOMINAL_RATE)


def test_what_a_step_changes_about_its_training_counts(plugins: Plugins, store: Store) -> None:
    made = plan(plugins, "study", steps={"a": [Tune(epochs=10), Halve()]})
    _, tuned, halved = made.nodes.values()
    guess = estimate(made, plugins, store)
    assert guess.build(tuned) == pytest.approx(3 * 10 * 60 * MACS / NOMINAL_RATE)
    assert guess.build(halved) == 0


def test_what_was_trained_here_gives_the_rate(
    plugins: Plugins, store: Store, executor: Callable[..., Executor]
) -> None:
    cells = list(Matrix(dataset="toy-synthetic", architecture="conv", steps={"a": [train()]}).cells("m"))
    run = executor(cells)
    run.build_all()
    _, trained = run.plan.nodes.values()
    took = run.build(trained.key).seconds
    assert estimate(run.plan, plugins, store).build(trained) == pytest.approx(took)


def test_timing_grows_with_the_preset_and_the_network(plugins: Plugins, store: Store) -> None:
    guess = estimate(plan(plugins, "study", steps={"a": []}), plugins, store)
    assert guess.time(10**9, preset("study")) > guess.time(10**9, preset("quick")) > guess.time(10**6, preset("quick"))
    assert guess.time(None, preset("quick")) > 0

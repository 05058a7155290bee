"""Estimates from shapes alone: parameters and multiply-accumulates; and estimated durations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import toy
from toy import Broken, Halve, Nothing, Picky, Shift, Tune

from harness import Matrix, Step, train
from harness.build.estimate import NONE_BUILT, Duration, DurationEstimate, Previews, Shape
from harness.build.executor import Executor
from harness.build.plan import Node, Plan, make
from harness.measure.timing import LEAST_PAIRS, PACED_WARMUP
from harness.nn.operations import count
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


def test_previews_use_one_thread_and_leave_the_number_of_threads(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: threads.append(torch.get_num_threads()) or function(*arguments)

    monkeypatch.setattr(toy.Conv, "build", note(toy.Conv.build))
    monkeypatch.setattr(Halve, "preview", note(Halve.preview))
    monkeypatch.setattr("harness.build.estimate.count", note(count))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shape(plugins, train(), Halve())
        assert Previews(plugins).shape("conv", TASK, (Broken(),)).problem is not None
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}
    assert len(threads) >= 5


# ------------------------------------------------------------------------------------------------------ durations


def plan(plugins: Plugins, size: str, **axes: Any) -> Plan:
    cells = Matrix(dataset="toy-synthetic", architecture="conv", **axes).cells("m")
    return make(cells, plugins, lambda name: "f", preset(size), "cpu")


@pytest.fixture
def estimate(plugins: Plugins, store: Store) -> Callable[[], DurationEstimate]:
    return lambda: DurationEstimate(plugins, store)


Estimate = Callable[[], DurationEstimate]


def put(store: Store, node: Node, seconds: float, visits: int = 0) -> None:
    """Store an artefact as if the node had been built, with a training of ``visits`` examples."""
    facts = {"trainings": [{"name": "fit", "epochs": 1, "examples": visits}]} if visits else {}
    store.put(node.document, lambda file: file.write_bytes(b"x") and None, facts, seconds)


def test_nothing_like_it_was_built_so_the_time_is_unknown(plugins: Plugins, estimate: Estimate) -> None:
    nodes = plan(plugins, "quick", steps={"a": [train()]}).nodes.values()
    assert [estimate().build(node) for node in nodes] == [None, None]
    total = estimate().total(nodes)
    assert total == Duration(0, 0, 2)
    assert total.text("step", NONE_BUILT) == "unknown, because the store has no such step yet"


def test_a_training_takes_as_long_per_example_as_before(plugins: Plugins, store: Store, estimate: Estimate) -> None:
    fresh, trained = plan(plugins, "smoke", steps={"a": [train()]}).nodes.values()
    put(store, fresh, 0.5)
    put(store, trained, 6.0, visits=60)
    for size, visits in (("study", 4 * 60), ("quick", 2 * 48), ("smoke", 1 * 60)):
        nodes = list(plan(plugins, size, steps={"a": [train()]}).nodes.values())
        assert [estimate().build(node) for node in nodes] == [0.5, pytest.approx(0.1 * visits)]
        assert estimate().total(nodes).text("step", NONE_BUILT) == f"about {0.5 + 0.1 * visits:.0f} s"


def test_changes_of_a_step_s_training_count(plugins: Plugins, store: Store, estimate: Estimate) -> None:
    _, tuned, halved = plan(plugins, "study", steps={"a": [Tune(epochs=10), Halve()]}).nodes.values()
    put(store, tuned, 6.0, visits=60)
    _, longer, _ = plan(plugins, "study", steps={"a": [Tune(epochs=20), Halve()]}).nodes.values()
    assert estimate().build(longer) == pytest.approx(0.1 * 20 * 60)
    assert estimate().build(halved) is None, "another step"
    assert estimate().total([longer, halved]).text("step", NONE_BUILT) == (
        "about 2 min for 1 step, unknown for 1, because the store has no such step yet"
    )


def test_the_same_network_counts_before_others(plugins: Plugins, store: Store, estimate: Estimate) -> None:
    def halved(architecture: str, factor: float) -> Node:
        cells = Matrix(dataset="toy-synthetic", architecture=architecture, steps={"a": [Halve(factor)]}).cells("m")
        made = make(cells, plugins, lambda name: "f", preset("quick"), "cpu")
        put(store, next(iter(made.nodes.values())), 0.0)
        return list(made.nodes.values())[-1]

    put(store, halved("conv", 0.5), 1.0)
    assert estimate().build(halved("lstm", 0.25)) == 1.0
    put(store, halved("lstm", 0.5), 7.0)
    assert estimate().build(halved("lstm", 0.25)) == 7.0
    assert estimate().build(halved("conv", 0.25)) == 1.0


def test_odd_facts_and_damaged_artefacts_are_no_error(plugins: Plugins, store: Store, estimate: Estimate) -> None:
    fresh, trained = plan(plugins, "quick", steps={"a": [train()]}).nodes.values()
    put(store, fresh, 0.5)
    store.put(trained.document, lambda file: file.write_bytes(b"x") and None, {"trainings": "of a plugin"}, 3.0)
    assert estimate().build(trained) == 3.0
    next(store.root.glob(f"**/{trained.key}/artefact.json")).write_text("{")
    assert estimate().build(trained) is None


def test_what_was_trained_here_gives_the_time(executor: Callable[..., Executor], estimate: Estimate) -> None:
    cells = list(Matrix(dataset="toy-synthetic", architecture="conv", steps={"a": [train()]}).cells("m"))
    run = executor(cells)
    run.build_all()
    fresh, trained = run.plan.nodes.values()
    for node in (fresh, trained):
        assert estimate().build(node) == pytest.approx(run.build(node.key).seconds)


def test_timing_grows_with_the_preset_and_the_network(estimate: Estimate) -> None:
    def seconds(macs: int, size: str) -> float:
        value = estimate().time(macs, preset(size))
        assert value is not None
        return value

    assert seconds(10**9, "study") > seconds(10**9, "quick") > seconds(10**6, "quick") > 0
    assert estimate().time(None, preset("quick")) is None


def test_a_reference_takes_its_aa_runs(estimate: Estimate) -> None:
    alone, reference, nothing = (
        estimate().time(*arguments)
        for arguments in ((10**9, preset("study")), (10**9, preset("study"), 0.0, True), (0, preset("study")))
    )
    assert alone is not None
    assert reference is not None
    assert nothing is not None
    assert reference - nothing == pytest.approx(3 * (alone - nothing))


def test_timing_includes_the_pauses(estimate: Estimate) -> None:
    def of_pauses(size: str) -> float:
        paced, back_to_back = (estimate().time(0, preset(size), pause) for pause in (0.02, 0.0))
        assert paced is not None
        assert back_to_back is not None
        return paced - back_to_back

    assert of_pauses("study") == pytest.approx(6 * 2 * 0.02 * (PACED_WARMUP + 40)), "within 6 s"
    assert of_pauses("quick") == pytest.approx(4 * 2 * 0.02 * (PACED_WARMUP + LEAST_PAIRS)), "0.4 s: the least pairs"

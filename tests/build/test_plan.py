"""The plan: each step once, and a key for everything that an artefact depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import toy
from toy import Halve, Mimic, Tune

from harness import Matrix, Step, Training, train
from harness.build.plan import Plan, make
from harness.plugin.manager import Origin, Plugins
from harness.suite.matrix import Cell
from harness.suite.presets import Preset, preset


def cells(seed: int | Sequence[int] = 0, architecture: str = "conv", **axes: Any) -> list[Cell]:
    return list(Matrix(dataset="toy", architecture=architecture, seed=seed, **axes).cells("m"))


def recipe(*steps: Step, **changes: Any) -> list[Cell]:
    return cells(steps={"only": steps}, **changes)


@pytest.fixture
def planned(plugins: Plugins) -> Callable[..., Plan]:
    def plan(cells: Sequence[Cell], fingerprint: str = "f", size: str | Preset = "study", device: str = "cpu") -> Plan:
        chosen = preset(size) if isinstance(size, str) else size
        return make(cells, plugins, lambda name: fingerprint, chosen, device)

    return plan


def key(plan: Plan) -> str:
    (only,) = set(plan.artefacts.values())
    return only


def test_shared_beginnings_are_one_node(planned: Callable[..., Plan]) -> None:
    plan = planned(
        cells(
            training={"plain": [train()], "taught": [train(), Mimic()]},
            pruning={"full": [], "half": [Halve()], "quarter": [Halve(0.25)]},
        )
    )
    # fresh, train, train > mimic, and two prunings of each of the last two
    assert len(plan.nodes) == 1 + 2 + 2 * 2
    assert len(plan.artefacts) == len(set(plan.artefacts.values())) == 6


def test_parents_come_before_children_and_the_lineage_begins_fresh(planned: Callable[..., Plan]) -> None:
    plan = planned(recipe(train(), Mimic(), Halve()))
    seen: set[str] = set()
    for node in plan.nodes.values():
        assert {node.parent, node.teacher} - {None} <= seen
        seen.add(node.key)
    lineage = plan.lineage(key(plan))
    assert [node.step for node in lineage] == [None, train(), Mimic(), Halve()]
    assert lineage[-1].label == "toy conv seed 0: train() > mimic(weight=0.5) > halve(factor=0.5)"
    assert lineage[0].label == "toy conv seed 0: fresh network"


def test_a_teacher_is_an_edge_that_flows_on(planned: Callable[..., Plan]) -> None:
    plan = planned(recipe(train(), Mimic(), Halve(), Tune()))
    fresh, trained, taught, halved, tuned = plan.lineage(key(plan))
    assert (fresh.teacher, trained.teacher, trained.objective) == (None, None, None)
    assert [node.teacher for node in (taught, halved, tuned)] == [trained.key] * 3
    assert [node.objective for node in (taught, halved, tuned)] == [Mimic()] * 3


def test_the_last_teacher_rules(planned: Callable[..., Plan]) -> None:
    plan = planned(recipe(train(), Mimic(), Mimic(0.9), Halve()))
    _, _, first, second, halved = plan.lineage(key(plan))
    assert (second.teacher, halved.teacher) == (first.key, first.key)
    assert halved.objective == Mimic(0.9)


def test_equal_recipes_have_equal_keys_whatever_the_axes_are_called(planned: Callable[..., Plan]) -> None:
    one = planned(cells(a={"x": [train()]}, b={"y": [Halve(1)]}))
    two = planned(recipe(train(), Halve(1.0)))
    assert key(one) == key(two)


def test_every_input_changes_the_key(planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (train(), Halve())
    keys = {
        "as is": key(planned(recipe(*steps))),
        "parameter": key(planned(recipe(train(), Halve(0.4)))),
        "earlier parameter": key(planned(recipe(train(epochs=9), Halve()))),
        "order": key(planned(recipe(Halve(), train()))),
        "seed": key(planned(recipe(*steps, seed=1))),
        "architecture": key(planned(recipe(*steps, architecture="lstm"))),
        "data": key(planned(recipe(*steps), fingerprint="g")),
        "preset": key(planned(recipe(*steps), size="quick")),
        "device": key(planned(recipe(*steps), device="cuda")),
    }

    def with_change(name: str, target: Any, attribute: str, value: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(target, attribute, value)
            keys[name] = key(planned(recipe(*steps)))

    with_change("step version", Halve, "version", "2")
    with_change("architecture version", toy.Conv, "version", "2")
    with_change("dataset version", toy.Toy, "version", "2")
    with_change("training", toy.Conv, "training", lambda self, phase: Training(3, 16, "SGD", {"lr": 0.05}))
    with_change("torch", planned_module(), "version", lambda package: "9.9.1")
    assert len(set(keys.values())) == len(keys)
    assert key(planned(recipe(*steps))) == keys["as is"]


def planned_module() -> Any:
    from harness.build import plan

    return plan


def test_a_plugins_version_changes_the_keys_of_what_it_brings(plugins: Plugins, nowhere: None) -> None:
    newer = Plugins()
    newer.add(toy, Origin("toy", "toy-plugin", "1.3"))
    before, after = (make(recipe(train()), p, lambda name: "f", preset("study"), "cpu") for p in (plugins, newer))
    assert key(before) != key(after)


def test_presets_of_one_size_share_their_artefacts(planned: Callable[..., Plan]) -> None:
    """The timing's size is no part of a key: only what training and choosing look at is."""
    longer = Preset("study", "", processes=9, pairs=999, warmup=9, calls=9)
    assert key(planned(recipe(train()), size=longer)) == key(planned(recipe(train()), size="study"))


def test_each_fingerprint_is_asked_for_once(plugins: Plugins) -> None:
    asked: list[str] = []
    make(recipe(train(), seed=range(5)), plugins, lambda name: asked.append(name) or "f", preset("study"), "cpu")
    assert asked == ["toy"]


# -------------------------------------------------------------------------------------------------------- needed


def labels(plan: Plan, *built: int) -> list[str]:
    """What is needed when these nodes (by number) are in the store; each as its number."""
    keys = list(plan.nodes)
    have = {keys[number] for number in built}
    return [str(keys.index(node.key)) for node in plan.needed(have.__contains__)]


def test_only_what_leads_to_a_missing_artefact_is_needed(planned: Callable[..., Plan]) -> None:
    plan = planned(recipe(train(), Mimic(), Halve()))  # 0 fresh, 1 train, 2 mimic, 3 halve
    assert labels(plan) == ["0", "1", "2", "3"]
    assert labels(plan, 3) == []
    assert labels(plan, 1, 2) == ["3"]
    assert labels(plan, 1) == ["2", "3"]
    assert labels(plan, 0, 2) == ["1", "3"], "the teacher is needed although the parent is there"


def test_branches_are_needed_once(planned: Callable[..., Plan]) -> None:
    plan = planned(cells(training={"plain": [train()]}, pruning={"full": [], "half": [Halve()]}))
    assert labels(plan) == ["0", "1", "2"]
    assert labels(plan, 1) == ["2"]
    assert labels(plan, 2) == ["0", "1"]


def test_a_training_enters_the_keys_of_the_steps_that_it_concerns(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        plan = planned(recipe(train(), Tune(), Halve()))
        return [node.key for node in plan.lineage(key(plan))]

    before = keys()
    trainings = {"train": toy.Conv().training("train"), "finetune": Training(9, 16, "SGD", {"lr": 0.1})}
    monkeypatch.setattr(toy.Conv, "training", lambda self, phase: trainings[phase])
    after = keys()
    assert before[:2] == after[:2], "a fresh and a trained network do not depend on how one would fine-tune"
    assert before[2] != after[2]
    assert set(before[3:]).isdisjoint(after[3:])


def test_a_step_that_does_not_tell_what_it_trains_depends_on_both_trainings(planned: Callable[..., Plan]) -> None:
    plan = planned(recipe(train(), Halve()))
    assert set(plan.nodes[key(plan)].document["training"]) == {"train", "finetune"}
    (trained,) = (node for node in plan.nodes.values() if node.step == train())
    assert set(trained.document["training"]) == {"train"}


def test_the_form_of_the_data_enters_the_key_of_what_reads_another(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = next(iter(planned(recipe(train())).nodes.values()))
    assert "layout" not in root.document["root"], "artefacts made before there were layouts keep their keys"
    flat = next(iter(planned(recipe(train(), architecture="flat")).nodes.values()))
    assert flat.document["root"]["layout"] == "mean"
    assert flat.document["task"]["input_shape"] == [2]
    monkeypatch.setitem(toy.Toy.layouts, "other", toy.Toy.layouts["mean"])  # type: ignore[index]
    monkeypatch.setattr(toy.Flat, "layout", "other")
    assert next(iter(planned(recipe(train(), architecture="flat")).nodes)) != flat.key


def test_cells_that_nothing_trains_are_known(planned: Callable[..., Plan]) -> None:
    plan = planned(cells(training={"plain": [train()], "none": []}, pruning={"full": [], "half": [Halve()]}))
    assert [name.partition("[")[2] for name in plan.untrained()] == ["conv-none-full-seed0]"]  # Halve does not tell

"""The plan: each step once, and a key for everything that an artefact depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import toy
from toy import Halve, Mimic, Tune

from harness import Matrix, Step, Training, compressor, train
from harness.build.plan import Plan, make
from harness.plugin.manager import KERNEL, Origin, Plugins, installed
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


def test_a_release_of_a_plugin_with_the_same_code_keeps_the_keys(plugins: Plugins, nowhere: None) -> None:
    assert released("toy-plugin", "1.2") == released("toy-plugin", "1.3") == planned_key(plugins)
    assert released("another", "1.2") != planned_key(plugins)


def test_without_source_the_version_of_the_distribution_stands_for_the_code(
    plugins: Plugins, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_source = planned_key(plugins)
    monkeypatch.setattr(planned_module(), "code_digest", lambda kind: None)
    assert len({with_source, released("toy-plugin", "1.2"), released("toy-plugin", "1.3")}) == 3


def test_the_kernel_s_step_has_neither_a_release_nor_a_digest_in_its_key(planned: Callable[..., Plan]) -> None:
    document = planned(recipe(train())).lineage(key(planned(recipe(train()))))[-1].document
    assert document["plugin"] == "harness"
    assert not {"code", "plugin_version"} & document.keys()


def test_built_in_plugins_are_called_harness_whatever_their_distribution_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Origin("toy", "toy-plugin", "1.2").id == "toy-plugin"
    assert {origin.id for origin in installed().origins if origin.distribution == KERNEL.distribution} == {"harness"}
    monkeypatch.setattr("harness.plugin.manager.KERNEL", Origin("kernel", "compression-harness", "9"))
    assert Origin("ecg", "compression-harness", "9").id == "harness"
    assert Origin("ecg", "harness-lookalike", "9").id == "harness-lookalike"


def test_the_key_of_a_built_in_step_does_not_depend_on_the_name_of_our_distribution(
    nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for distribution in ("harness", "compression-harness"):
        monkeypatch.setattr("harness.plugin.manager.KERNEL", Origin("kernel", distribution, "9"))
        keys.add(released(distribution, "9"))
    assert len(keys) == 1
    assert released("another", "9") not in keys


def released(distribution: str, version: str) -> str:
    """The key that a release of the toy plugin gives."""
    plugins = Plugins()
    plugins.add(toy, Origin("toy", distribution, version))
    return planned_key(plugins)


def planned_key(plugins: Plugins) -> str:
    return key(make(recipe(train()), plugins, lambda name: "f", preset("study"), "cpu"))


def test_fields_at_their_default_are_no_part_of_a_key(planned: Callable[..., Plan]) -> None:
    documents = [node.document for node in planned(recipe(train(), Halve(), Halve(0.25), Tune())).nodes.values()]
    assert [document.get("parameters") for document in documents] == [None, {}, {}, {"factor": 0.25}, {}]
    assert documents[0]["root"] == {
        "dataset": "toy", "architecture": "conv", "seed": 0, "device": "cpu", "evaluation": None
    }  # fmt: skip
    assert documents[0]["task"] == {"input_shape": [2, 16], "labels": ["high", "shaky"]}
    assert documents[1]["training"]["train"] == {
        "epochs": 4,
        "batch": 16,
        "optimizer": "SGD",
        "optimizer_args": {"lr": 0.05, "momentum": 0.9},
        "scheduler": "CosineAnnealingLR",
        "scheduler_args": {"T_max": 4},
    }


def test_a_new_field_with_a_default_changes_no_key(
    planned: Callable[..., Plan], plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of a training nor of a step; the class is as a later version of it would be."""
    before = key(planned(recipe(train(), Tune(3))))

    @dataclasses.dataclass(frozen=True)
    class LaterTraining(Training):
        label_smoothing: float = 0.0

    @dataclasses.dataclass(frozen=True)
    class LaterTune(Tune):
        warmup: int = 0

    LaterTune.__module__ = Tune.__module__
    usual = toy.Conv.training
    later = lambda self, phase: LaterTraining(**vars(usual(self, phase)))  # noqa: E731
    monkeypatch.setattr(toy.Conv, "training", later)
    monkeypatch.setitem(plugins.steps._items, "tune", (LaterTune, plugins.steps.origin("tune")))
    assert key(planned(recipe(train(), LaterTune(3)))) == before
    assert key(planned(recipe(train(), LaterTune(3, warmup=1)))) != before


def test_a_compressor_s_defaults_are_left_out_and_own_parameters_stay() -> None:
    @compressor
    def scale(model: Any, context: Any, factor: float = 0.5, *, which: str = "all") -> Any:
        """Scale."""

    class Own(Step):
        name = "own"

        def parameters(self) -> dict[str, Any]:
            return {"a": 1.0, "b": None}

    parameters = planned_module()._parameters
    assert parameters(scale(), scale().parameters()) == {}
    assert parameters(scale(which="some"), {}) == {"which": "some"}
    assert parameters(Own(), Own().parameters()) == {"a": 1, "b": None}


def test_presets_of_one_size_share_their_artefacts(planned: Callable[..., Plan]) -> None:
    """The timing's size is no part of a key: only what training and choosing look at is."""
    longer = Preset("study", "", processes=9, pairs=999, paced_pairs=99, warmup=9, calls=9)
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
    assert "layout" not in root.document["root"], "it is at its default"
    flat = next(iter(planned(recipe(train(), architecture="flat")).nodes.values()))
    assert flat.document["root"]["layout"] == "mean"
    assert flat.document["task"]["input_shape"] == [2]
    monkeypatch.setitem(toy.Toy.layouts, "other", toy.Toy.layouts["mean"])  # type: ignore[index]
    monkeypatch.setattr(toy.Flat, "layout", "other")
    assert next(iter(planned(recipe(train(), architecture="flat")).nodes)) != flat.key


def test_cells_that_nothing_trains_are_known(planned: Callable[..., Plan]) -> None:
    plan = planned(cells(training={"plain": [train()], "none": []}, pruning={"full": [], "half": [Halve()]}))
    assert [name.partition("[")[2] for name in plan.untrained()] == ["conv-none-full-seed0]"]  # Halve does not tell

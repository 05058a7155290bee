"""Running the graph: what a step may see and do, and what becomes of one that fails."""

from __future__ import annotations

import hashlib
import random
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import toy
from fakes import logged
from toy import Broken, Halve, Mimic, Nothing, Picky, Tune

from harness import CellError, Data, Loss, Matrix, Step, Unsupported, train
from harness.build.executor import Executor, derive
from harness.build.training import digest
from harness.store.local import Store
from harness.suite.matrix import Cell

Build = Callable[..., Executor]


def cells(*steps: Step, seed: int = 0, architecture: str = "conv") -> list[Cell]:
    return list(Matrix(dataset="toy-synthetic", architecture=architecture, seed=seed, steps={"only": steps}).cells("m"))


def synthetic() -> Data:
    return toy.ToySynthetic().load(toy.write(Path("made")), Path("cache"))


def last(executor: Executor) -> str:
    return list(executor.plan.nodes)[-1]


@pytest.fixture(autouse=True)
def _fresh_count() -> None:
    toy.Toy.loads.clear()


def built(executor: Executor) -> torch.nn.Module:
    executor.build_all()
    return executor.model(last(executor))


# ------------------------------------------------------------------------------------------------------ building


def test_a_recipe_is_built_step_by_step(executor: Build, store: Store) -> None:
    run = executor(cells(train(), Halve(0.25)))
    run.build_all()
    _, trained, halved = run.plan.nodes
    before, after = run.model(trained).state_dict(), run.model(halved).state_dict()
    assert torch.equal(after["6.weight"], before["6.weight"] * 0.25)
    assert store.get(halved).facts == {"factor": 0.25, "restored_difference": 0}  # type: ignore[union-attr]
    assert (store.root / "progress").exists()
    assert list((store.root / "progress").iterdir()) == []


def test_an_architecture_reads_the_form_of_the_data_that_it_asks_for(executor: Build) -> None:
    run = executor(cells(train(), architecture="flat"))
    data = run.library.load("toy-synthetic", None, "mean")
    assert data.task.input_shape == (2,)
    whole = run.library.load("toy-synthetic")
    np.testing.assert_allclose(data.test.inputs, whole.test.inputs.mean(axis=2), rtol=1e-6)
    np.testing.assert_array_equal(data.test.targets, whole.test.targets)
    assert built(run)(torch.zeros(3, 2)).shape == (3, 2)
    assert toy.Toy.loads.count("toy-synthetic") <= 1, "both forms come of one reading"


def test_the_same_recipe_gives_the_same_weights_in_another_store(executor: Build, tmp_path: Path) -> None:
    first = built(executor(cells(train(), Mimic(), Tune())))
    store = Store(tmp_path / "another")
    run = executor(cells(train(), Mimic(), Tune()))
    again = Executor(run.plan, run.plugins, run.library, store, run.display)
    assert digest(built(again)) == digest(first)


def test_seeds_give_different_networks(executor: Build) -> None:
    assert digest(built(executor(cells(train())))) != digest(built(executor(cells(train(), seed=1))))


def test_what_the_store_has_is_not_built_again(executor: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    executor(cells(train())).build_all()
    monkeypatch.setattr(toy.Conv, "build", lambda *_: pytest.fail("built again"))
    run = executor(cells(train()))
    run.build_all()
    assert run.build(last(run)).facts["trainings"][0]["epochs"] == 2


def test_a_damaged_artefact_is_built_again_to_the_same_bytes(executor: Build, said: list[str]) -> None:
    run = executor(cells(train()))
    run.build_all()
    file = run.build(last(run)).file
    before = file.read_bytes()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    again = executor(cells(train()))
    assert again.build(last(again)).file.read_bytes() == before
    assert len(said) == 1
    assert "does not match its hash" in said[0]


def test_training_is_recorded_with_the_artefact(executor: Build) -> None:
    run = executor(cells(train(), Tune(epochs=3)))
    run.build_all()
    (fit,) = run.build(last(run)).facts["trainings"]
    assert (fit["name"], fit["phase"], fit["epochs"], fit["examples"]) == ("fit", "finetune", 3, 48)
    assert len(fit["history"]) == 3
    assert fit["history"][0].keys() == {"loss", "auroc", "lr", "seconds"}


# ----------------------------------------------------------------------------------------------------- objective


def test_the_objective_flows_on_into_later_training(executor: Build) -> None:
    Mimic.seen.clear()
    run = executor(cells(train(), Mimic(0.9), Halve(), Tune()))
    run.build_all()
    keys = list(run.plan.nodes)
    # 2 epochs of 3 batches in mimic itself, and 1 epoch of 3 in the tuning after the pruning
    assert len(Mimic.seen) == 2 * 3 + 3
    assert None not in Mimic.seen
    with torch.inference_mode():
        inputs = torch.from_numpy(run.library.load("toy-synthetic").train.inputs)
        answers = run.model(keys[1])(inputs)
    for given in Mimic.seen:
        assert (answers - torch.tensor(given)).abs().sum(1).min() < 1e-5, "the teacher is the model before mimic"


def test_the_data_set_s_loss_trains_and_distills(executor: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[torch.Tensor] = []

    def doubled(self: object, task_loss: Loss) -> Loss:
        def loss(logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
            losses.append(2 * task_loss(logits, targets, teacher))
            return losses[-1]

        return loss

    monkeypatch.setattr(toy.ToySynthetic, "loss", doubled, raising=False)
    executor(cells(train(), Mimic(0.0))).build_all()
    assert len(losses) == 2 * 3 + 2 * 3  # mimic mixes it with its own term


def test_without_a_teacher_the_objective_is_the_task(executor: Build) -> None:
    Mimic.seen.clear()
    executor(cells(train(), Tune())).build_all()
    assert Mimic.seen == []


def test_the_teacher_and_the_weight_matter(executor: Build) -> None:
    weights = {digest(built(executor(cells(train(), Mimic(weight), Tune())))) for weight in (0.0, 0.5)}
    assert len(weights) == 2


def test_only_a_step_that_says_so_teaches(executor: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def teach(self: Halve, model: torch.nn.Module, context: Any) -> torch.nn.Module:
        context.teach(model)
        return model

    monkeypatch.setattr(Halve, "apply", teach)
    run = executor(cells(Halve()))
    with pytest.raises(CellError, match=r"halve.* does not declare is_teacher = True"):
        run.build(last(run))


# ------------------------------------------------------------------------------------------------------- context


@pytest.fixture
def context(executor: Build, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The context that a step was given."""
    given: list[Any] = []
    monkeypatch.setattr(Halve, "apply", lambda self, model, context: given.append(context) or model)
    built(executor(cells(train(), Mimic(), Halve(), seed=3)))
    return given[0]


def reachable(start: object) -> Iterator[object]:
    """Everything that attributes, items, bound methods and closures lead to."""
    seen: dict[int, object] = {}
    todo = [start]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (str, bytes, int, float, type, types.ModuleType)):
            continue
        seen[id(thing)] = thing
        yield thing
        if isinstance(thing, dict):
            todo += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset)):
            todo += thing
        elif isinstance(thing, types.MethodType):
            todo += [thing.__self__, thing.__func__]
        elif isinstance(thing, types.FunctionType):
            todo += [cell.cell_contents for cell in thing.__closure__ or ()]
        else:
            todo.append(getattr(thing, "__dict__", {}))


def test_nothing_leads_from_a_context_to_the_test_part(context: Any) -> None:
    data = synthetic()
    found = [thing for thing in reachable(context) if isinstance(thing, (np.ndarray, torch.Tensor))]
    values = {float(value) for thing in found for value in torch.as_tensor(thing).detach().flatten()}
    assert values >= set(data.train.inputs.flatten().tolist()), "the search finds what is there"
    assert values >= set(data.validation.inputs.flatten().tolist())
    assert not values & set(data.test.inputs.flatten().tolist())


def test_a_context_gives_one_validation_example(context: Any) -> None:
    data = synthetic()
    assert np.array_equal(context.example.numpy(), data.validation.inputs[:1])
    assert context.task == data.task


def test_calibration_draws_validation_examples_once_each(context: Any) -> None:
    data = synthetic()
    chosen = context.calibration(7)
    rows = [next(i for i, row in enumerate(data.validation.inputs) if np.array_equal(row, c)) for c in chosen.numpy()]
    assert len(set(rows)) == 7
    assert rows != list(range(7))
    assert torch.equal(context.calibration(7), chosen)
    assert len(context.calibration(20)) == 20
    assert torch.equal(context.calibration(21), context.calibration(20)), "there are 20"


def test_calibration_from_the_training_part(context: Any) -> None:
    assert torch.equal(context.calibration(999, "train"), torch.from_numpy(synthetic().train.inputs))
    with pytest.raises(CellError, match="asks for calibration from 'test'; it is 'validation' or 'train'"):
        context.calibration(3, "test")


def test_a_context_brings_the_teacher_random_numbers_and_progress(context: Any, executor: Build) -> None:
    run = executor(cells(train(), Mimic(), Halve(), seed=3))
    trained = list(run.plan.nodes)[1]
    assert digest(context.teacher) == digest(run.model(trained))
    assert not context.teacher.training
    draws = [torch.rand(3, generator=context.generator(purpose)) for purpose in ("", "", "b")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    context.progress(1, 2, "half")


def test_without_a_teacher_there_is_none(executor: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(Halve, "apply", lambda self, model, context: given.append(context) or model)
    built(executor(cells(train(), Halve())))
    assert given[0].teacher is None


def test_two_fits_of_one_name_are_two_trainings(context: Any) -> None:
    models = [context.fit(context.fresh(), "train", epochs=epochs) for epochs in (1, 2)]
    assert [(row["name"], len(row["history"])) for row in context.facts["trainings"]] == [("fit", 1), ("fit-2", 2)]
    assert digest(models[0]) != digest(models[1])


def test_fitting_leaves_the_model_that_it_is_given_as_it_was(context: Any) -> None:
    model = context.fresh()
    before = digest(model)
    fitted = context.fit(model, epochs=1)
    assert digest(model) == before != digest(fitted)
    assert fitted is not model


def test_score_is_the_figure_that_selects_an_epoch_on_validation_data(context: Any) -> None:
    model = context.fit(context.fresh(), epochs=2)
    best = max(row["auroc"] for row in context.facts["trainings"][0]["history"])
    model.train()
    before = digest(model)
    assert context.score(model) == best
    assert digest(model) == before
    assert all(module.training for module in model.modules())


def test_score_of_a_network_without_finite_answers_is_an_error(context: Any) -> None:
    model = context.fresh()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(CellError, match=r"calls score\(\) with a network whose auroc on the validation split is nan"):
        context.score(model)


def test_fit_calls_the_step_s_hooks_with_the_copy_that_it_trains(context: Any) -> None:
    model, seen = context.fresh(), set[int]()
    fitted = context.fit(model, epochs=1, before_step=lambda copy: seen.add(id(copy)), after_step=None)
    assert seen == {id(fitted)}
    with pytest.raises(CellError, match=r"calls fit\(after_step=3\); give a function of the model"):
        context.fit(model, epochs=1, after_step=3)


def test_seeds_are_by_purpose_step_and_cell(context: Any, executor: Build) -> None:
    assert context.seed("a") == context.seed("a") == derive(3, "halve", "a")
    assert context.seed("a") != context.seed("b")
    assert 0 <= context.seed("a") < 2**63
    facts = []
    for seed in (0, 1):
        run = executor(cells(Tune(), seed=seed))
        facts.append(run.build(last(run)).facts)
    assert facts[0]["seed"] != facts[1]["seed"]
    assert facts[0]["calibration"] != facts[1]["calibration"]


def test_a_fresh_network_is_not_the_recipes_first_one(context: Any) -> None:
    one, two = context.fresh(), context.fresh()
    assert digest(one) == digest(two)


def test_a_step_is_given_its_own_copy(executor: Build) -> None:
    run = executor(cells(train(), Halve(0.0)))
    run.build_all()
    _, trained, halved = run.plan.nodes
    assert run.model(trained).state_dict()["6.weight"].abs().sum() > 0
    assert run.model(halved).state_dict()["6.weight"].abs().sum() == 0


# ------------------------------------------------------------------------------------------------------- failing


def outcome(executor: Executor) -> pytest.ExceptionInfo[Exception]:
    executor.build_all()
    with pytest.raises((CellError, Unsupported)) as caught:
        executor.build(last(executor))
    return caught


@pytest.mark.parametrize(
    ("step", "kind", "message"),
    [
        (
            Broken(),
            CellError,
            r"apply\(\) of step 'broken' raised ZeroDivisionError: the toy broke \(.*toy.py, line \d+\)",
        ),
        (Nothing(), CellError, r"train\(\) > nothing\(\) gave NoneType, not a network"),
        (Picky(), Unsupported, "picky cannot prune a Sequential"),
        (
            Tune(epochs=0),
            CellError,
            r"calls fit\(\): Training\(epochs=0\): epochs, batch and examples are whole numbers",
        ),
    ],
)
def test_a_step_that_fails_fails_alone_and_is_named(
    executor: Build, store: Store, step: Step, kind: type[Exception], message: str
) -> None:
    run = executor([*cells(train(), step), *cells(Halve())])
    run.build_all()
    keys = list(run.plan.nodes)
    with pytest.raises(kind, match=message):
        run.build(keys[2])
    assert [store.has(key) for key in keys] == [True, True, False, True]


class Doubled(torch.Tensor):
    """A tensor subclass."""


def _wrapped(model: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.DataParallel(model)


def _masked(model: Any) -> torch.nn.Module:
    from torch.nn.utils import prune

    prune.l1_unstructured(model[0], "weight", 0.5)
    return cast(torch.nn.Module, model)


def _parametrized(model: Any) -> torch.nn.Module:
    torch.nn.utils.parametrizations.weight_norm(model[0])
    return cast(torch.nn.Module, model)


def _subclassed(model: Any) -> torch.nn.Module:
    model[0].weight = torch.nn.Parameter(model[0].weight.detach().as_subclass(Doubled))
    return cast(torch.nn.Module, model)


def _hooked(model: torch.nn.Module) -> torch.nn.Module:
    model.register_forward_hook(lambda module, inputs, output: output + 1)
    return model


def _probable(model: Any) -> torch.nn.Module:
    model.gives_probabilities = True
    return cast(torch.nn.Module, model)


def _cast(model: torch.nn.Module) -> torch.nn.Module:
    return model.double()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            torch.fx.symbolic_trace,
            r"cannot be restored from its file: the network is a GraphModule of torch.fx\. A step",
        ),
        (torch.compile, r"cannot be stored: the network is a compiled module \(torch.compile\)\. A step's result is"),
        (lambda model: torch.jit.trace(model, torch.zeros(1, 2, 16)), "the network is a compiled ScriptModule"),
        (_wrapped, r"the network is a wrapper \(DataParallel\)"),
        (_masked, r"0 has a mask \(weight_orig\): call torch.nn.utils.prune.remove\(module, 'weight'\)"),
        (_parametrized, r"0 has parametrizations: call torch.nn.utils.parametrize.remove_parametrizations\(\)"),
        (_subclassed, "0.weight of Sequential is not a dense tensor, but a Doubled"),
        (_hooked, r"cannot be restored from its file: the network has hooks, which no file holds"),
        (_probable, "has another attribute gives_probabilities after it was restored"),
        (_cast, r"the network that halve\(factor=0.5\) gives fails on one example of shape \(1, 2, 16\): RuntimeError"),
    ],
)
def test_a_result_that_cannot_be_restored_is_refused_before_it_is_stored(
    executor: Build, store: Store, monkeypatch: pytest.MonkeyPatch, change: Callable[..., Any], message: str
) -> None:
    monkeypatch.setattr(Halve, "apply", lambda self, model, context: change(model))
    run = executor(cells(train(), Halve()))
    error = outcome(run)
    assert error.match(message)
    assert "raised" not in str(error.value)
    assert [store.has(key) for key in run.plan.nodes] == [True, True, False]


class Clipping(torch.nn.Module):
    """A network with a plain attribute, which no file holds, and which matters for large inputs only."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.limit = inner, 1e9

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.inner(inputs.clamp(max=self.limit))
        return answers


@pytest.fixture
def clipping(executor: Build, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Executor]:
    """A run whose step sets the limit."""
    build = toy.Conv.build

    def set_limit(limit: float) -> Executor:
        def apply(self: Step, model: Any, context: Any) -> Any:
            model.limit = limit
            return model

        monkeypatch.setattr(toy.Conv, "build", lambda self, task: Clipping(build(self, task)))
        monkeypatch.setattr(Halve, "apply", apply)
        return executor(cells(train(), Halve()))

    return set_limit


def test_what_no_file_holds_is_refused_if_any_validation_example_shows_it(
    clipping: Callable[[float], Executor],
) -> None:
    inputs = synthetic().validation.inputs
    limit = float(inputs[0].max()) + 0.001
    assert (inputs.reshape(len(inputs), -1).max(1) > limit).any()
    outcome(clipping(limit)).match(
        rf"answers validation examples with a difference of .* after it was restored .*\(limit is {limit!r}, 1000000000"
    )


def test_an_attribute_that_no_validation_example_shows_is_named(
    clipping: Callable[[float], Executor],
) -> None:
    with logged("harness.build") as lines:
        assert built(clipping(1e8)) is not None
    (warning,) = [line for line in lines if "attributes" in line]
    assert "loses attributes in its file: limit is 100000000.0, 1000000000.0 in the file. It answers" in warning


def test_a_large_fact_is_refused_by_its_name(executor: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(self: Step, model: Any, context: Any) -> Any:
        context.report(small=1, trace="x" * 2**20)
        return model

    monkeypatch.setattr(Halve, "apply", apply)
    outcome(executor(cells(train(), Halve()))).match(r"halve\(factor=0.5\) reports trace, and its facts have 1,048,\d+")


def test_a_hook_is_refused_though_it_changes_no_answer(executor: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def hooked(self: Step, model: Any, context: Any) -> Any:
        model[0].register_forward_hook(lambda module, inputs, output: output.clamp(max=1e9))
        return model

    monkeypatch.setattr(Halve, "apply", hooked)
    outcome(executor(cells(train(), Halve()))).match("cannot be restored from its file: 0 has hooks, which no file")


def test_what_follows_a_failed_step_fails_for_its_reason(executor: Build) -> None:
    run = executor(cells(train(), Broken(), Halve()))
    assert "the toy broke" in str(outcome(run).value)


def test_each_step_to_build_has_one_line_with_its_number(executor: Build, store: Store) -> None:
    steps = {"a": [train(), Halve(0.25)], "b": [Broken(), Tune()], "c": [Picky()]}
    run = executor(list(Matrix(dataset="toy-synthetic", architecture="conv", steps=steps).cells("m")))
    with logged("harness") as lines:
        run.build_all()
    assert [line.partition("/6] ")[0] for line in lines if "reading" not in line] == [
        "[1", "[2", "[3", "failed: [4", "[5", "skipped: [6",
    ]  # fmt: skip
    assert "failed: [4/6] toy-synthetic conv seed 0: broken()" in lines[4]
    assert lines[5].endswith("broken() > tune(epochs=1): not built, because a step before it failed")
    again = Executor(run.plan, run.plugins, run.library, store, run.display)
    with logged("harness") as lines:
        again.build_all()
    assert [line.partition("]")[0] for line in lines if "/" in line.partition("]")[0]] == [
        "failed: [1/3", "[2/3", "skipped: [3/3",
    ]  # fmt: skip


def test_a_step_that_another_run_built_meanwhile_has_its_line(executor: Build) -> None:
    run, other = executor(cells(train())), executor(cells(train()))
    needed = run.plan.needed

    def late(has: Callable[[str], bool]) -> Any:
        missing = needed(has)
        other.build_all()
        return missing

    object.__setattr__(run.plan, "needed", late)
    with logged("harness.build") as lines:
        run.build_all()
    assert [line for line in lines if "another" in line] == [
        "[1/2] toy-synthetic conv seed 0: fresh network: another run built it",
        "[2/2] toy-synthetic conv seed 0: train(): another run built it",
    ]


def test_the_cause_is_kept(executor: Build) -> None:
    assert isinstance(outcome(executor(cells(Broken()))).value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("target", "attribute"), [(toy.Conv, "build"), (toy.ToySynthetic, "load"), (Halve, "dump"), (Mimic, "loss")]
)
def test_whatever_a_plugin_raises_is_contained(
    executor: Build, monkeypatch: pytest.MonkeyPatch, target: type, attribute: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("a plugin's bug")

    run = executor(cells(train(), Mimic(), Halve()))
    monkeypatch.setattr(target, attribute, broken)
    run.build_all()
    with pytest.raises(Exception, match="LookupError: a plugin's bug") as caught:
        run.build(last(run))
    assert type(caught.value).__module__ == "harness.errors"


def test_the_global_random_states_are_left_alone(
    executor: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[tuple[float, ...]] = []

    def draw(self: Halve, model: torch.nn.Module, context: Any) -> torch.nn.Module:
        drawn.append((random.random(), np.random.random(), torch.rand(()).item()))
        return model

    monkeypatch.setattr(Halve, "apply", draw)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(()).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    executor(cells(train(), Halve())).build_all()
    assert (random.random(), np.random.random(), torch.rand(()).item()) == expected
    executor(cells(train(), Halve(), Tune())).build_all()
    again = executor(cells(train(), Halve(0.5)))
    Executor(again.plan, again.plugins, again.library, Store(tmp_path / "elsewhere"), again.display).build_all()
    assert len(drawn) == 2
    assert drawn[0] == drawn[1], "a step that draws from the global state is reproducible all the same"


def test_derived_seeds_are_63_bits_of_a_hash() -> None:
    assert derive("a", 1) == int(hashlib.sha256(b"a/1").hexdigest()[:16], 16) // 2

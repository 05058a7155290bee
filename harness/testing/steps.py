"""What every step must hold to. An author's module imports all of it and defines the fixture ``step``.

A step is tried, by the real executor, on three small networks of stock layers (convolutions with BatchNorm, an LSTM,
linear layers) and on an odd one. A step that is made for other networks overrides the fixture ``network`` with names of
registered architectures for inputs (3, 32) and two labels. What one check reports, the others leave out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.contracts import Step, Task
from harness.errors import HarnessError, Unsupported, UsageError
from harness.keys import canonical, plain
from harness.plan import describe
from harness.testing.blame import blame, some
from harness.testing.imports import imports_cleanly
from harness.testing.world import LABELS, NETWORKS, ODD, SHAPE, World, lent

if TYPE_CHECKING:
    from harness.testing.observation import Observation

#: The built-in steps that a step must go together with: it works beside them, or refuses with a reason.
OTHERS = ("train", "prune", "quantize", "distill")
#: What a loaded model may answer otherwise than the one that was saved: relative, and absolute.
TOLERANCE = 1e-5, 1e-6
#: A reason shorter than this tells nobody anything.
REASON = 15


class Bench:
    """The worlds that steps are tried in, and what was seen there, each once."""

    def __init__(self, folder: Path) -> None:
        self.first = World(folder / "first")
        self._second = World(folder / "second")
        self._other_test = World(folder / "other-test", test_seed=3)
        self._seen: dict[tuple[Any, ...], Observation] = {}

    def see(self, step: Step, network: str) -> Observation:
        """The step on the network."""
        return self._observe(self.first, step, network)

    def again(self, step: Step, network: str) -> Observation:
        """The same in another store, with the global random states otherwise."""
        return self._observe(self._second, step, network, disorder=1)

    def with_other_test_data(self, step: Step, network: str) -> Observation:
        """The same where the test part is another."""
        return self._observe(self._other_test, step, network)

    def with_other_seed(self, step: Step, network: str) -> Observation:
        """The same with another seed."""
        return self._observe(self.first, step, network, seed=1)

    def _observe(self, world: World, step: Step, network: str, seed: int = 0, disorder: int = 0) -> Observation:
        from harness.testing.observation import observe

        try:
            identity = (world, type(step), canonical(step.parameters()), network, seed)
        except UsageError:
            pytest.skip(f"{describe(step)}: its parameters make no key; test_step_parameters_make_the_key tells why")
        if identity not in self._seen:
            self._seen[identity] = observe(world, network, step, seed, disorder)
        return self._seen[identity]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The kit's worlds."""
    return Bench(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    """The name of the network that a step is tried on."""
    return str(request.param)


# ------------------------------------------------------------------------------------------------- what it says


def test_step_describes_itself(step: Step) -> None:
    """It has a docstring, its name is registered to it, and its parameters are typed fields of a frozen dataclass."""
    from harness.plugins import installed

    kind, thing = type(step), f"step {step.name!r}"
    if not kind.__doc__ or _written_by_dataclass(kind):
        blame(
            thing,
            wanted="a docstring: what it does to the network, and what its parameters mean",
            got=f"none on {kind.__qualname__}",
            mend="write it under the line that begins with class (or def)",
        )
    steps = installed().steps
    if step.name not in steps or steps.get(step.name) is not kind:
        found = f"{steps.get(step.name)} under that name" if step.name in steps else "nothing of that name"
        blame(
            thing,
            wanted=f"{kind} among the installed steps, by which its artefacts are loaded",
            got=found,
            mend="register the class in the hook harness_steps of a module that an entry point of the group harness "
            "names, and install the package",
        )
    if not type(step).examples():
        blame(
            thing,
            wanted="at least one value of the step to check",
            got="examples() gives none",
            mend="let examples() return one value for each way in which the step works",
        )


def test_step_parameters_make_the_key(step: Step) -> None:
    """Its parameters are JSON, give the same step again, and each of them enters the key."""
    thing = describe(step)
    try:
        given = json.loads(json.dumps(plain(step.parameters())))
    except (UsageError, TypeError) as error:
        blame(
            thing,
            wanted="parameters() of JSON values: numbers, texts, lists, mappings, true, false, none",
            got=str(error),
            mend="keep plain values in the fields, and make of them what you need in apply",
        )
    again = _again(step, given)
    if isinstance(again, str) or plain(again.parameters()) != plain(step.parameters()):
        blame(
            thing,
            wanted=f"harness.step({step.name!r}, **parameters) makes the same step of its own parameters {given}",
            got=again if isinstance(again, str) else describe(again),
            mend="let parameters() give exactly what the constructor takes",
        )
    for field, other in _variations(step):
        if canonical(other.parameters()) == canonical(step.parameters()):
            blame(
                thing,
                wanted=f"another value of {field} gives another key",
                got=f"{getattr(step, field)!r} and {getattr(other, field)!r} have the same parameters()",
                mend=f"let parameters() hold {field}; else a run takes the artefact of one for that of the other",
            )


def test_step_module_loads_no_torch(step: Step) -> None:
    """Its module can be imported, prints nothing and loads no torch: suites of 10,000 cells are collected so."""
    imports_cleanly(f"step {step.name!r}", type(step))


# -------------------------------------------------------------------------------------------- whether it works


def test_step_works_or_refuses(step: Step, network: str, bench: Bench) -> None:
    """On a network of stock layers it gives a network, or raises Unsupported with a reason."""
    _works_or_refuses(bench.see(step, network))


def test_step_works_on_an_odd_network_or_refuses(step: Step, bench: Bench) -> None:
    """So it does on a network without layers, whose forward pass branches on the data."""
    _works_or_refuses(bench.see(step, ODD))


def test_step_works_on_some_network(step: Step, bench: Bench) -> None:
    """There is a network in the kit that it does not refuse, else nothing else can be checked."""
    reasons = [bench.see(step, network).refused for network in NETWORKS]
    if all(reason is not None for reason in reasons):
        blame(
            describe(step),
            wanted="one of the kit's networks (convolutions, an LSTM, linear layers) that it handles",
            got=some([str(reason) for reason in reasons]),
            mend="let examples() give a value that handles one of them, or override the fixture `network` with the "
            "names of your own architectures, and deselect this check",
        )


def test_step_works_with_another_seed(step: Step, network: str, bench: Bench) -> None:
    """Another seed may give another model, but gives one."""
    bench.see(step, network).applied()
    other = bench.with_other_seed(step, network)
    if other.failed:
        blame(
            other.thing,
            wanted="a network with seed 1, as there is with seed 0",
            got=str(other.problem),
            mend="look for what depends on chance: a choice that may come out empty, a fixed index",
        )


def _works_or_refuses(found: Observation) -> None:
    if found.failed and found.undeclared:
        pytest.skip(f"{found.thing}: stopped for a training that is not declared; see test_step_declares_its_trainings")
    if found.refused is not None and len(str(found.refused)) < REASON:
        blame(
            found.thing,
            wanted="Unsupported with a reason that tells the user which network it needs",
            got=repr(str(found.refused)),
            mend="name the layer or property that it cannot handle",
        )
    if found.refused is not None or not found.failed:
        return
    raised = found.sighting.raised
    got = str(found.problem) if raised is None else f"{type(raised).__name__}: {raised}"
    blame(
        found.thing,
        wanted="a network, or Unsupported with a reason where the step is not made for this one",
        got=got,
        mend="return the changed network; where it lacks what the step needs, raise harness.Unsupported, so that its "
        "cells are skipped and not failed",
    )


# ------------------------------------------------------------------------------------------ whether it is honest


def test_step_is_deterministic(step: Step, network: str, bench: Bench) -> None:
    """With one seed it gives the same bits, in another store and whatever was drawn in the process before."""
    from harness.testing.observation import unlike

    first, second = bench.see(step, network), bench.again(step, network)
    difference = unlike(first.kept().file, second.kept().file)
    if difference:
        blame(
            first.thing,
            wanted="two runs with one seed give the same bits",
            got=difference,
            mend="draw from context.generator() or seed with context.seed('purpose'), iterate over nothing unordered, "
            "and keep nothing between two calls of apply",
        )


def test_step_does_not_touch_test_data(step: Step, network: str, bench: Bench) -> None:
    """It opens no file of the test part, and with another test part gives the same bits."""
    from harness.testing.observation import unlike

    first, again = bench.see(step, network), bench.again(step, network)
    opened = first.sighting.opened
    if opened:
        blame(
            first.thing,
            wanted="no file of the test part is opened while apply runs",
            got=f"opened {some(opened, 1)}",
            mend="use context.calibration() and context.fit() for data: test data chooses nothing",
        )
    if unlike(first.kept().file, again.kept().file):
        pytest.skip(f"{first.thing}: not deterministic, so that this cannot be told")
    other = bench.with_other_test_data(step, network)
    difference = "it fails there" if other.failed else unlike(first.kept().file, other.kept().file)
    if difference:
        blame(
            first.thing,
            wanted="another test part changes nothing",
            got=difference,
            mend="use context.calibration() and context.fit() for data, and do not look into the harness' objects",
        )


def test_step_leaves_its_input(step: Step, network: str, bench: Bench) -> None:
    """The network that apply is given is afterwards as it was: values, structure, modes, gradients, hooks."""
    found = bench.see(step, network)
    found.applied()
    if found.sighting.changed:
        blame(
            found.thing,
            wanted="the network that apply was given is left as it was",
            got=f"changed: {some(found.sighting.changed)}",
            mend="begin apply with model = copy.deepcopy(model)",
        )


def test_step_declares_its_trainings(step: Step, network: str, bench: Bench) -> None:
    """fits() tells the trainings that apply runs, and ``teaches`` whether it puts an objective in force."""
    from harness.testing.observation import matches, spelled

    found = bench.see(step, network)
    if found.refused is not None:
        pytest.skip(f"{found.thing}: refused: {found.refused}")
    seen, told = found.sighting, step.fits()
    if told is not None and not matches(seen.trainings, told, whole=not found.failed):
        blame(
            found.thing,
            wanted="fits() tells the trainings that apply runs, in order; the key and the time left depend on it",
            got=f"told: {spelled(told)}; run: {spelled(seen.trainings)}",
            mend="return from fits() a (phase, changes) for each call of context.fit(), () for none, and pass the very "
            "same changes; None if it depends on the network",
        )
    if seen.taught and not step.teaches:
        blame(
            found.thing,
            wanted="teaches = True on a step that calls context.teach()",
            got="teaches = False",
            mend="set it: the objective enters the keys of all that follows",
        )
    if step.teaches and not seen.taught and not found.failed:
        blame(
            found.thing,
            wanted="a call of context.teach(), as teaches = True says",
            got="none",
            mend="call context.teach(model) before context.fit(), or drop teaches",
        )


def test_step_previews_its_result(step: Step, network: str, bench: Bench) -> None:
    """What preview() gives is of the shape of what apply gives, and the network given to it is left as it was.

    Where the result holds no parameters, as in int8, its multiply-accumulates are compared alone.
    """
    import copy

    import torch

    from harness.operations import count
    from harness.steps import Train
    from harness.testing.watch import differences, shapes, snapshot
    from harness.testing.world import probe

    found = bench.see(step, network)
    seen, example = found.applied(), torch.from_numpy(probe(1))
    parent = bench.first.load(bench.first.build(network, [Train()]))
    if step.teaches:
        with lent() as plugins:
            preview: Any = plugins.architectures.get(network).build(Task(SHAPE, LABELS))
    else:
        given, before = copy.deepcopy(parent), snapshot(parent)
        preview = step.preview(given, example)
        changed = differences(before, snapshot(given))
        if changed:
            blame(
                found.thing,
                wanted="preview leaves the network that it is given as it was",
                got=f"changed: {some(changed)}",
                mend="begin preview with model = copy.deepcopy(model)",
            )
    if preview is None:
        return
    foreseen, macs = shapes(preview), count(preview.eval(), example).macs
    if _dense(found) and foreseen != seen.parameters:
        only = [f"{name} in the preview" for name in foreseen if name not in seen.parameters]
        only += [f"{name} in the result" for name in seen.parameters if name not in foreseen]
        blame(
            found.thing,
            wanted="the parameters of preview() are those of apply(), by name and shape",
            got=some(only),
            mend="share the code that changes the structure between the two, or let preview return None",
        )
    if seen.macs is not None and macs != seen.macs:
        blame(
            found.thing,
            wanted="as many multiply-accumulates in preview() as in the result of apply()",
            got=f"{macs} foreseen, {seen.macs} found",
            mend="share the code that changes the structure between the two, or let preview return None",
        )


# --------------------------------------------------------------------------------------- whether the result is sound


def test_step_keeps_shapes(step: Step, network: str, bench: Bench) -> None:
    """The result maps float32 (batch, *input_shape) to finite float32 (batch, labels), for a batch of 1 and of 5."""
    found = bench.see(step, network)
    wrong = _unsound(found.applied().answers)
    if wrong:
        blame(
            found.thing,
            wanted=f"finite float32 answers (batch, {len(LABELS)}) to float32 inputs, for a batch of 1 and of 5",
            got=wrong,
            mend="call the new network on a batch of one and of several before apply returns it",
        )


def test_step_survives_saving(step: Step, network: str, bench: Bench) -> None:
    """The model that was saved and loaded answers as the one that apply returned."""
    import torch

    found = bench.see(step, network)
    seen = found.applied()
    if _unsound(seen.answers):
        pytest.skip(f"{found.thing}: its answers are unsound; test_step_keeps_shapes tells how")
    if found.artefact is None:
        blame(
            found.thing,
            wanted="a result that can be saved and loaded",
            got=str(found.problem),
            mend="make it of stock torch.nn layers (whose sizes may differ), let a module of your own say what it is "
            "made of (harness.structure.Described), or define dump() and restore()",
        )
    relative, absolute = TOLERANCE
    for size, answer in seen.answers.items():
        loaded = found.loaded[size]
        if isinstance(loaded, str) or isinstance(answer, str):
            difference = str(loaded)
        elif torch.allclose(answer, loaded, rtol=relative, atol=absolute):
            continue
        else:
            difference = f"answers differ by up to {float((answer - loaded).abs().max()):.3g}"
        blame(
            found.thing,
            wanted=f"the loaded model answers as the one that apply returned, within {relative:g} and {absolute:g}",
            got=f"on a batch of {size}: {difference}",
            mend="keep all that forward() needs in parameters and persistent buffers (register_buffer), or define "
            "dump() and restore()",
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
        blame(
            found.thing,
            wanted="the process as it was: no thread, process or open file left, no setting changed",
            got=some(left),
            mend="use with statements: for files and pools, torch.no_grad(), torch.random.fork_rng(); draw from "
            "context.generator() instead of seeding torch",
        )


def test_step_prints_nothing(step: Step, network: str, bench: Bench) -> None:
    """It writes nothing to the standard output, which belongs to the tables and JSON of the harness."""
    found = bench.see(step, network)
    found.applied()
    if found.sighting.printed:
        blame(
            found.thing,
            wanted="nothing on the standard output",
            got=repr(found.sighting.printed[:200]),
            mend="tell facts by context.report(name=value), and how far it is by context.progress(done, total)",
        )


# ---------------------------------------------------------------------------------------- whether it goes with others


@pytest.mark.parametrize("other", OTHERS)
def test_step_composes_after(step: Step, network: str, other: str, bench: Bench) -> None:
    """After a built-in step it works, or refuses with a reason."""
    _composes(step, network, bench, [_built_in(other), step])


@pytest.mark.parametrize("other", OTHERS)
def test_step_composes_before(step: Step, network: str, other: str, bench: Bench) -> None:
    """Before a built-in step it works, or one of them refuses with a reason."""
    _composes(step, network, bench, [step, _built_in(other)])


def _composes(step: Step, network: str, bench: Bench, steps: list[Step]) -> None:
    from harness.steps import Train
    from harness.testing.watch import answers

    found = bench.see(step, network)
    found.kept()
    if _unsound(found.sighting.answers):
        pytest.skip(f"{found.thing}: its answers are unsound; test_step_keeps_shapes tells how")
    recipe = [Train(), *steps]
    thing = f"{' > '.join(map(describe, recipe))} on {network}"
    try:
        wrong = _unsound(answers(bench.first.load(bench.first.build(network, recipe), step)))
    except Unsupported as error:
        if len(str(error)) >= REASON:
            return
        wrong = f"Unsupported with the reason {str(error)!r}"
    except HarnessError as error:
        wrong = str(error)
    if wrong:
        blame(
            thing,
            wanted="a network that answers, or Unsupported with a reason",
            got=wrong,
            mend="give networks of stock layers with sizes that agree, take what such a network may be (also an int8 "
            "one), and raise harness.Unsupported for what is not handled",
        )


# -------------------------------------------------------------------------------------------------------- plumbing


def _built_in(name: str) -> Step:
    from harness.steps import step as step_by_name

    try:
        return step_by_name(name)
    except UsageError as error:
        pytest.skip(f"the built-in step {name} is not installed here: {error}")


def _unsound(answers: dict[int, Any]) -> str:
    """What is wrong with the answers, or ""."""
    import torch

    for size, answer in answers.items():
        if isinstance(answer, str):
            return f"for a batch of {size}: {answer}"
        if tuple(answer.shape) != (size, len(LABELS)) or answer.dtype != torch.float32:
            return f"for a batch of {size}: {answer.dtype} of shape {tuple(answer.shape)}"
        if not torch.isfinite(answer).all():
            return f"for a batch of {size}: NaN or infinity"
    return ""


def _again(step: Step, parameters: dict[str, Any]) -> Step | str:
    from harness.steps import step as step_by_name

    try:
        with lent(step):
            return step_by_name(step.name, **parameters)
    except HarnessError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _variations(step: Step) -> Iterator[tuple[str, Step]]:
    """The step with another value of one parameter: of those that it takes, one or two each."""
    if not dataclasses.is_dataclass(step):
        return
    for field in dataclasses.fields(step):
        value = getattr(step, field.name)
        others: list[Any] = [getattr(example, field.name, value) for example in type(step).examples()]
        if isinstance(value, bool):
            others.append(not value)
        elif isinstance(value, int):
            others.append(value + 1)
        elif isinstance(value, float):
            others += [value * 0.9, value + 1.0]
        for other in others:
            try:
                varied = dataclasses.replace(step, **{field.name: other})
            except Exception:  # the step refuses this value
                continue
            if getattr(varied, field.name) != value:
                yield field.name, varied


def _written_by_dataclass(kind: type) -> bool:
    return str(kind.__doc__).startswith(f"{kind.__name__}(")


def _dense(found: Observation) -> bool:
    """Whether the weights that multiply are parameters, as they are not in int8."""
    import torch

    result = found.sighting.returned
    assert isinstance(result, torch.nn.Module)
    state = result.state_dict().values()
    return bool(found.sighting.parameters) and all(
        isinstance(value, torch.Tensor) and not value.is_quantized for value in state
    )


def _kind_of(entry: str) -> str:
    return entry.split(" changed from ")[0]


#: What an author imports: the checks and their fixtures.
__all__ = ["bench", "network", *(name for name in dir() if name.startswith("test_"))]

"""Rules for steps. An author's module imports everything from here and defines the fixture ``step``.

The real executor tries a step on three small networks of stock layers (convolutions with BatchNorm, an LSTM, linear
layers) and on an unusual one. Authors of steps for other networks override the fixture ``network`` with the names of
registered architectures for inputs (3, 32) and two labels. Each fault is reported by one check; the others skip.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from harness.api import Step, Task
from harness.api.train import Train
from harness.build.plan import describe
from harness.errors import HarnessError, Unsupported, UsageError, describe_error
from harness.keys import canonical, to_jsonable
from harness.nn.operations import count
from harness.plugin.manager import installed
from harness.plugin.manager import step as step_by_name
from harness.testing._bench import (
    Bench,
    Trial,
    artefact_difference,
    as_declared,
    format_trainings,
    invalid_outputs,
)
from harness.testing._failing import fail_check, imports_cleanly, listing
from harness.testing._watch import differences, outputs_of, shapes, snapshot
from harness.testing._world import LABELS, NETWORKS, ODD, SHAPE, probe, temporarily_registered

#: A reason for a refusal must have at least this many characters to be useful.
REASON = 15
#: The built-in steps that a step must combine with, or refuse with a reason.
OTHERS = ("train", "prune", "quantize", "distill")
#: Relative and absolute tolerance between the outputs of the saved and of the loaded model.
TOLERANCE = 1e-5, 1e-6


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The kit's worlds."""
    return Bench(tmp_path_factory.mktemp("conformance"))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> str:
    """The name of the network that a step is tried on."""
    return str(request.param)


# ---------------------------------------------------------------------------------------------------- declarations


def test_step_describes_itself(step: Step) -> None:
    """It has a docstring and examples, and its class is registered under its name."""
    kind, subject = type(step), f"step {step.name!r}"
    if not kind.__doc__ or kind.__doc__.startswith(f"{kind.__name__}("):  # dataclasses write such a docstring
        fail_check(
            subject,
            wanted="a docstring: what the step does to the network, and what its parameters mean",
            got=f"none on {kind.__qualname__}",
            fix="write it under the line that begins with class (or def)",
        )
    steps = installed().steps
    if step.name not in steps or steps.get(step.name) is not kind:
        fail_check(
            subject,
            wanted=f"{kind} among the installed steps, because artefacts are loaded by that name",
            got=f"{steps.get(step.name)} under that name" if step.name in steps else "nothing of that name",
            fix="register the class in the hook harness_steps of a module that an entry point of the group harness "
            "names, and install the package",
        )
    if not kind.examples():
        fail_check(
            subject,
            wanted="at least one instance of the step to check",
            got="examples() returns none",
            fix="let examples() return one instance for each mode of the step",
        )


def test_step_parameters_make_the_key(step: Step) -> None:
    """Its parameters are JSON, make the same step again, and each of them is part of the key."""
    subject = describe(step)
    try:
        parameters = json.loads(json.dumps(to_jsonable(step.parameters())))
    except (UsageError, TypeError) as error:
        fail_check(
            subject,
            wanted="parameters() of JSON values: numbers, strings, lists, mappings, true, false, null",
            got=str(error),
            fix="store plain values in the fields, and make objects of them in apply",
        )
    again = _make_again(step, parameters)
    if isinstance(again, str) or to_jsonable(again.parameters()) != to_jsonable(step.parameters()):
        fail_check(
            subject,
            wanted=f"harness.step({step.name!r}, **parameters) makes the same step from its parameters {parameters}",
            got=again if isinstance(again, str) else describe(again),
            fix="let parameters() return exactly what the constructor takes",
        )
    for field, other in _variations(step):
        if canonical(other.parameters()) == canonical(step.parameters()):
            fail_check(
                subject,
                wanted=f"another value of {field} gives another key",
                got=f"{getattr(step, field)!r} and {getattr(other, field)!r} have the same parameters()",
                fix=f"include {field} in parameters(); otherwise a run uses the artefact of one value for the other",
            )


def test_step_module_loads_no_torch(step: Step) -> None:
    """Its module imports, prints nothing and does not load torch, so that large suites are collected quickly."""
    imports_cleanly(f"step {step.name!r}", type(step))


def test_step_declares_its_trainings(step: Step, network: str, bench: Bench) -> None:
    """trainings() declares the trainings that apply runs, and ``is_teacher`` whether it calls context.teach()."""
    trial = bench.trial(step, network)
    if trial.refusal is not None:
        pytest.skip(f"{trial.subject}: refused: {trial.refusal}")
    call, declared = trial.call, step.trainings()
    if declared is not None and not as_declared(call.trainings, declared, complete=not trial.failed):
        fail_check(
            trial.subject,
            wanted="trainings() declares the trainings that apply runs; the key and the time estimate depend on it",
            got=f"declared: {format_trainings(declared)}; run: {format_trainings(call.trainings)}",
            fix="return from trainings() one (phase, changes) for each call of context.fit(), with exactly the changes "
            "that are passed to it; () for no training; None if it depends on the network",
        )
    if call.called_teach and not step.is_teacher:
        fail_check(
            trial.subject,
            wanted="is_teacher = True on a step that calls context.teach()",
            got="is_teacher = False",
            fix="set is_teacher = True: the objective is part of the keys of all later steps",
        )
    if step.is_teacher and not call.called_teach and not trial.failed:
        fail_check(
            trial.subject,
            wanted="a call of context.teach(), because is_teacher = True",
            got="none",
            fix="call context.teach(model) before context.fit(), or remove is_teacher",
        )


def test_step_previews_its_result(step: Step, network: str, bench: Bench) -> None:
    """preview() returns a network of the same shape as apply(), and leaves its input unchanged.

    If the weights of the result are not parameters, as in int8, only the multiply-accumulates are compared.
    """
    trial = bench.trial(step, network)
    call, example = trial.successful_call(), torch.from_numpy(probe(1))
    parent = bench.first.load(bench.first.build(network, [Train()]))
    if step.is_teacher:
        with temporarily_registered() as plugins:
            preview: Any = plugins.architectures.get(network).build(Task(SHAPE, LABELS))
    else:
        model, before = copy.deepcopy(parent), snapshot(parent)
        preview = step.preview(model, example)
        changes = differences(before, snapshot(model))
        if changes:
            fail_check(
                trial.subject,
                wanted="preview leaves its input network unchanged",
                got=f"changed: {listing(changes)}",
                fix="begin preview with model = copy.deepcopy(model)",
            )
    if preview is None:
        return
    previewed, macs = shapes(preview), count(preview.eval(), example).macs
    if _is_dense(trial) and previewed != call.parameters:
        mismatches = [f"{name} in the preview" for name in previewed if name not in call.parameters]
        mismatches += [f"{name} in the result" for name in call.parameters if name not in previewed]
        fail_check(
            trial.subject,
            wanted="preview() and apply() give the same parameters, by name and shape",
            got=listing(mismatches),
            fix="share the code that changes the structure between the two, or let preview return None",
        )
    if call.macs is not None and macs != call.macs:
        fail_check(
            trial.subject,
            wanted="preview() and apply() give networks with equally many multiply-accumulates",
            got=f"{macs} in the preview, {call.macs} in the result",
            fix="share the code that changes the structure between the two, or let preview return None",
        )


def _make_again(step: Step, parameters: dict[str, Any]) -> Step | str:
    try:
        with temporarily_registered(step):
            return step_by_name(step.name, **parameters)
    except HarnessError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _variations(step: Step) -> Iterator[tuple[str, Step]]:
    """Yield copies of the step with another valid value of one parameter, each with the parameter's name."""
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


def _is_dense(trial: Trial) -> bool:
    """Whether all weights of the result are parameters, as they are not in int8."""
    result = trial.call.returned
    assert isinstance(result, torch.nn.Module)
    state = result.state_dict().values()
    return bool(trial.call.parameters) and all(
        isinstance(value, torch.Tensor) and not value.is_quantized for value in state
    )


# ------------------------------------------------------------------------------------------------------- behaviour


def test_step_works_or_refuses(step: Step, network: str, bench: Bench) -> None:
    """On a network of stock layers it returns a network, or raises Unsupported with a reason."""
    _works_or_refuses(step, bench.trial(step, network))


def test_step_works_on_an_odd_network_or_refuses(step: Step, bench: Bench) -> None:
    """The same on a network without layers, whose forward pass branches on the data."""
    _works_or_refuses(step, bench.trial(step, ODD))


def test_step_works_on_some_network(step: Step, bench: Bench) -> None:
    """It handles at least one of the kit's networks; otherwise nothing else can be checked."""
    refusals = [bench.trial(step, network).refusal for network in NETWORKS]
    if all(refusal is not None for refusal in refusals):
        fail_check(
            describe(step),
            wanted="one of the kit's networks (convolutions, an LSTM, linear layers) that it handles",
            got=listing([str(refusal) for refusal in refusals]),
            fix="let examples() return an instance that handles one of them, or override the fixture `network` with "
            "the names of your own architectures and deselect this check",
        )


def test_step_works_with_another_seed(step: Step, network: str, bench: Bench) -> None:
    """It returns a network with another seed too, though it may be a different one."""
    bench.trial(step, network).successful_call()
    other = bench.with_other_seed(step, network)
    if other.failed:
        fail_check(
            other.subject,
            wanted="a network with seed 1, as with seed 0",
            got=str(other.problem),
            fix="look for code that depends on chance: a random choice that may be empty, a fixed index",
        )


def _works_or_refuses(step: Step, trial: Trial) -> None:
    if trial.failed and trial.is_undeclared:
        pytest.skip(f"{trial.subject}: stopped at an undeclared training; see test_step_declares_its_trainings")
    if trial.refusal is not None and len(str(trial.refusal)) < REASON:
        fail_check(
            trial.subject,
            wanted="Unsupported with a reason that tells the user which networks the step handles",
            got=repr(str(trial.refusal)),
            fix="name the layer or property that it cannot handle",
        )
    if trial.refusal is not None or not trial.failed:
        return
    raised = trial.call.raised
    fail_check(
        trial.subject,
        wanted="a network, or Unsupported with a reason if the step cannot handle this one",
        got=str(trial.problem) if raised is None else describe_error(raised, type(step)),
        fix="return the changed network; if it lacks what the step needs, raise harness.Unsupported, so that its cells "
        "are skipped instead of failing",
    )


def test_step_is_deterministic(step: Step, network: str, bench: Bench) -> None:
    """With one seed it gives the same bits, in another store and whatever the global random states are."""
    first, second = bench.trial(step, network), bench.repeat(step, network)
    difference = artefact_difference(first.stored_artefact().file, second.stored_artefact().file)
    if difference:
        fail_check(
            first.subject,
            wanted="two runs with one seed give the same bits",
            got=difference,
            fix="use context.generator() or seed with context.seed('purpose'), do not iterate over sets, and store "
            "nothing between two calls of apply",
        )


def test_step_does_not_touch_test_data(step: Step, network: str, bench: Bench) -> None:
    """It opens no file of the test split, and gives the same bits with another test split."""
    first, again = bench.trial(step, network), bench.repeat(step, network)
    openings = first.call.test_openings
    if openings:
        fail_check(
            first.subject,
            wanted="apply opens no file of the test split",
            got=f"opened {listing(openings, 1)}",
            fix="get data from context.calibration() and context.fit(): test data must not influence a model",
        )
    if artefact_difference(first.stored_artefact().file, again.stored_artefact().file):
        pytest.skip(f"{first.subject}: not deterministic, so this cannot be checked")
    other = bench.with_other_test_data(step, network)
    difference = (
        "it fails with the other test split"
        if other.failed
        else artefact_difference(first.stored_artefact().file, other.stored_artefact().file)
    )
    if difference:
        fail_check(
            first.subject,
            wanted="another test split changes nothing",
            got=difference,
            fix="get data from context.calibration() and context.fit(), and do not read the harness' own objects",
        )


def test_step_leaves_its_input(step: Step, network: str, bench: Bench) -> None:
    """apply leaves its input network unchanged: values, structure, modes, gradients, hooks."""
    trial = bench.trial(step, network)
    call = trial.successful_call()
    if call.input_changes:
        fail_check(
            trial.subject,
            wanted="apply leaves its input network unchanged",
            got=f"changed: {listing(call.input_changes)}",
            fix="begin apply with model = copy.deepcopy(model)",
        )


def test_step_leaks_nothing(step: Step, network: str, bench: Bench) -> None:
    """It leaves no thread, process or open file (on Linux) behind, and changes no process-wide setting.

    Only what every call leaves behind counts, because a library may initialise itself once.
    """
    trial, again = bench.trial(step, network), bench.repeat(step, network)
    trial.successful_call()
    repeated = {_kind_of_leftover(entry) for entry in again.call.leftovers}
    leftovers = [entry for entry in trial.call.leftovers if _kind_of_leftover(entry) in repeated]
    leftovers += [f"the state of {name} random generator changed" for name in trial.changed_generators]
    if leftovers:
        fail_check(
            trial.subject,
            wanted="no thread, process or open file left behind, and no process-wide setting changed",
            got=listing(leftovers),
            fix="use with statements for files and pools, torch.no_grad() and torch.random.fork_rng(); draw from "
            "context.generator() instead of seeding torch",
        )


def test_step_prints_nothing(step: Step, network: str, bench: Bench) -> None:
    """It writes nothing to the standard output, which is for the harness' tables and JSON."""
    trial = bench.trial(step, network)
    call = trial.successful_call()
    if call.printed:
        fail_check(
            trial.subject,
            wanted="nothing on the standard output",
            got=repr(call.printed[:200]),
            fix="record facts with context.report(name=value), and progress with context.progress(done, total)",
        )


def _kind_of_leftover(entry: str) -> str:
    return entry.split(" changed from ")[0]


# --------------------------------------------------------------------------------------------------------- results


def test_step_keeps_shapes(step: Step, network: str, bench: Bench) -> None:
    """The result maps float32 (batch, *input_shape) to finite float32 (batch, labels), for a batch of 1 and of 5."""
    trial = bench.trial(step, network)
    invalid = invalid_outputs(trial.successful_call().outputs)
    if invalid:
        fail_check(
            trial.subject,
            wanted=f"finite float32 outputs (batch, {len(LABELS)}) for float32 inputs, for a batch of 1 and of 5",
            got=invalid,
            fix="call the new network on a batch of one and of several before apply returns it",
        )


def test_step_survives_saving(step: Step, network: str, bench: Bench) -> None:
    """The model that was saved and loaded gives the outputs of the one that apply returned."""
    trial = bench.trial(step, network)
    call = trial.successful_call()
    if invalid_outputs(call.outputs):
        pytest.skip(f"{trial.subject}: its outputs are invalid; see test_step_keeps_shapes")
    if trial.artefact is None and trial.is_undeclared:
        pytest.skip(f"{trial.subject}: stopped at an undeclared training; see test_step_declares_its_trainings")
    if trial.artefact is None:
        fail_check(
            trial.subject,
            wanted="a result that can be saved and loaded",
            got=str(trial.problem),
            fix="build it from stock torch.nn layers (of any size), make your own module describe its structure "
            "(harness.nn.structure.PrunableLayer), or define dump() and restore()",
        )
    relative, absolute = TOLERANCE
    for size, output in call.outputs.items():
        loaded = trial.loaded_outputs[size]
        if isinstance(loaded, str) or isinstance(output, str):
            difference = str(loaded)
        elif torch.allclose(output, loaded, rtol=relative, atol=absolute):
            continue
        else:
            difference = f"outputs differ by up to {float((output - loaded).abs().max()):.3g}"
        fail_check(
            trial.subject,
            wanted=f"the loaded model gives the outputs of the one that apply returned, within {relative:g} and "
            f"{absolute:g}",
            got=f"on a batch of {size}: {difference}",
            fix="store everything that forward() needs in parameters and persistent buffers (register_buffer), or "
            "define dump() and restore()",
        )


@pytest.mark.parametrize("other", OTHERS)
def test_step_composes_after(step: Step, network: str, other: str, bench: Bench) -> None:
    """After a built-in step it works, or refuses with a reason."""
    _composes(step, network, bench, [_built_in(other), step])


@pytest.mark.parametrize("other", OTHERS)
def test_step_composes_before(step: Step, network: str, other: str, bench: Bench) -> None:
    """Before a built-in step it works, or one of them refuses with a reason."""
    _composes(step, network, bench, [step, _built_in(other)])


def _composes(step: Step, network: str, bench: Bench, steps: list[Step]) -> None:
    trial = bench.trial(step, network)
    trial.stored_artefact()
    if invalid_outputs(trial.call.outputs):
        pytest.skip(f"{trial.subject}: its outputs are invalid; see test_step_keeps_shapes")
    recipe = [Train(), *steps]
    try:
        problem = invalid_outputs(outputs_of(bench.together.load(bench.together.build(network, recipe), step)))
    except Unsupported as error:
        if len(str(error)) >= REASON:
            return
        problem = f"Unsupported with the reason {str(error)!r}"
    except HarnessError as error:
        problem = str(error)
    if problem:
        fail_check(
            f"{' > '.join(map(describe, recipe))} on {network}",
            wanted="a network that works, or Unsupported with a reason",
            got=problem,
            fix="return networks of stock layers with consistent sizes, accept any such network (also an int8 one), "
            "and raise harness.Unsupported for one that the step cannot handle",
        )


def _built_in(name: str) -> Step:
    try:
        return step_by_name(name)
    except UsageError as error:
        pytest.skip(f"the built-in step {name} is not installed here: {error}")


#: What an author imports: the checks and their fixtures.
__all__ = ["bench", "network", *(name for name in dir() if name.startswith("test_"))]

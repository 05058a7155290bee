"""Checks of steps: what a step says of itself is so: parameters, trainings, the shape of its result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import Step, Task
from harness.build.plan import describe
from harness.errors import HarnessError, UsageError
from harness.keys import canonical, to_jsonable
from harness.testing.bench import Bench
from harness.testing.blame import fail_check, some
from harness.testing.imports import imports_cleanly
from harness.testing.world import LABELS, SHAPE, lent

if TYPE_CHECKING:
    from harness.testing.observation import Observation


def test_step_describes_itself(step: Step) -> None:
    """It has a docstring, its name is registered to it, and its parameters are typed fields of a frozen dataclass."""
    from harness.plugin.manager import installed

    kind, thing = type(step), f"step {step.name!r}"
    if not kind.__doc__ or _written_by_dataclass(kind):
        fail_check(
            thing,
            wanted="a docstring: what it does to the network, and what its parameters mean",
            got=f"none on {kind.__qualname__}",
            fix="write it under the line that begins with class (or def)",
        )
    steps = installed().steps
    if step.name not in steps or steps.get(step.name) is not kind:
        found = f"{steps.get(step.name)} under that name" if step.name in steps else "nothing of that name"
        fail_check(
            thing,
            wanted=f"{kind} among the installed steps, by which its artefacts are loaded",
            got=found,
            fix="register the class in the hook harness_steps of a module that an entry point of the group harness "
            "names, and install the package",
        )
    if not type(step).examples():
        fail_check(
            thing,
            wanted="at least one value of the step to check",
            got="examples() gives none",
            fix="let examples() return one value for each way in which the step works",
        )


def test_step_parameters_make_the_key(step: Step) -> None:
    """Its parameters are JSON, give the same step again, and each of them enters the key."""
    thing = describe(step)
    try:
        given = json.loads(json.dumps(to_jsonable(step.parameters())))
    except (UsageError, TypeError) as error:
        fail_check(
            thing,
            wanted="parameters() of JSON values: numbers, texts, lists, mappings, true, false, none",
            got=str(error),
            fix="keep plain values in the fields, and make of them what you need in apply",
        )
    again = _again(step, given)
    if isinstance(again, str) or to_jsonable(again.parameters()) != to_jsonable(step.parameters()):
        fail_check(
            thing,
            wanted=f"harness.step({step.name!r}, **parameters) makes the same step of its own parameters {given}",
            got=again if isinstance(again, str) else describe(again),
            fix="let parameters() give exactly what the constructor takes",
        )
    for field, other in _variations(step):
        if canonical(other.parameters()) == canonical(step.parameters()):
            fail_check(
                thing,
                wanted=f"another value of {field} gives another key",
                got=f"{getattr(step, field)!r} and {getattr(other, field)!r} have the same parameters()",
                fix=f"let parameters() hold {field}; else a run takes the artefact of one for that of the other",
            )


def test_step_module_loads_no_torch(step: Step) -> None:
    """Its module can be imported, prints nothing and loads no torch: suites of 10,000 cells are collected so."""
    imports_cleanly(f"step {step.name!r}", type(step))


def test_step_declares_its_trainings(step: Step, network: str, bench: Bench) -> None:
    """trainings() tells the trainings that apply runs, and ``is_teacher`` whether it puts an objective in force."""
    from harness.testing.observation import matches, spelled

    found = bench.see(step, network)
    if found.refused is not None:
        pytest.skip(f"{found.thing}: refused: {found.refused}")
    seen, told = found.sighting, step.trainings()
    if told is not None and not matches(seen.trainings, told, whole=not found.failed):
        fail_check(
            found.thing,
            wanted="trainings() tells the trainings that apply runs; the key and the time left depend on it",
            got=f"told: {spelled(told)}; run: {spelled(seen.trainings)}",
            fix="return from trainings() a (phase, changes) for each call of context.fit(), () for none, and pass the "
            "very same changes; None if it depends on the network",
        )
    if seen.taught and not step.is_teacher:
        fail_check(
            found.thing,
            wanted="is_teacher = True on a step that calls context.teach()",
            got="is_teacher = False",
            fix="set it: the objective enters the keys of all that follows",
        )
    if step.is_teacher and not seen.taught and not found.failed:
        fail_check(
            found.thing,
            wanted="a call of context.teach(), as is_teacher = True says",
            got="none",
            fix="call context.teach(model) before context.fit(), or drop teaches",
        )


def test_step_previews_its_result(step: Step, network: str, bench: Bench) -> None:
    """What preview() gives is of the shape of what apply gives, and the network given to it is left as it was.

    Where the result holds no parameters, as in int8, its multiply-accumulates are compared alone.
    """
    import copy

    import torch

    from harness.api.train import Train
    from harness.nn.operations import count
    from harness.testing.watch import differences, shapes, snapshot
    from harness.testing.world import probe

    found = bench.see(step, network)
    seen, example = found.applied(), torch.from_numpy(probe(1))
    parent = bench.first.load(bench.first.build(network, [Train()]))
    if step.is_teacher:
        with lent() as plugins:
            preview: Any = plugins.architectures.get(network).build(Task(SHAPE, LABELS))
    else:
        given, before = copy.deepcopy(parent), snapshot(parent)
        preview = step.preview(given, example)
        changed = differences(before, snapshot(given))
        if changed:
            fail_check(
                found.thing,
                wanted="preview leaves the network that it is given as it was",
                got=f"changed: {some(changed)}",
                fix="begin preview with model = copy.deepcopy(model)",
            )
    if preview is None:
        return
    foreseen, macs = shapes(preview), count(preview.eval(), example).macs
    if _dense(found) and foreseen != seen.parameters:
        only = [f"{name} in the preview" for name in foreseen if name not in seen.parameters]
        only += [f"{name} in the result" for name in seen.parameters if name not in foreseen]
        fail_check(
            found.thing,
            wanted="the parameters of preview() are those of apply(), by name and shape",
            got=some(only),
            fix="share the code that changes the structure between the two, or let preview return None",
        )
    if seen.macs is not None and macs != seen.macs:
        fail_check(
            found.thing,
            wanted="as many multiply-accumulates in preview() as in the result of apply()",
            got=f"{macs} foreseen, {seen.macs} found",
            fix="share the code that changes the structure between the two, or let preview return None",
        )


def _again(step: Step, parameters: dict[str, Any]) -> Step | str:
    from harness.plugin.manager import step as step_by_name

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


__all__ = [name for name in dir() if name.startswith("test_")]

"""Check that a step runs exactly the trainings that it declares, because its key is made from the declaration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from harness.api import Phase, Step, Training
from harness.errors import CellError, UsageError, nearest

#: The declared trainings of a step: phases, each with the fields of the architecture's Training that it replaces.
DeclaredTrainings = tuple[tuple[Phase, Mapping[str, Any]], ...]
PHASES: tuple[Phase, ...] = get_args(Phase)


def with_changes(training: Training, changes: Mapping[str, Any]) -> Training:
    """Replace fields of ``training``. Raises UsageError for an unknown field or an invalid value."""
    fields = [field.name for field in dataclasses.fields(Training)]
    for name in changes:
        if name not in fields:
            raise UsageError(f"a training has no field {name!r}{nearest(name, fields)}")
    return dataclasses.replace(training, **changes)


def declared_trainings(step: Step) -> DeclaredTrainings | None:
    """The trainings that ``step`` declares; None when it declares nothing. Raises CellError for a wrong declaration."""
    declared: Any = step.trainings()
    if declared is None:
        return None
    expected = (
        f"trainings() of step {step.name!r} gives {declared!r}; it must return None or a list of pairs like "
        "('finetune', {})"
    )
    if not isinstance(declared, Sequence) or isinstance(declared, str):
        raise CellError(expected)
    for entry in declared:
        if not isinstance(entry, tuple | list) or len(entry) != 2 or not isinstance(entry[1], Mapping):
            raise CellError(expected)
        if entry[0] not in PHASES:
            raise CellError(
                f"trainings() of step {step.name!r} names the phase {entry[0]!r}{nearest(str(entry[0]), PHASES)}"
            )
    return tuple((phase, dict(changes)) for phase, changes in declared)


def undeclared_difference(
    declared: DeclaredTrainings | None, ran: Iterable[tuple[Phase, Training]], trainings: Mapping[Phase, Training]
) -> str | None:
    """Describe how the trainings that a step ran differ from those that it declared; None when they agree.

    ``trainings`` are the architecture's own. The order does not matter. A step that declares nothing always agrees.
    """
    if declared is None:
        return None
    missing = [(phase, with_changes(trainings[phase], changes)) for phase, changes in declared]
    extra = []
    for entry in ran:
        if entry in missing:
            missing.remove(entry)
        else:
            extra.append(entry)
    if not missing and not extra:
        return None
    reasons = [f"declares {_describe(missing, trainings)} and did not run it"] if missing else []
    reasons += [f"ran {_describe(extra, trainings)} and does not declare it"] if extra else []
    return (
        f"{' and '.join(reasons)}: its key would miss something that the model depends on; let trainings() return "
        "each training as it is passed to context.fit, or None if that is unknown in advance"
    )


def _describe(entries: Iterable[tuple[Phase, Training]], trainings: Mapping[Phase, Training]) -> str:
    calls = []
    for phase, training in entries:
        changes = [
            f"{field.name}={getattr(training, field.name)!r}"
            for field in dataclasses.fields(Training)
            if getattr(training, field.name) != getattr(trainings[phase], field.name)
        ]
        calls.append(f"fit({', '.join([repr(phase), *changes])})")
    return ", ".join(calls)

"""The trainings of a step: what its ``trainings`` tells must be what it does, for the key holds what is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from harness.api import Phase, Step, Training
from harness.errors import CellError, UsageError, nearest

Fits = tuple[tuple[Phase, Mapping[str, Any]], ...]
PHASES: tuple[Phase, ...] = get_args(Phase)


def changed(training: Training, changes: Mapping[str, Any]) -> Training:
    """``training`` with some of its fields replaced. Raises UsageError for a name or a value that cannot be."""
    known = [field.name for field in dataclasses.fields(Training)]
    for name in changes:
        if name not in known:
            raise UsageError(f"a training has no field {name!r}{nearest(name, known)}")
    return dataclasses.replace(training, **changes)


def told(step: Step) -> Fits | None:
    """What ``trainings`` tells; None when it tells nothing. Raises CellError for what are no trainings."""
    found: Any = step.trainings()
    if found is None:
        return None
    wanted = f"trainings() of step {step.name!r} gives {found!r}; it is None or a list of pairs like ('finetune', {{}})"
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise CellError(wanted)
    for entry in found:
        if not isinstance(entry, tuple | list) or len(entry) != 2 or not isinstance(entry[1], Mapping):
            raise CellError(wanted)
        if entry[0] not in PHASES:
            raise CellError(
                f"trainings() of step {step.name!r} names the phase {entry[0]!r}{nearest(str(entry[0]), PHASES)}"
            )
    return tuple((phase, dict(changes)) for phase, changes in found)


def broken_promise(
    fits: Fits | None, ran: Iterable[tuple[Phase, Training]], trainings: Mapping[Phase, Training]
) -> str | None:
    """How the trainings that a step ran differ from those that it told, in words; None when they are the same.

    ``trainings`` are the architecture's. The order does not matter, and nothing that is told is always right.
    """
    if fits is None:
        return None
    left = [(phase, changed(trainings[phase], changes)) for phase, changes in fits]
    more = []
    for entry in ran:
        if entry in left:
            left.remove(entry)
        else:
            more.append(entry)
    if not left and not more:
        return None
    parts = [f"told of {_words(left, trainings)} and never ran it"] if left else []
    parts += [f"ran {_words(more, trainings)} and did not tell"] if more else []
    return (
        f"{' and '.join(parts)}: its key would not hold what the model depends on; let trainings() give each training as it "
        "is passed to context.fit, or None where that cannot be told before"
    )


def _words(entries: Iterable[tuple[Phase, Training]], trainings: Mapping[Phase, Training]) -> str:
    words = []
    for phase, training in entries:
        usual = trainings[phase]
        changes = [
            f"{field.name}={getattr(training, field.name)!r}"
            for field in dataclasses.fields(Training)
            if getattr(training, field.name) != getattr(usual, field.name)
        ]
        words.append(f"fit({', '.join([repr(phase), *changes])})")
    return ", ".join(words)

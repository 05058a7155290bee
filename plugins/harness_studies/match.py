"""Find the records of a published cell, by data set, architecture, environment and the steps of the recipe."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.api import Step
from harness_studies.document import CellSpec, FigureSpec, StepPattern

#: A cell's record as plain JSON, in the form that plugins receive.
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Match:
    """A record of a cell, and its values of the parameters that the study leaves open: (step, parameter) -> value."""

    record: Record
    open_values: Mapping[tuple[str, str], str]

    @property
    def seed(self) -> int:
        return int(self.record["axes"]["seed"])

    def choice(self, parameters: Sequence[str]) -> str:
        """The chosen values of these parameters, as the study writes them: "10/L2"."""
        values = {name: value for (_, name), value in self.open_values.items()}
        return "/".join(values[name].upper() for name in parameters if name in values)

    @functools.cached_property
    def context(self) -> tuple[Any, ...]:
        """The conditions that two cells must share so that their figures can be compared."""
        record = self.record
        axes, timing = record["axes"], record["timing"]
        protocol = ("", "")
        if timing is not None:
            protocol = (timing.get("protocol", "paired"), str(sorted(timing["profile"].items())))
        machine = str(sorted(record.get("machine", {}).items()))
        where = (record["suite"], record["matrix"], record["preset"], record["device"], axes["dataset"])
        return (*where, axes["profile"], *protocol, machine, str(sorted(record.get("versions", {}).items())))


class Matcher:
    """Find records; ``steps`` gives the defaults of parameters that a study does not name."""

    def __init__(self, records: Sequence[Record], steps: Mapping[str, type[Step]]) -> None:
        self.real = [record for record in records if not record["synthetic"]]
        self._steps = steps
        self._recipes = {
            entry["step"]: parse(entry["step"]) for record in self.real for entry in record.get("steps", ())
        }

    def matches(self, cell: CellSpec, figure: FigureSpec) -> list[Match]:
        """The records of a cell that count for the figure, on the first of its data sets that has any."""
        for dataset in cell.datasets:
            if matches := list(self._on(dataset, cell, figure)):
                return matches
        return []

    def _on(self, dataset: str, cell: CellSpec, figure: FigureSpec) -> Iterator[Match]:
        for record in self.real:
            axes, timing = record["axes"], record["timing"]
            profile = {} if timing is None else timing["profile"]
            if (axes["dataset"], axes["architecture"], axes["runtime"]) != (dataset, cell.architecture, cell.runtime):
                continue
            if record["preset"] not in figure.presets:
                continue
            # Published calls follow one another without a pause, and records of version 0.1 do not name the pace.
            profile = {"pace": "back-to-back"} | profile
            asked = {"pace": "back-to-back"} | dict(cell.profile)
            if any(profile.get(name) != value for name, value in asked.items()):
                continue
            open_values = self.recipe(cell.steps, [entry["step"] for entry in record.get("steps", ())])
            if open_values is not None:
                yield Match(record, open_values)

    def recipe(self, patterns: Sequence[StepPattern], steps: Sequence[str]) -> dict[tuple[str, str], str] | None:
        """The recipe's values of the open parameters; None if it is another recipe."""
        if len(patterns) != len(steps):
            return None
        open_values: dict[tuple[str, str], str] = {}
        for pattern, text in zip(patterns, steps, strict=True):
            name, values = self._recipes.get(text) or parse(text)
            if name != pattern.step:
                return None
            defaults = self._defaults(name)
            allowed = {**{key: (value,) for key, value in defaults.items()}, **dict(pattern.parameters)}
            # A parameter that neither the study nor the installed step knows could mean anything.
            for parameter in {**allowed, **values} if name in self._steps else allowed:
                default = defaults.get(parameter)
                value = values.get(parameter, "" if default is None else default)
                if not any(same(option, value) for option in allowed.get(parameter, ())):
                    return None
                if len(allowed[parameter]) > 1:
                    open_values[name, parameter] = str(value)
        return open_values

    def _defaults(self, step: str) -> dict[str, Any]:
        if step not in self._steps:
            return {}
        kind: Any = self._steps[step]
        fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Split a step as records write it, "prune(norm=l1, keep=0.5)", into its name and its parameters."""
    name, _, rest = text.partition("(")
    rest = rest.removesuffix(")")
    entries = re.split(r", (?=\w+=)", rest) if rest else []
    return name, {key: value for key, _, value in (entry.partition("=") for entry in entries)}


def same(option: Any, value: Any) -> bool:
    """Whether a value is the one that the study or a step's default asks for; None and "" both mean left open."""
    if option is None or option == "":
        return value is None or value == ""
    if isinstance(option, int | float) and not isinstance(option, bool):
        try:
            return float(value) == option
        except (TypeError, ValueError):
            return False
    return str(option) == str(value)


def value_of(record: Record, figure: str) -> float | None:
    """The value of a record's figure; "training" is the seconds of all its steps. None where it is unknown."""
    if figure == "training":
        seconds = [entry["seconds"] for entry in record.get("steps", ())]
        known = [entry for entry in seconds if entry is not None]
        return sum(known) if seconds and len(known) == len(seconds) else None
    entry = record["figures"].get(figure)
    return None if entry is None else entry["value"]

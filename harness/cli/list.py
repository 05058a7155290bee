"""Run ``harness list``: print what the installed plugins register, or one of these things in detail."""

from __future__ import annotations

import argparse
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from harness.api import Architecture, Dataset, Phase, Step
from harness.api.parameters import parameter_types
from harness.cli.common import add_json_option
from harness.errors import HarnessError, UsageError, nearest
from harness.keys import to_jsonable
from harness.plugin.manager import Plugins, Registry, installed


def add_list_command(commands: Any) -> None:
    """Declare the command on argparse's subparsers."""
    command = commands.add_parser(
        "list", help="print what the installed plugins register, and which plugins were left out"
    )
    command.add_argument(
        "name", nargs="?", metavar="NAME", help="print one thing in detail: a step with its parameters, a network, ..."
    )
    add_json_option(command)
    command.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    plugins = installed()
    if options.name is None:
        document: Any = {
            registry.heading: [_entry(registry, name) for name in registry] for registry in plugins.registries.values()
        } | {"problems": [str(problem) for problem in plugins.problems]}
        text = "\n".join(_overview(document))
    else:
        document = _details(plugins, options.name)
        text = "\n\n".join(map(_detail_text, document))
    print(json.dumps(document, indent=1) if options.json else text)


def _entry(registry: Registry[Any], name: str) -> dict[str, Any]:
    """The name of a registered object, its summary, and the plugin that registered it."""
    item, origin = registry.get(name), registry.origin(name)
    summary = getattr(item, "summary", "") or (item.__doc__ or "").strip().partition("\n")[0]
    return {
        "name": name,
        "summary": summary,
        "plugin": origin.plugin,
        "distribution": origin.distribution,
        "version": origin.version,
    }


def _overview(document: Mapping[str, Any]) -> Iterator[str]:
    for heading, entries in document.items():
        if heading == "problems":
            yield from (f"problem: {problem}" for problem in entries)
            continue
        yield heading
        for entry in entries:
            yield f"  {entry['name']:<18} {entry['summary']}  [{_origin(entry)}]"


def _origin(entry: Mapping[str, Any]) -> str:
    return f"{entry['plugin']} ({entry['distribution']} {entry['version']})"


# ------------------------------------------------------------------------------------------------------- one thing


def _details(plugins: Plugins, name: str) -> list[dict[str, Any]]:
    """All things called ``name``, of any kind. Raises UsageError, with the nearest names, if there is none."""
    registries = [registry for registry in plugins.registries.values() if name in registry]
    if not registries:
        known = {known for registry in plugins.registries.values() for known in registry}
        raise UsageError(f"no plugin registers {name!r}{nearest(name, known)}")
    return [
        {
            "kind": registry.kind,
            **_entry(registry, name),
            "description": inspect.cleandoc(registry.get(name).__doc__ or ""),
            "declares": _declarations(plugins, registry.get(name)),
        }
        for registry in registries
    ]


def _declarations(plugins: Plugins, item: Any) -> dict[str, Any]:
    """What a thing declares, by its kind."""
    if isinstance(item, type) and issubclass(item, Step):
        return {
            "parameters": _parameters(item),
            "trainings": _trainings(plugins, item),
            "teacher": item.is_teacher,
        }
    if isinstance(item, Architecture):
        return {"layout": item.layout} | {
            phase: to_jsonable(plugins.call(item, "training", phase)) for phase in get_args(Phase)
        }
    if isinstance(item, Dataset):
        return {
            "synthetic": item.synthetic,
            "fallback": item.fallback,
            "training examples": item.examples,
            "task": _jsonable(item.task),
            "layouts": {layout: _jsonable(task) for layout, task in item.layouts.items()},
        }
    return {}


def _parameters(step: type[Step]) -> list[dict[str, Any]]:
    """The parameters of a step; one without a default is required."""
    types = parameter_types(step)
    rows = []
    for parameter in inspect.signature(step).parameters.values():
        required = parameter.default is parameter.empty
        annotation = types.get(parameter.name, parameter.annotation)
        rows.append(
            {
                "name": parameter.name,
                "type": annotation if isinstance(annotation, str) else inspect.formatannotation(annotation),
                "required": required,
                "default": None if required else _jsonable(parameter.default),
            }
        )
    return rows


def _jsonable(value: Any) -> Any:
    try:
        return to_jsonable(value)
    except UsageError:
        return repr(value)


def _trainings(plugins: Plugins, step: type[Step]) -> list[dict[str, Any]] | None:
    """The trainings of a step with its defaults, or of its first example; None if they are known only when it runs."""
    from harness.build.trainings import declared_trainings

    def trainings(kind: type[Step]) -> Any:
        return declared_trainings(next(iter(kind.examples())))

    try:
        declared = plugins.call(step, trainings, step)
    except HarnessError:  # the conformance kit reports a step without an example
        return None
    return None if declared is None else [{"phase": phase} | _jsonable(changes) for phase, changes in declared]


def _detail_text(details: Mapping[str, Any]) -> str:
    lines = [f"{details['kind']} {details['name']}  [{_origin(details)}]"]
    about = details["description"] or details["summary"]
    if details["summary"] not in about:
        lines += ["", f"  {details['summary']}"]
    lines += ["", textwrap.indent(about, "  ")]
    facts = dict(details["declares"])
    if "parameters" in facts:
        lines += ["", *_parameter_lines(facts.pop("parameters")), ""]
        lines.append(f"  trainings: {_training_text(facts.pop('trainings'))}")
        if facts.pop("teacher"):
            lines.append("  the incoming network becomes the teacher of all later training")
    if facts := {name: value for name, value in facts.items() if value not in ("", None, {})}:
        lines += ["", *(f"  {name}: {_fact_text(value)}" for name, value in facts.items())]
    return "\n".join(lines)


def _parameter_lines(parameters: list[dict[str, Any]]) -> list[str]:
    from tabulate import tabulate

    if not parameters:
        return ["  no parameters"]
    rows = [[row["name"], row["type"], "required" if row["required"] else repr(row["default"])] for row in parameters]
    table = tabulate(rows, ["parameter", "type", "default"], tablefmt="plain", disable_numparse=True)
    return textwrap.indent(table, "  ").splitlines()


def _training_text(trainings: list[dict[str, Any]] | None) -> str:
    if trainings is None:
        return "known only when it runs"
    calls = []
    for training in trainings:
        changes = {name: value for name, value in training.items() if name != "phase"}
        calls.append(training["phase"] + (f" with {_fact_text(changes)}" if changes else ""))
    return ", ".join(calls) or "none"


def _fact_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact_text(entry)}" for name, entry in value.items() if entry is not None)
    if isinstance(value, list):
        return " x ".join(map(str, value)) if all(isinstance(entry, int) for entry in value) else ", ".join(value)
    return str(value)

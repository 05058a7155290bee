"""Validate plugins and the objects that they register; return the reason for a rejection."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from harness.api import Architecture, Dataset, Kind, Metric, Runtime, Step, Task, hookspecs
from harness.api.parameters import check_defaults
from harness.errors import UsageError, nearest

#: Names are part of cell names, which ``pytest -k`` selects by.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
WORDS_OF_PYTEST = ("and", "or", "not")


#: The harness' own kinds by the hook that registers them; plugins publish others (`harness.api.hookspecs`).
KINDS: Mapping[str, Kind] = {
    kind.hook: kind
    for kind in (
        Kind("dataset", Dataset, "harness_datasets"),
        Kind("architecture", Architecture, "harness_architectures"),
        Kind("step", Step, "harness_steps", by_class=True),
        Kind("metric", Metric, "harness_metrics"),
        Kind("runtime", Runtime, "harness_runtimes"),
    )
}
#: The hook by which plugins publish kinds.
PUBLISHES = "harness_kinds"


def refusal(kind: Kind, item: Any) -> str | None:
    """Why ``item`` cannot be registered as one of this kind, or None."""
    contract = f"{kind.contract.__module__.partition('.')[0]}.{kind.contract.__name__}"
    is_class = inspect.isclass(item) and issubclass(item, kind.contract)
    is_value = isinstance(item, kind.contract)
    if kind.by_class and not is_class:
        hint = f": register the class, register({type(item).__name__})" if is_value else ""
        return f"registered {item!r} as {kind.name}, which is not a subclass of {contract}{hint}"
    if not kind.by_class and not is_value:
        hint = f": register a value, register({item.__name__}())" if is_class else ""
        return f"registered {item!r} as {kind.name}, which is not an instance of {contract}{hint}"
    name = getattr(item, "name", None)
    if not isinstance(name, str) or not name:
        return f"registered {item!r}, whose `name` is {name!r}, not a non-empty string"
    if not NAME.fullmatch(name) or name in WORDS_OF_PYTEST:
        return (
            f"registered {kind.name} {name!r}: a name consists of letters, digits and . _ + -, begins with a letter, a "
            "digit or _, and is not 'and', 'or' or 'not'"
        )
    reason = _wrong_version(item) or _wrong_methods(item if kind.by_class else type(item), kind.contract)
    if reason is None and kind.by_class:
        reason = _wrong_step(item)
    if reason is None and isinstance(item, Dataset):
        reason = _wrong_tasks(item)
    return None if reason is None else f"registered {kind.name} {name!r}, {reason}"


def wrong_kind(item: Any, known: Mapping[str, Kind]) -> str | None:
    """Why a plugin cannot publish ``item`` as a kind beside the ``known`` ones, or None."""
    if not isinstance(item, Kind) or not isinstance(item.contract, type):
        return f"published {item!r}, which is not a harness.Kind with a class as its contract"
    if not item.hook.startswith("harness_") or item.hook in known or item.hook in hooks_of(hookspecs):
        return f"published the kind {item.name!r}, whose hook {item.hook!r} is in use or does not begin with harness_"
    if item.name in {kind.name for kind in known.values()}:
        return f"published the kind {item.name!r}, which already exists"
    return None


def _wrong_version(item: Any) -> str | None:
    # Only some kinds have a version.
    if isinstance(getattr(item, "version", ""), str):
        return None
    return f"whose `version` is {item.version!r}, not a string such as '2'"


def _wrong_methods(kind: type, contract: type) -> str | None:
    """Describe the first method that cannot be called as its contract declares, or return None."""
    for name, declared in vars(contract).items():
        own = inspect.getattr_static(kind, name)
        if name.startswith("_") or not inspect.isfunction(declared) or own is declared:
            continue
        method = own.__func__ if isinstance(own, staticmethod | classmethod) else own
        parameters = list(inspect.signature(declared).parameters)
        expected = f"{name}({', '.join(parameters)})"
        if not callable(method):
            return f"whose {name} is {method!r}: define {expected}"
        if not inspect.isfunction(method):
            continue
        arguments = parameters[1:] if isinstance(own, staticmethod) else parameters
        signature = inspect.signature(method)
        try:
            signature.bind(*arguments)
        except TypeError as error:
            return f"whose {name}{_bare(signature)} cannot be called as {expected} ({error}): define {expected}"
    return None


def _bare(signature: inspect.Signature) -> str:
    """The signature without annotations."""
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def _wrong_step(kind: type[Step]) -> str | None:
    if not _has_only_fields(kind):
        return "which is not a frozen dataclass: its parameters could not enter the key"
    try:
        check_defaults(kind)
    except UsageError as error:
        return f"which is invalid: {error}"
    if kind.apply is Step.apply:
        return "which does not define apply(self, model, context)"
    if kind.is_teacher and kind.loss is Step.loss:
        return "which has is_teacher = True and does not define loss(self, task_loss)"
    return None


def _has_only_fields(kind: type) -> bool:
    """Whether all state of an instance is in fields of a frozen dataclass; keys are computed from these fields."""
    if kind in (Step, object):
        return True
    own = vars(kind)
    if "__dataclass_params__" in own:
        return bool(own["__dataclass_params__"].frozen)
    adds = "__init__" in own or any("ClassVar" not in str(type_) for type_ in own.get("__annotations__", {}).values())
    return not adds and all(map(_has_only_fields, kind.__bases__))


def _wrong_tasks(dataset: Dataset) -> str | None:
    task, layouts = getattr(dataset, "task", None), dataset.layouts
    if not isinstance(task, Task):
        return f"whose `task` is {task!r}, not a harness.Task"
    if not isinstance(layouts, Mapping) or not all(isinstance(layout, Task) for layout in layouts.values()):
        return f"whose `layouts` are {layouts!r}, not a mapping from names to harness.Task"
    return None


# ----------------------------------------------------------------------------------------------------------- hooks


def wrong_hooks(module: object, kinds: Mapping[str, Kind]) -> str | None:
    """Why a module's hook implementations cannot be called, or None; ``kinds`` by the hooks that register them."""
    arguments = {name: list(inspect.signature(hook).parameters) for name, hook in hooks_of(hookspecs).items()}
    arguments |= {hook: ["register"] for hook in kinds}
    marked = hooks_of(module, marked_only=True)
    for name, function in list(marked.items()):
        if name not in arguments:
            if getattr(function, f"{hookspecs.PROJECT}_impl")["optionalhook"]:
                del marked[name]
                continue
            return f"implements {name}(), but no such hook exists{nearest(name, arguments)}; the plugin is left out"
    for name, function in marked.items():
        known, own = arguments[name], list(inspect.signature(function).parameters)
        for parameter in own:
            if parameter not in known:
                return f"is left out: hook {name}() has no argument {parameter!r}{nearest(parameter, known)}"
        if known == ["register"] and not own:
            return f"is left out: {name}() takes no argument; write {name}(register), and call register(...) in it"
    return None


def unmarked_hooks(module: object, kinds: Mapping[str, Kind]) -> list[str]:
    """Warn of each function that has a hook's name but is not marked as an implementation."""
    marked = hooks_of(module, marked_only=True)
    return [
        f"has a function {name}() that is not marked with @harness.hookimpl, so it is never called"
        for name in hooks_of(module)
        if name not in marked and (name in hooks_of(hookspecs) or name in kinds)
    ]


def hooks_of(module: object, marked_only: bool = False) -> dict[str, Callable[..., Any]]:
    """Return a module's functions that are named like hooks, or only those marked as implementations, by name."""
    mark = f"{hookspecs.PROJECT}_impl"
    functions = {name: getattr(module, name) for name, value in vars(module).items() if inspect.isroutine(value)}
    return {
        name: function
        for name, function in functions.items()
        if (hasattr(function, mark) if marked_only else name.startswith("harness_"))
    }

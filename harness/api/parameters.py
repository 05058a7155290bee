"""The parameters of steps: which types they have, and whether the values given are of these."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.api import Step


def resolved(annotations: Mapping[str, Any], scope: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The types that annotations mean, which may be text, in a module's ``scope``.

    Raises UsageError, beginning with ``where``, for one that cannot be read there.
    """
    found = {}
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            found.update(typing.get_type_hints(holder, dict(scope)))
        except Exception as error:  # an annotation is any expression
            raise UsageError(
                f"{where}: the type of parameter {name!r}, {annotation!r}, cannot be read ({error}); import what it "
                "names where the module can see it, not only for type checkers"
            ) from error
    return found


def parameter_types(kind: type[Step]) -> dict[str, Any]:
    """The types of a step's parameters, by name. Raises UsageError for one that cannot be read."""
    if not dataclasses.is_dataclass(kind):
        return {}
    names = {field.name for field in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        own = {name: note for name, note in vars(owner).get("__annotations__", {}).items() if name in names}
        found.update(resolved(own, vars(sys.modules[owner.__module__]), f"step {kind.name!r}"))
    return found


def check_parameters(step: Step) -> None:
    """Raise UsageError for the first parameter whose value is not of its type."""
    for name, type_ in parameter_types(type(step)).items():
        value = getattr(step, name)
        if (reason := _misfit(value, type_)) is not None:
            raise UsageError(f"step {step.name!r}: its parameter {name}={value!r}: {reason}")


def check_defaults(kind: type[Step]) -> None:
    """Raise UsageError for the first parameter whose type cannot be read, or whose default is not of it."""
    types = parameter_types(kind)
    if not dataclasses.is_dataclass(kind):
        return
    for field in dataclasses.fields(kind):
        given = field.default is not dataclasses.MISSING
        if given and (reason := _misfit(field.default, types[field.name])) is not None:
            raise UsageError(f"step {kind.name!r}: the default {field.name}={field.default!r}: {reason}")


def _misfit(value: Any, type_: Any) -> str | None:
    """Why a value is not of a type, or None."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    try:
        check_type(value, type_, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        return str(error)
    # To Python True is a number; where a number is asked for it is a mistake.
    if _holds_bool(value) and not _admits_bool(type_):
        return f"its type, {inspect.formatannotation(type_)}, names no bool"
    return None


def _holds_bool(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _holds_bool([*value.keys(), *value.values()])
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_bool, value))
    return isinstance(value, bool)


def _admits_bool(type_: Any) -> bool:
    """Whether a type names bool or what holds anything, as list does, in one of its parts."""
    parts = typing.get_args(type_)
    if typing.get_origin(type_) is typing.Literal:
        return any(isinstance(part, bool) for part in parts)
    if parts:
        return any(map(_admits_bool, parts))
    if hasattr(type_, "__supertype__"):
        return _admits_bool(type_.__supertype__)
    return type_ in (bool, object, Any) or hasattr(typing.get_origin(type_) or type_, "__class_getitem__")

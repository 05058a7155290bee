"""Check the values of a step's parameters against their type annotations."""

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


def resolve_types(annotations: Mapping[str, Any], scope: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Resolve annotations, which may be strings, to types in a module's ``scope``.

    Raises UsageError, with ``where`` in front, for an annotation that cannot be resolved there.
    """
    types_by_name = {}
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            types_by_name.update(typing.get_type_hints(holder, dict(scope)))
        except Exception as error:  # an annotation is an arbitrary expression
            raise UsageError(
                f"{where}: the type of parameter {name!r}, {annotation!r}, cannot be resolved ({error}); import it at "
                "the top of the module, not only under TYPE_CHECKING"
            ) from error
    return types_by_name


def parameter_types(kind: type[Step]) -> dict[str, Any]:
    """Return the types of a step's parameters by name. Raises UsageError for one that cannot be resolved."""
    if not dataclasses.is_dataclass(kind):
        return {}
    names = {field.name for field in dataclasses.fields(kind)}
    types_by_name: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        own = {name: note for name, note in vars(owner).get("__annotations__", {}).items() if name in names}
        types_by_name.update(resolve_types(own, vars(sys.modules[owner.__module__]), f"step {kind.name!r}"))
    return types_by_name


def check_parameters(step: Step) -> None:
    """Raise UsageError for the first parameter whose value does not match its type."""
    for name, type_ in parameter_types(type(step)).items():
        value = getattr(step, name)
        if (reason := _mismatch(value, type_)) is not None:
            raise UsageError(f"step {step.name!r}: parameter {name}={value!r}: {reason}")


def check_defaults(kind: type[Step]) -> None:
    """Raise UsageError for the first parameter whose type cannot be resolved, or whose default does not match it."""
    types = parameter_types(kind)
    if not dataclasses.is_dataclass(kind):
        return
    for field in dataclasses.fields(kind):
        has_default = field.default is not dataclasses.MISSING
        if has_default and (reason := _mismatch(field.default, types[field.name])) is not None:
            raise UsageError(f"step {kind.name!r}: the default {field.name}={field.default!r}: {reason}")


def _mismatch(value: Any, type_: Any) -> str | None:
    """The reason why a value does not match a type, or None."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    try:
        check_type(value, type_, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        return str(error)
    # Python accepts True as a number; as the value of a numeric parameter it is a mistake.
    if _holds_bool(value) and not _admits_bool(type_):
        return f"its type, {inspect.formatannotation(type_)}, does not include bool"
    return None


def _holds_bool(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _holds_bool([*value.keys(), *value.values()])
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_bool, value))
    return isinstance(value, bool)


def _admits_bool(type_: Any) -> bool:
    """Whether a type, or one of its arguments, is bool or accepts any value, as list does."""
    arguments = typing.get_args(type_)
    if typing.get_origin(type_) is typing.Literal:
        return any(isinstance(argument, bool) for argument in arguments)
    if arguments:
        return any(map(_admits_bool, arguments))
    if hasattr(type_, "__supertype__"):
        return _admits_bool(type_.__supertype__)
    return type_ in (bool, object, Any) or hasattr(typing.get_origin(type_) or type_, "__class_getitem__")

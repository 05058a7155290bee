"""The parameters of steps: which types they have, and whether the values given are of these."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.contracts import Step


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
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    for name, type_ in parameter_types(type(step)).items():
        value = getattr(step, name)
        try:
            check_type(value, type_, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            raise UsageError(f"step {step.name!r}: its parameter {name}={value!r}: {error}") from error

"""Whether a document has the form that a TypedDict declares: where it departs from it, in a few words."""

from __future__ import annotations

import functools
import reprlib
import types
from collections.abc import Callable, Mapping
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

#: The fault of a value, which begins with the place within it where that is deeper; or None.
Check = Callable[[Any], str | None]

CALLED: Mapping[type, str] = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}


def fault(value: Any, form: Any) -> str | None:
    """The first place where ``value``, read from JSON, departs from ``form``; None where it does not.

    ``form`` is a TypedDict, or a list, a dict with names, a union, or a plain type. Entries that it does not declare
    are allowed, as later versions add some.
    """
    found = _check(form)(value)
    return None if found is None else found.removeprefix(".") if found[0] in ".[" else f"it{found}"


@functools.cache
def _check(form: Any) -> Check:
    if form is Any:
        return lambda value: None
    if is_typeddict(form):
        return _typed_dict(form)
    origin, arguments = get_origin(form), get_args(form)
    if origin in (Union, types.UnionType):
        return _union(arguments)
    if origin is list:
        return _list(_check(arguments[0]))
    if origin is dict:
        return _dict(_check(arguments[1]))
    return _plain(form)


def _typed_dict(form: Any) -> Check:
    entries = []
    for name, hint in get_type_hints(form, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        entries.append((name, not optional, _check(get_args(hint)[0] if optional else hint)))

    def check(value: Any) -> str | None:
        if not isinstance(value, dict):
            return _wrong(value, "an object")
        for name, required, inner in entries:
            if name in value:
                if found := inner(value[name]):
                    return f".{name}{found}"
            elif required:
                return f".{name} is missing"
        return None

    return check


def _list(inner: Check) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, list):
            return _wrong(value, "a list")
        for place, entry in enumerate(value):
            if found := inner(entry):
                return f"[{place}]{found}"
        return None

    return check


def _dict(inner: Check) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, dict):
            return _wrong(value, "an object")
        for name, entry in value.items():
            if found := inner(entry):
                return f".{name}{found}"
        return None

    return check


def _union(forms: tuple[Any, ...]) -> Check:
    checks = [_check(form) for form in forms if form is not types.NoneType]
    nothing = types.NoneType in forms

    def check(value: Any) -> str | None:
        if value is None and nothing:
            return None
        first = None
        for inner in checks:
            found = inner(value)
            if found is None:
                return None
            first = first or found
        return first

    return check


def _plain(form: type) -> Check:
    allowed = (int, float) if form is float else form

    def check(value: Any) -> str | None:
        if isinstance(value, allowed) and (form is bool or not isinstance(value, bool)):
            return None
        return _wrong(value, CALLED[form])

    return check


def _wrong(value: Any, expected: str) -> str:
    return f" is {reprlib.repr(value)}, not {expected}"

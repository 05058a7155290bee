"""Keys: the hash of everything that an artefact depends on, and why two of them differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from harness.errors import UsageError

#: Raise it when the meaning of a key's document changes, so that old artefacts are no longer found.
SCHEMA = 1


def canonical(document: Any) -> str:
    """JSON with one spelling for one value: sorted names, no spaces, no NaN."""
    return json.dumps(plain(document), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def key_of(document: Any) -> str:
    """The SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def plain(value: Any) -> Any:
    """``value`` as what JSON has: dataclasses and mappings become objects, tuples and sets lists.

    A whole float becomes an integer, so that ``keep=1`` and ``keep=1.0`` are one key. Raises UsageError otherwise.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{value} has no JSON form: keys and records hold finite numbers")
        return int(value) if value.is_integer() else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise UsageError(f"a mapping in a key needs texts as names, not {list(value)!r}")
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(entry) for entry in value), key=canonical)
    if isinstance(value, (list, tuple, range)):
        return [plain(entry) for entry in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return plain(value.item())
    raise UsageError(f"{value!r} ({type(value).__name__}) has no JSON form, so no key or record can hold it")


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Why two documents have different keys, a line for each value that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            where = f"{path}.{name}" if path else str(name)
            if name not in old:
                yield f"{where}: only in the second: {canonical(new[name])}"
            elif name not in new:
                yield f"{where}: only in the first: {canonical(old[name])}"
            else:
                yield from differences(old[name], new[name], where)
    elif isinstance(old, list) and isinstance(new, list) and any(isinstance(entry, Mapping) for entry in (*old, *new)):
        yield from differences(dict(enumerate(old)), dict(enumerate(new)), path)
    elif canonical(old) != canonical(new):
        yield f"{path}: {canonical(old)} -> {canonical(new)}"

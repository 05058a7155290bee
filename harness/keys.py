"""Compute keys: hash everything that an artefact depends on, explain why two keys differ, and digest plugin code."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from harness.errors import UsageError

#: Raise it when the meaning of a key's document changes, so that old artefacts are no longer found.
SCHEMA = 1


def canonical(document: Any) -> str:
    """JSON with one spelling for one value: sorted names, no spaces, no NaN."""
    return json.dumps(to_jsonable(document), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def key_of(document: Any) -> str:
    """The SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def to_jsonable(value: Any) -> Any:
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
        return {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise UsageError(f"a mapping in a key needs texts as names, not {list(value)!r}")
        return {name: to_jsonable(entry) for name, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((to_jsonable(entry) for entry in value), key=canonical)
    if isinstance(value, (list, tuple, range)):
        return [to_jsonable(entry) for entry in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return to_jsonable(value.item())
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


#: The kernel's own steps raise their version; else every change of the kernel would have all models built anew.
KERNEL = "harness"


@functools.cache
def code_digest(kind: type) -> str | None:
    """16 hex digits for the code of the module that defines ``kind`` and of what that imports from its own package.

    Comments, docstrings and layout do not count. Imports within functions are followed too; what comes from other
    packages is not, nor what is looked up by its name at run time. None for the kernel's own classes, and where there
    is no source to read.
    """
    package = kind.__module__.partition(".")[0]
    if package == KERNEL:
        return None
    code: dict[str, str] = {}
    waiting, seen = [kind.__module__], set()
    while waiting:
        name = waiting.pop()
        found = None if name in seen else _module(name, package)
        seen.add(name)
        if found is not None:
            code[name], imported = found
            waiting += imported
    digest = hashlib.sha256(repr(sorted(code.items())).encode())
    return digest.hexdigest()[:16] if code else None


@functools.cache
def _module(name: str, package: str) -> tuple[str, list[str]] | None:
    """A module's code, and the modules of ``package`` that it imports; None where there is no source to read."""
    file = _file(name)
    if file is None:
        return None
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    imported = list(_imported(tree, name, file, package))
    return ast.unparse(_bare(tree)), imported


@functools.cache
def _file(name: str) -> Path | None:
    """The source file of a module, whether it was imported or not."""
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, AttributeError, ValueError):
            return None
        origin = None if spec is None else spec.origin
    return Path(origin) if isinstance(origin, str) and origin.endswith(".py") else None


def _is_package(name: str) -> bool:
    file = _file(name)
    return file is not None and file.name == "__init__.py"


def _imported(tree: ast.Module, name: str, file: Path, package: str) -> Iterator[str]:
    """The modules of ``package`` that the module ``name`` imports, by any of its statements."""
    parents = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found = [base]
            if base.partition(".")[0] == package and _is_package(base):
                # Modules out of a package, whose own __init__ may import all that there is.
                inner = [f"{base}.{alias.name}" for alias in node.names]
                found = [entry for entry in inner if _file(entry) is not None] or [base]
        yield from (entry for entry in found if entry.partition(".")[0] == package)


def _bare(tree: ast.Module) -> ast.Module:
    """The tree without its docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree

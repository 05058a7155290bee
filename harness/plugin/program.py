"""Digest the Python code that runs a deployed file, where the file does not hold the whole program itself."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import UsageError
from harness.keys import code_digest
from harness.plugin.manager import Plugins


def program_code(plugins: Plugins, runtime: str, architecture: str, step: str | None) -> dict[str, str]:
    """Return the digests of the code that runs a deployed file, by kind and name of what the code defines.

    They are empty if the file holds the whole program. ``step`` is the one that restores the network; None for the
    default. Raises UsageError for a name that is not registered.
    """
    if plugins.runtimes.get(runtime).holds_program:
        return {}
    names = [f"architecture {architecture}", f"runtime {runtime}", *([] if step is None else [f"step {step}"])]
    return {name: _digest(plugins, name) for name in names}


def present_code(plugins: Plugins, names: Iterable[str]) -> dict[str, str]:
    """Return the digests of the code of these names, such as "architecture cnn", without those not registered."""
    digests = {}
    for name in names:
        try:
            digests[name] = _digest(plugins, name)
        except UsageError:
            continue
    return digests


def _digest(plugins: Plugins, name: str) -> str:
    """The digest of the code of a name; the version of its distribution stands for code without readable source."""
    kind, _, thing_name = name.partition(" ")
    registry = next(registry for registry in plugins.registries.values() if registry.kind == kind)
    thing, origin = registry.get(thing_name), registry.origin(thing_name)
    return code_digest(thing if isinstance(thing, type) else type(thing)) or f"{origin.id} {origin.version}"

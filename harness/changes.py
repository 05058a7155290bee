"""What changed between two records of one cell, in a person's words: from the keys' documents and the surroundings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from harness.keys import canonical, differences
from harness.record import Record

Documents = Mapping[str, Mapping[str, Any]]
#: Of what a worker verifies, and of the machine, what has a bearing on its times.
ENVIRONMENT = ("allocator", "threads", "interop_threads", "onednn", "cpu_capability")
MACHINE = ("cpu", "cpus", "kernel", "microcode", "governor", "turbo", "cpu_quota", "memory_bytes")


def changes(old: Record, new: Record, old_documents: Documents, new_documents: Documents) -> list[str]:
    """A line for each thing that differs: steps and their parameters, plugins, data, versions, profile, machine.

    The documents are those of the two runs' files; without them the steps are compared as the suites wrote them. A
    model that differs though nothing that its key knows does, is said to.
    """
    lines = list(_artefact(old, new, old_documents, new_documents))
    if not lines and old["artefact"]["sha256"] != new["artefact"]["sha256"]:
        lines.append("the deployed file: other bytes, though nothing that the key knows differs")
    return list(dict.fromkeys([*lines, *surroundings(old, new)]))


def surroundings(old: Record, new: Record) -> list[str]:
    """A line for each thing that differs around the model: versions, machine, environment of the timing."""
    machines = [{name: (record.get("machine") or {}).get(name) for name in MACHINE} for record in (old, new)]
    return [
        *_differing("", old["versions"], new["versions"]),
        *_differing("machine ", *machines),
        *_differing("profile ", environment(old), environment(new)),
    ]


def _differing(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{what}{name}: {_shown(before[name])} -> {_shown(now[name])}"
        for name in sorted(before)
        if name in now and before[name] != now[name]
    ]


def environment(record: Record) -> dict[str, Any]:
    """How the cell was timed, as its workers verified it; empty when it was not."""
    timing = record["timing"]
    found = timing["environment"][0] if timing is not None and timing["environment"] else {}
    return {name: found[name] for name in ENVIRONMENT if name in found}


def _artefact(old: Record, new: Record, old_documents: Documents, new_documents: Documents) -> Iterator[str]:
    if old["artefact"]["key"] == new["artefact"]["key"]:
        return
    before = _lineage(old["artefact"]["key"], old_documents)
    now = _lineage(new["artefact"]["key"], new_documents)
    if not before or not now:
        recipes = [" > ".join(entry["step"] for entry in record["steps"]) for record in (old, new)]
        if recipes[0] != recipes[1]:
            yield f"steps: {recipes[0]} -> {recipes[1]}"
        return
    for first, second in zip_longest(before, now):
        if first is None or second is None:
            verb, only = ("added", second) if first is None else ("removed", first)
            yield f"step {only['step']} {verb}"
            continue
        # That the parents differ is told by their own lines.
        before_own, now_own = ({name: entry[name] for name in entry if name != "parent"} for entry in (first, second))
        yield from (f"{second.get('step', 'network')}: {line}" for line in differences(before_own, now_own))


def _lineage(key: str, documents: Documents) -> list[Mapping[str, Any]]:
    """The documents from the fresh network to ``key``; empty where one is missing."""
    lineage: list[Mapping[str, Any]] = []
    wanted: str | None = key
    while wanted is not None:
        document = documents.get(wanted)
        if document is None:
            return []
        lineage.insert(0, document)
        wanted = document.get("parent")
    return lineage


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)

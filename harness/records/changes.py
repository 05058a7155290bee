"""Describe how two records of one cell differ, apart from their figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from harness.keys import differences, schema_change
from harness.records.machine_id import ENTRIES
from harness.records.record import Record

#: The key documents of a run file, by key; a key is the hash of its document.
Documents = Mapping[str, Mapping[str, Any]]
#: The documents from the fresh network to a key, one a step.
Lineage = list[Mapping[str, Any]]
#: The entries of a worker's environment that must be equal for two runs' ratios to be compared.
ENVIRONMENT = ("allocator", "threads", "interop_threads", "onednn", "cpu_capability")
#: The entries of a worker's environment that differ between processes, or that ``versions`` repeats.
IGNORED = ("pid", "affinity", "torch", "python", "library")
#: The length of an abbreviated key; ``harness explain`` accepts it.
DIGITS = 12


def changes(old: Record, new: Record, old_documents: Documents, new_documents: Documents) -> list[str]:
    """Return a line for each difference of the cell and of its surroundings."""
    return [*cell_changes(old, new, old_documents, new_documents), *surrounding_changes(old, new)]


def cell_changes(old: Record, new: Record, old_documents: Documents, new_documents: Documents) -> list[str]:
    """Return a line for each difference of steps, parameters, code, plugins, data, reference or test examples.

    Without the documents of both run files, and when the keys have different schemas, it compares the steps as the
    suites wrote them. A line says when the deployed files differ although their keys are equal, and when they
    differ and keys of different schemas cannot explain it.
    """
    return list(dict.fromkeys(_cell_changes(old, new, old_documents, new_documents)))


def surrounding_changes(old: Record, new: Record) -> list[str]:
    """Return a line for each difference of the machine, its software, and the timing environment."""
    before, now = _facts(old), _facts(new)
    machines = [old.fingerprint, new.fingerprint]
    lines = [f"machine {machines[0]} -> {machines[1]}"] if machines[0] != machines[1] else []
    return lines + [
        f"{name} {before.get(name, '-')} -> {now.get(name, '-')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def timing_environment(record: Record) -> dict[str, Any]:
    """Return the entries of the timing environment that affect latency, and the pace; empty if not timed."""
    timing = record.timing
    if timing is None:
        return {}
    verified = timing.environment[0] if timing.environment else {}
    return {name: verified[name] for name in ENVIRONMENT if name in verified} | {"pace": timing.pace}


def _cell_changes(old: Record, new: Record, old_documents: Documents, new_documents: Documents) -> Iterator[str]:
    before, now = old.artefact, new.artefact
    lineages = _lineage(before.key, old_documents), _lineage(now.key, new_documents)
    across_schemas = schema_change(*lineages) if all(lineages) else None
    if before.key != now.key:
        lines = [] if across_schemas else list(_lineage_changes(*lineages))
        recipes = [" > ".join(entry.step for entry in record.steps) for record in (old, new)]
        if not lines and recipes[0] != recipes[1]:
            lines = [f"steps {recipes[0]} -> {recipes[1]}"]
        elif across_schemas:
            lines = [across_schemas] if before.sha256 != now.sha256 else []
        yield from lines or ([] if across_schemas else [f"artefact {before.key[:DIGITS]} -> {now.key[:DIGITS]}"])
    elif before.sha256 != now.sha256:
        yield "the bytes of the deployed file differ, although its key is the same"
    if code := changed_code(old, new):
        yield f"code of {', '.join(code)}"
    if not old.is_reference:
        first, second = old.reference_artefact, new.reference_artefact
        if across_schemas and first.sha256 != second.sha256:
            yield across_schemas
        elif not across_schemas and first.key != second.key:
            yield f"reference's artefact {first.key[:DIGITS]} -> {second.key[:DIGITS]}"
    if old.test_examples != new.test_examples:
        yield f"test examples {old.test_examples} -> {new.test_examples}"


def _lineage_changes(before: Lineage, now: Lineage) -> Iterator[str]:
    """Yield the differences of two lineages, step by step; nothing if either is empty."""
    for first, second in zip_longest(before, now) if before and now else ():
        if first is None or second is None:
            verb, only = ("added", second) if first is None else ("removed", first)
            yield f"step {only['step']} {verb}"
            continue
        # The differences of the parents are yielded on their own.
        before_own, now_own = ({name: entry[name] for name in entry if name != "parent"} for entry in (first, second))
        yield from (f"{second.get('step', 'network')}: {line}" for line in differences(before_own, now_own))


def _lineage(key: str, documents: Documents) -> Lineage:
    """Return the documents from the fresh network to ``key``; empty if one of them is missing."""
    lineage: Lineage = []
    current: str | None = key
    while current is not None:
        document = documents.get(current)
        if document is None:
            return []
        lineage.insert(0, document)
        current = document.get("parent")
    return lineage


def documented_code(key: str, documents: Documents) -> dict[str, str]:
    """Return the digest of the architecture's code that the key documents hold, as `Record.code` names it."""
    for document in _lineage(key, documents)[:1]:
        network, root = document.get("architecture"), document.get("root")
        if isinstance(network, Mapping) and isinstance(root, Mapping) and isinstance(network.get("code"), str):
            return {f"architecture {root.get('architecture')}": network["code"]}
    return {}


def changed_code(old: Record, new: Record) -> list[str]:
    """Return the names of the code that ran both records' models, and differs."""
    now = new.code or {}
    return [name for name, digest in (old.code or {}).items() if now.get(name, digest) != digest]


def _facts(record: Record) -> dict[str, str]:
    """Return versions, timing environment, and the facts of the machine that its fingerprint omits."""
    facts: dict[str, str] = {name: str(value) for name, value in record.versions.items()}
    facts |= {name: _format(value) for name, value in record.machine.items() if name not in ENTRIES}
    timing = record.timing
    if timing is not None:
        facts["pace"] = timing.pace
        workers = timing.environment
        for name in dict.fromkeys(name for worker in workers for name in worker if name not in IGNORED):
            facts[name] = ", ".join(dict.fromkeys(_format(worker.get(name)) for worker in workers))
    return facts


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unknown" if value is None else str(value)

"""Describe what differs between two records of one cell, other than its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from harness.keys import differences, schema_change
from harness.records.machine_id import ENTRIES
from harness.records.record import Record

#: The documents that the keys of artefacts are hashes of, by key, as a run file holds them.
Documents = Mapping[str, Mapping[str, Any]]
#: The documents that lead to a key, from the fresh network on.
Lineage = list[Mapping[str, Any]]
#: The entries of a worker's environment that must be equal for two runs' ratios to be compared.
ENVIRONMENT = ("allocator", "threads", "interop_threads", "onednn", "cpu_capability")
#: The entries of a worker's environment that differ from process to process, or that ``versions`` repeats.
PASSING = ("pid", "affinity", "torch", "python", "library")
#: This many digits tell keys and hashes apart; ``harness explain`` accepts them.
DIGITS = 12


def changes(old: Record, new: Record, old_documents: Documents, new_documents: Documents) -> list[str]:
    """A line for each thing that differs: in what the cell is, and around it."""
    return [*of_the_cell(old, new, old_documents, new_documents), *around_it(old, new)]


def of_the_cell(old: Record, new: Record, old_documents: Documents, new_documents: Documents) -> list[str]:
    """A line for each difference in steps and their parameters, code, plugins, data, the reference, the test examples.

    Without the documents of both run files, and when the keys have different schemas, it compares the steps as the
    suites wrote them. A line says when the deployed files differ although their keys are equal, and when they
    differ and keys of different schemas cannot explain it.
    """
    return list(dict.fromkeys(_of_the_cell(old, new, old_documents, new_documents)))


def around_it(old: Record, new: Record) -> list[str]:
    """A line for each difference in the machine, its software, and how the cell was timed."""
    before, now = _surroundings(old), _surroundings(new)
    machines = [old.fingerprint, new.fingerprint]
    lines = [f"machine {machines[0]} -> {machines[1]}"] if machines[0] != machines[1] else []
    return lines + [
        f"{name} {before.get(name, '-')} -> {now.get(name, '-')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def environment(record: Record) -> dict[str, Any]:
    """The environment of the timing that its times depend on, as a worker verified it; empty where there is none."""
    timing = record.timing
    verified = timing.environment[0] if timing is not None and timing.environment else {}
    return {name: verified[name] for name in ENVIRONMENT if name in verified}


def _of_the_cell(old: Record, new: Record, old_documents: Documents, new_documents: Documents) -> Iterator[str]:
    before, now = old.artefact, new.artefact
    lineages = _lineage(before.key, old_documents), _lineage(now.key, new_documents)
    across_schemas = schema_change(*lineages) if all(lineages) else None
    if before.key != now.key:
        lines = [] if across_schemas else list(_artefact(*lineages))
        recipes = [" > ".join(entry.step for entry in record.steps) for record in (old, new)]
        if not lines and recipes[0] != recipes[1]:
            lines = [f"steps {recipes[0]} -> {recipes[1]}"]
        elif across_schemas:
            lines = [across_schemas] if before.sha256 != now.sha256 else []
        yield from lines or ([] if across_schemas else [f"artefact {before.key[:DIGITS]} -> {now.key[:DIGITS]}"])
    elif before.sha256 != now.sha256:
        yield "the deployed file has other bytes, although its key is the same"
    if not old.is_reference:
        first, second = old.reference_artefact, new.reference_artefact
        if across_schemas and first.sha256 != second.sha256:
            yield across_schemas
        elif not across_schemas and first.key != second.key:
            yield f"reference's artefact {first.key[:DIGITS]} -> {second.key[:DIGITS]}"
    if old.test_examples != new.test_examples:
        yield f"test examples {old.test_examples} -> {new.test_examples}"


def _artefact(before: Lineage, now: Lineage) -> Iterator[str]:
    """What differs between two keys' documents, step by step; nothing where a document is missing."""
    for first, second in zip_longest(before, now) if before and now else ():
        if first is None or second is None:
            verb, only = ("added", second) if first is None else ("removed", first)
            yield f"step {only['step']} {verb}"
            continue
        # The parents have lines of their own.
        before_own, now_own = ({name: entry[name] for name in entry if name != "parent"} for entry in (first, second))
        yield from (f"{second.get('step', 'network')}: {line}" for line in differences(before_own, now_own))


def _lineage(key: str, documents: Documents) -> Lineage:
    """The documents from the fresh network to ``key``; empty where one of them is missing."""
    lineage: Lineage = []
    wanted: str | None = key
    while wanted is not None:
        document = documents.get(wanted)
        if document is None:
            return []
        lineage.insert(0, document)
        wanted = document.get("parent")
    return lineage


def _surroundings(record: Record) -> dict[str, str]:
    """The versions, the timing's environment, and the facts of the machine that are not in its fingerprint."""
    facts: dict[str, str] = {name: str(value) for name, value in record.versions.items()}
    facts |= {name: _shown(value) for name, value in record.machine.items() if name not in ENTRIES}
    timing = record.timing
    if timing is not None:
        facts["processes"] = str(timing.processes)
        workers = timing.environment
        for name in dict.fromkeys(name for worker in workers for name in worker if name not in PASSING):
            facts[name] = ", ".join(dict.fromkeys(_shown(worker.get(name)) for worker in workers))
    return facts


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unknown" if value is None else str(value)
